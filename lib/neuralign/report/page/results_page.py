"""Writes docs/results.md, and the results in README.md, from the published bundles: no number in them is typed by hand.

    python -m neuralign.report.page.results_page results/published docs/results.md README.md

A bundle is what `neuralign publish` made; everything is read from its tables and its notes of origin.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from neuralign.common.files import atomic
from neuralign.common.quantities import Metrics
from neuralign.config.metrics import metrics_of
from neuralign.report.claims.claims import NOT_MEASURED
from neuralign.report.costs import one_for_each_job
from neuralign.report.labels import SETTING, label
from neuralign.report.page import findings, merge_tables, paper_tables
from neuralign.report.page.formatting import NONE, Rows, Table, capital, groups, listed, number, spread
from neuralign.report.page.markdown import list_item, markdown_table, rows_as_markdown, wrapped
from neuralign.report.page.page import (
    cohort_table,
    contrast_table,
    facts,
    individual_table,
    main_table,
    origin,
    robust_tables,
)

INTRODUCTION = """\
# Published results

<!-- Written by `make results` from results/published: change nothing here. -->

Every study below was computed by this workflow. Its trained networks, permutations, curves, tables,
figures and report lie in `results/published/<study>`, each file with a note of its origin. The
command `neuralign restore results/published/<study>` checks all of them and puts them where the
workflow looks for them; after that `snakemake <study>` computes only what you have changed. (Those
that are older than this command can only be verified:
[results/published](../results/published/README.md) says which.) What the columns mean:
[outputs.md](outputs.md).
"""
MARKS = ("<!-- results: begin, written by `make results` -->", "<!-- results: end -->")  # around README's results
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Bundle:
    """The published results of one study."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def notes(self) -> list[Mapping[str, Any]]:
        """The notes of origin of all results, one for each job."""
        files = sorted(p for p in self.folder.rglob("*.json") if p.relative_to(self.folder).parts[0] != "recipes")
        return one_for_each_job(json.loads(file.read_text()) for file in files)

    @cached_property
    def study(self) -> Mapping[str, Any]:
        """The config of the study."""
        settings: Mapping[str, Any] = next(n for n in self.notes if n["rule"] == "report")["settings"]["study"]
        return settings

    @cached_property
    def metrics(self) -> Metrics:
        """What the study measures."""
        settings = next(n for n in self.notes if n["rule"] == "report")["settings"]
        return metrics_of(**settings.get("measured", {}))

    def table(self, name: str) -> pd.DataFrame:
        """One of the study's tables; without rows if the study has none of this name."""
        file = self.folder / "studies" / self.name / "tables" / f"{name}.csv"
        return pd.read_csv(file) if file.exists() else pd.DataFrame()

    def figure(self, start: str) -> Path | None:
        """The first figure whose name begins so."""
        return next(iter(sorted((self.folder / "studies" / self.name / "figures").glob(f"{start}*.png"))), None)


def bundles(folder: Path) -> list[Bundle]:
    """The bundles in a folder, by name; those without a report, which are not finished, are left out."""
    found = [Bundle(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [bundle for bundle in found if (bundle.folder / "studies" / bundle.name / "report.html").exists()]


def for_readme(published: Iterable[Bundle]) -> Bundle:
    """The bundle that README shows: the one whose endpoints were trained for the most epochs."""
    return max(published, key=lambda b: max(_epochs(note) for note in b.notes))


def _epochs(note: Mapping[str, Any]) -> int:
    return note["settings"]["training"]["epochs"] if note["rule"] == "train_endpoint" else 0


def page(published: Iterable[Bundle], where: Path) -> str:
    """The page as Markdown; `where` is the folder it lies in, from which its links lead to the figures."""
    published = list(published)
    chapters = [INTRODUCTION.rstrip(), "## The paper's claims", markdown_table(claims_table(published))]
    for bundle in published:
        chapters += _chapter(bundle, where)
    return "\n\n".join(chapters) + "\n"


def _chapter(bundle: Bundle, where: Path) -> list[str]:
    accuracy, robust, paths, contrasts = (bundle.table(n) for n in ("accuracy", "robust", "paths", "contrasts"))
    claims, published, metrics = bundle.table("claims"), bundle.table("published"), bundle.metrics
    parts = [f"## {bundle.study['title']}", wrapped(bundle.study["description"]), _figure(bundle, where)]
    parts += ["### What was run", _list({**facts(accuracy, paths, metrics), **_trainings(bundle.study)})]
    parts += ["### Findings", "\n".join(list_item(sentence) for sentence in findings.sentences(contrasts, metrics))]
    names = listed(q.label for q in {**dict.fromkeys(metrics.scores), metrics.loss: None})
    parts += [f"### {capital(names)}", markdown_table(main_table(accuracy, metrics))]
    if len(robust):
        parts += ["### Under attack", *map(markdown_table, robust_tables(robust))]
    if len(merges := bundle.table("merges")):
        by_pair, differences = bundle.table("merges_by_pair"), bundle.table("merges_contrasts")
        section = merge_tables.section(merges, by_pair, differences, bundle.notes)
        parts += ["### One network out of two", *map(wrapped, section["sentences"])]
        parts += map(markdown_table, section["tables"])
    if len(cohorts := bundle.table("cohorts")):
        parts += ["### One network out of several", markdown_table(cohort_table(cohorts, metrics))]
    if len(here := published[published["verdict"] != "not run"]):
        parts += [
            "### Beside the published numbers",
            _schedules(bundle),
            markdown_table(paper_tables.cells_table(here)),
        ]
    parts += ["### The paper's claims", _verdicts(claims), markdown_table(paper_tables.claims_table(claims))]
    parts += ["### Paired differences", markdown_table(contrast_table(contrasts, metrics))]
    parts += ["### Each path", markdown_table(individual_table(paths, metrics))]
    parts += ["### Cost and origin", markdown_table(cost_table(bundle.notes)), _list(origin(bundle.notes))]
    return [part for part in parts if part]


def claims_table(published: Iterable[Bundle]) -> Table:
    """A row for each claim of the paper with its verdict in each study that measures one."""
    sentences: dict[str, str] = {}
    verdicts: dict[str, dict[str, str]] = {}  # of each study, by claim
    for bundle in published:
        for claim, (sentence, verdict) in paper_tables.verdicts_by_claim(bundle.table("claims")).items():
            sentences.setdefault(claim, sentence)
            if verdict != NOT_MEASURED:
                verdicts.setdefault(bundle.name, {})[claim] = verdict
    rows = [[text, *(of.get(claim, NONE) for of in verdicts.values())] for claim, text in sentences.items()]
    caption = "A claim is supported or contradicted only where a 95 % t-interval over the pairs of a study lies on one "
    caption += "side of zero, or of the bound in its sentence; mixed: its measures differ. A dash: not measured there."
    return Table(caption, ["Claim", *verdicts], [("", rows)])


def short_table(bundle: Bundle) -> str:
    """The main table without losses, as README shows it."""
    accuracy, score = bundle.table("accuracy"), bundle.metrics.headline
    has_published = accuracy["published_source"].notna().any()

    def rows(r: dict[str, Any]) -> Rows:
        row = [label(r["method"]), *(spread(r, name, score.decimals) for name in (score.mean, score.worst))]
        return [[*row, *(spread(r, f"published_{w}", 1) for w in ("mean", "min") if has_published)]]

    head = ["", "mean on the path", "worst point", *(["published mean", "published worst"] if has_published else [])]
    parts = groups(accuracy, SETTING, rows)
    tables = [rows_as_markdown(head, cells) for _, cells in parts]
    titles = [f"{title}:\n\n" if len(parts) > 1 else "" for title, _ in parts]
    return "\n\n".join(title + table for title, table in zip(titles, tables, strict=True))


def readme_part(bundle: Bundle, where: Path) -> str:
    """The results of one study as README shows them: figure, table, findings."""
    pairs = int(bundle.table("paths")["pair"].nunique())
    score = bundle.metrics.headline
    unit = f" in {score.unit}" if score.unit else ""
    text = f"{bundle.study['title']}: test {score.label}{unit}, mean ± sample standard deviation over {pairs} pairs."
    return "\n\n".join([_figure(bundle, where), wrapped(f"{text} {bundle.study['description']}"), short_table(bundle)])


def with_results(readme: str, part: str) -> str:
    """The text of README.md with `part` between the marks. Raises ValueError if the marks are not there once."""
    before, mark, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise ValueError(f"README has no place for results: the lines {MARKS[0]} and {MARKS[1]} are needed")
    return f"{before}{MARKS[0]}\n\n{part}\n\n{MARKS[1]}{after}"


def cost_table(notes: Iterable[Mapping[str, Any]]) -> Table:
    """Hours by rule and device, from one note for each job."""
    jobs = pd.DataFrame(
        [
            (n["rule"], f"{n['device']}, {_threads(n)}", n["seconds"], n["seconds"] * n.get("cpu_use", float("nan")))
            for n in notes
        ],
        columns=["rule", "device", "seconds", "cpu"],
    ).astype({"seconds": float, "cpu": float})

    def row(rule: str, device: str, part: pd.DataFrame) -> list[str]:
        hours = (part[column].sum(skipna=False) / SECONDS_PER_HOUR for column in ("seconds", "cpu"))
        return [rule, device, str(len(part)), *map(number, hours)]

    rows = [row(str(rule), str(device), part) for (rule, device), part in jobs.groupby(["rule", "device"])]
    caption = "Hours of the jobs, added up; several may have run at once, and waited for each other or for other "
    caption += "programs. Processor hours: in which they had a processor, counted once for each; a dash: not recorded."
    head = ["Rule", "Device", "Jobs", "Hours", "Processor hours"]
    return Table(caption, head, [("", [*rows, row("total", "", jobs)])])


def _threads(note: Mapping[str, Any]) -> str:
    threads = note.get("threads", 1)
    return f"{threads} thread{'s' * (threads != 1)}"


def _figure(bundle: Bundle, where: Path) -> str:
    score = bundle.metrics.headline
    figure = bundle.figure(score.name)
    return f"![{capital(score.label)} along the paths]({os.path.relpath(figure, where)})" if figure else ""


def _trainings(study: Mapping[str, Any]) -> dict[str, str]:
    """{"Training of <regime>": its schedule in words} of the study's regimes."""
    words = {}
    for name, regime in study["catalogue"]["regimes"].items():
        parts = [f"{kind}s {_schedule(regime[kind])}" for kind in ("endpoint", "curve")]
        attack = f", under the attack {regime['attack']}" if regime["attack"] else ""
        words[f"Training regime {label(name)}"] = "; ".join(parts) + attack
    return words


def _schedule(training: Mapping[str, Any]) -> str:
    return (
        f"{training['epochs']} epochs in batches of {training['batch_size']}, learning rate {training['lr']:g} "
        f"({training['schedule']['use']}), weight decay {training['weight_decay']:g}, {training['precision']}"
    )


def _schedules(bundle: Bundle) -> str:
    """What the paper's training was, beside ours above."""
    sources = bundle.table("accuracy")["published_source"].dropna().unique()
    return wrapped(f"Published: {'; '.join(sources)}. The training of this study is given above under “What was run”.")


def _verdicts(claims: pd.DataFrame) -> str:
    """The claims that were measured, by verdict, as a list."""
    by_verdict: dict[str, list[str]] = {}
    for sentence, verdict in paper_tables.verdicts_by_claim(claims).values():
        if verdict != NOT_MEASURED:
            by_verdict.setdefault(verdict, []).append(sentence.rstrip("."))
    return _list({verdict.capitalize(): "; ".join(sentences) for verdict, sentences in by_verdict.items()})


def _list(entries: Mapping[str, str]) -> str:
    """A Markdown list of names and values, wrapped."""
    return "\n".join(list_item(f"**{name}**: {value}") for name, value in entries.items())


def main(published: str, target: str, readme: str) -> None:
    """Write the page `target` and the results in `readme` from the bundles in the folder `published`."""
    found = bundles(Path(published))
    with atomic(target) as temporary:
        temporary.write_text(page(found, Path(target).parent), encoding="utf-8")
    text = Path(readme).read_text(encoding="utf-8")
    with atomic(readme) as temporary:
        temporary.write_text(with_results(text, readme_part(for_readme(found), Path(readme).parent)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
