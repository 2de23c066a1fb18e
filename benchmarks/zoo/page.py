"""The table as a page of Markdown: one part for each library."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from benchmarks.zoo.independent import TOLERANCE

ENOUGH, ENOUGH_OF_ATTENTION = 0.8, 0.5  # targets for the share of parameters that may be permuted

Row = dict[str, Any]
# heading -> the cell of a row; columns with only empty cells are left out
COLUMNS: dict[str, Callable[[Row], str]] = {
    "network": lambda row: row["network"] + ("" if row["certified"] else " **refused**"),
    "parameters (million)": lambda row: f"{row['parameters'] / 1e6:{'.1f' if row['parameters'] > 5e4 else '.3f'}}",
    "groups": lambda row: f"{row['groups']:.0f}",
    "permutable": lambda row: f"{row['permutable']:.3f}",
    "fixed": lambda row: f"{row['fixed']:.0f}",
    "most frequent reason": lambda row: _format_text(row["reason"]),
    "outputs": lambda row: f"{row['outputs']:.0e}",
    "gradients": lambda row: f"{row['gradients']:.0e}",
    "precision": lambda row: "" if row["precision"] == "float64" else _format_text(row["precision"]),
    "peak (GiB)": lambda row: _format_number(row["peak"], ".2f"),
    "tracing (s)": lambda row: f"{row['seconds']:.2f}",
    "recovered": lambda row: (
        _format_number(row["recovered"], ".3f") + ("" if pd.isna(row["recovered_failure"]) else "refused")
    ),
    "with attention": lambda row: ", ".join(
        filter(None, (_format_number(row["attention"], ".3f"), _format_number(row["attention_error"], ".0e")))
    ),
    "check, evaluation": lambda row: _format_check(row["evaluation"]),
    "check, training": lambda row: _format_check(row["training"]),
    "noticed": lambda row: _format_number(row["noticed"], ".1f"),
    "all (s)": lambda row: _format_number(row["whole_seconds"], ".1f"),
}

MEANINGS = """\
- groups: the number of sets of units that may be permuted, each independently of the others.
- permutable: the share of parameters that a permutation of some group moves.
- fixed: the number of axes of tensors that stay as they are, besides the channels of the images and
  the classes; next to it the most frequent reason.
- outputs, gradients: their largest change under a random permutation of all groups, relative to
  their size, in float64 or the named precision (see docs/measurements.md on large networks).
- peak: the most memory that the process had at once until then, libraries included.
- recovered: the share of units that `na.align` puts back in place, by activation matching on 96
  random inputs, after a random permutation of the network and noise of 0.001 of the standard
  deviation of each matrix (networks with up to 51 million parameters).
- with attention: the permutable share and the larger of both changes if heads and channels of
  attentions may be permuted too (networks with up to 100 million parameters).
- check: a check that does not use the library's certificate. Tensors under a random permutation of
  all groups, those of attentions included, are loaded into a new network by `load_state_dict`, and
  it is called on three new inputs in float64. Given is the largest change of an output, in training
  mode (without dropout) also of a buffer, relative to the largest value.
- noticed: the share of failures of this check when ten tensors are left unpermuted, one at a time.
  It is below 1 where some of them change no output, such as the biases of keys.
- all: seconds for the whole row, without the import of the libraries.
"""


def page(rows: pd.DataFrame, names_of: dict[str, list[str]]) -> str:
    """The page. `names_of`: all networks of each library; those without a row are listed as not measured."""
    lines = ["# Networks of torchvision, timm and transformers", ""]
    lines += ["As initialised, traced on two random inputs (`python -m benchmarks.zoo`; times on a busy machine).", ""]
    lines += MEANINGS.splitlines()
    for library, names in names_of.items():
        measured = rows[rows.library == library]
        if len(measured):
            lines += ["", f"## {library}", "", *_summarise(library, measured, names), "", *_format_table(measured)]
    return "\n".join(lines) + "\n"


def _summarise(library: str, rows: pd.DataFrame, names: list[str]) -> list[str]:
    """How many networks were measured, how many are certified, and which are not."""
    done = rows[rows.failure.isna()]
    pairs = sorted(set(zip(rows.version, rows.torch, strict=True)))
    versions = ", ".join(f"{library} {version} with torch {torch}" for version, torch in pairs)
    good = done[done.certified.astype(bool)]
    has_attention = good.attention.notna() | good.reason.fillna("").str.contains("attention")
    least = has_attention.map({True: ENOUGH_OF_ATTENTION, False: ENOUGH})
    lines = [f"{len(rows)} networks of {versions}. Certified: {len(good)}; of these"]
    free = int((good.permutable >= least).sum())
    lines.append(f"at least {ENOUGH} (attention: {ENOUGH_OF_ATTENTION}) permutable: {free}.")
    checked = done[done.evaluation.notna()]
    if len(checked):
        wrong = checked[~((checked.evaluation <= TOLERANCE) & (checked.training <= TOLERANCE))]
        lines.append(f"Independent check: {len(checked) - len(wrong)} of {len(checked)} within {TOLERANCE:.0e}.")
        if len(wrong):
            lines.append(f"**Contradicted**: {', '.join(wrong.network)}.")
    if missing := sorted(set(names) - set(rows.network)):
        lines.append(f"Not measured: {', '.join(missing)}.")
    if len(rows) > len(done):
        lines.append("")
    lines += [f"- {row.network}: not examined: {row.failure}" for row in rows[rows.failure.notna()].itertuples()]
    return lines


def _format_table(rows: pd.DataFrame) -> list[str]:
    done = rows[rows.failure.isna()].sort_values("network").to_dict("records")
    cells = {heading: [cell(row) for row in done] for heading, cell in COLUMNS.items()}
    kept = {heading: column for heading, column in cells.items() if any(column)}
    lines = [list(kept), ["---"] * len(kept), *map(list, zip(*kept.values(), strict=True))]
    return ["|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |" for line in lines]


def _format_check(change: float) -> str:
    """A change that the check found, with a mark if it exceeds the tolerance."""
    return _format_number(change, ".0e") + (" **!**" if change > TOLERANCE else "")


def _format_number(value: float, style: str) -> str:
    return "" if pd.isna(value) else f"{value:{style}}"


def _format_text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
