"""`neuralign list`: what the config has of a kind, and what each of it is."""

import sys
import textwrap
from collections.abc import Iterator
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from neuralign.cli.configs import Config, UsageError, load_catalogue, load_config
from neuralign.cli.interface import completions
from neuralign.cli.interface.options import ConfigFiles
from neuralign.common.logs.progress import track
from neuralign.common.tables import align_columns
from neuralign.config.catalogue import Catalogue
from neuralign.config.metrics import metrics_of
from neuralign.config.problems import did_you_mean
from neuralign.config.references import is_foreign, is_hub
from neuralign.config.schema import PLUGIN_SECTIONS, SECTIONS
from neuralign.config.signatures import module_docstring, plugins

DESCRIPTION = """List what the config has of a kind, with its plug-in, its options and what it is.

Kinds are the sections of the config, and `metrics`, what each objective of a training measures. `--method` takes the
alignments beside plug-ins (in `merge` and `landscape` those without `start`, `augmented` and `attacked`); a method, a
row of a study's tables, is an alignment and a curve. `neuralign plan STUDY` says how many hours a study takes, and
docs/config.md what all options mean.
"""
EXAMPLES = [
    "neuralign list studies",
    "neuralign list alignments --json",
    "neuralign list networks --configfile mine.yaml",
]
KINDS = [*SECTIONS, "metrics"]
LONG, NARROWEST = 16, 24  # characters: of an option whose value is left out, and of the last column on a terminal


def run(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"one of {', '.join(KINDS)}", autocompletion=completions.words(*KINDS))
    ],
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """A table with a row for each entry."""
    if kind not in KINDS:
        raise UsageError(f"KIND: found {kind!r}{did_you_mean(kind, KINDS)} (allowed: {', '.join(KINDS)})")
    catalogue = load_catalogue(configfile)
    if kind == "studies":
        rows = list(_studies(catalogue))
    elif kind == "metrics":
        rows = list(_metrics())
    else:
        config = load_config(configfile)
        rows = list(_with_plugins(catalogue, config, kind) if kind in PLUGIN_SECTIONS else _settings(config, kind))
    return 0, {kind: rows}, _table(rows) if rows else f"the config has no {kind}"


def _with_plugins(catalogue: Catalogue, config: Config, section: str) -> Iterator[dict[str, Any]]:
    """Name, plug-in, options and description of the entries of a section that name a plug-in."""
    for name, keys in (config.get(section) or {}).items():
        entry = catalogue.entry(section, name)
        if entry is not None:
            use = entry.get("use", name)
            text = (
                f"the {'network of the hub' if is_hub(use) else 'object'} {use}"
                if is_foreign(use)
                else _first_line(module_docstring(section, use))
            )
            options = {key: value for key, value in (keys or {}).items() if key not in ("use", "overrides")}
            yield {"name": name, "plug-in": use, "options": options, "what": text}


def _settings(config: Config, section: str) -> Iterator[dict[str, Any]]:
    """Name and settings, as the config has them, of the entries of a section without plug-ins."""
    for name, keys in (config.get(section) or {}).items():
        yield {"name": name, "settings": {key: value for key, value in (keys or {}).items() if key != "overrides"}}


def _studies(catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """Name, number of jobs and title of every study."""
    from neuralign.workflow.graph import jobs

    for name, study in track(catalogue.studies.items(), "counting jobs", len(catalogue.studies)):
        yield {"name": name, "jobs": sum(1 for _ in jobs(catalogue, name)), "what": study["title"]}


def _metrics() -> Iterator[dict[str, Any]]:
    """Name, objective and description of all that objectives measure."""
    for objective in plugins("objectives"):
        for quantity in metrics_of(objective).quantities:
            text = f"{quantity.label}{f' in {quantity.unit}' if quantity.unit else ''}"
            yield {"name": quantity.name, "objective": objective, "what": text}


def _first_line(docstring: str) -> str:
    return docstring.partition("\n\n")[0].replace("\n", " ")


def _table(rows: list[dict[str, Any]]) -> str:
    """A line for each row; on a terminal the last column is wrapped."""
    cells = [list(rows[0])]
    for row in rows:
        *values, last = row.values()
        cells.append([*(_as_text(value, longest=LONG) for value in values), _as_text(last)])
    if not sys.stdout.isatty():
        return align_columns(cells)
    used = sum(max(map(len, column)) + 2 for column in zip(*(row[:-1] for row in cells), strict=True))
    width = max(get_terminal_size().columns - used, NARROWEST)
    lines: list[list[str]] = []
    for *beginning, what in cells:
        first, *more = textwrap.wrap(what, width) or [""]
        lines += [[*beginning, first], *([*("" for _ in beginning), line] for line in more)]
    return align_columns(lines)


def _as_text(value: Any, longest: float = float("inf")) -> str:
    """A value in a cell: options as `depth=32 width=8`, and of those above `longest` characters the name alone."""
    if isinstance(value, list):
        return ", ".join(map(_as_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]  # as the config has them
    if not isinstance(value, dict):
        return str(value)
    texts = {
        key: f"({_as_text(option)})" if isinstance(option, dict) else _as_text(option) for key, option in value.items()
    }
    return " ".join(f"{key}={text if len(text) <= longest else '...'}" for key, text in texts.items())
