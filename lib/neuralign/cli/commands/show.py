"""`neuralign show`: the main table of a study as text, and where its report is."""

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.interface import completions
from neuralign.common.errors import UserError
from neuralign.common.quantities import Metrics
from neuralign.common.tables import align_columns
from neuralign.config.metrics import CLASSIFICATION, metrics_of
from neuralign.workflow.running.notes import read_note

DESCRIPTION = "Print the main table of a finished study, and where its report is."
EXAMPLES = ["neuralign show results/studies/demo"]


def run(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="the folder of a study: results/studies/NAME",
            autocompletion=completions.finished_studies,
        ),
    ],
) -> tuple[int, dict[str, Any], str]:
    """The main table of a study, and the path of its report."""
    return 0, *show(study)


def show(folder: Path) -> tuple[dict[str, Any], str]:
    """({"report": path of the report, "table": rows of the main table}, the same as text) for a study."""
    file = folder / "tables" / "accuracy.csv"
    if not file.is_file():
        raise UserError(f"{folder}: has no tables/accuracy.csv; the folder of a finished study is needed")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    report = str(folder / "report.html")
    settings = read_note(file).get("settings", {})
    metrics = metrics_of(**settings.get("measured", {}))
    return {"report": report, "table": rows}, f"{_format_table(rows, metrics)}\n\nreport: {report}"


def _format_table(rows: list[dict[str, str]], metrics: Metrics) -> str:
    """The rows as text: mean ± sample standard deviation over pairs, and the number of pairs."""
    headings: dict[str, str] = {}  # column of the file -> heading
    for q in metrics.scores:
        name = "" if q == CLASSIFICATION.headline else f"{q.label}, "
        unit, worst = f" {q.unit}" if q.unit else "", q.worst.removeprefix(f"{q.name}_")
        headings |= {q.mean: f"{name}mean on path{unit}", q.worst: f"{name}{worst} on path{unit}"}
    lines = [["dataset", "network", "regime", "method", *headings.values(), "pairs"]]
    for row in rows:
        cells = [_format_mean_and_std(row[column], row[f"{column}_std"]) for column in headings]
        lines.append([*(row[key] for key in ("dataset", "network", "regime", "method")), *cells, row["n_pairs"]])
    return align_columns(lines)


def _format_mean_and_std(mean: str, std: str) -> str:
    """mean ± std with two decimals; the mean alone without a deviation."""
    return "" if not mean else f"{float(mean):.2f}" + (f" ± {float(std):.2f}" if std else "")
