"""`python -m neuralign.cli.show results/studies/demo`: the main table of a study as text, and where its report is."""

import csv
import sys
from pathlib import Path

COLUMNS = {"accuracy_mean": "mean on path %", "accuracy_min": "min on path %"}


def rows(path: Path) -> list[dict[str, str]]:
    """A table as it is in its file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path) -> str:
    """The main table with mean ± sample standard deviation over pairs, and the number of pairs."""
    lines = [["dataset", "network", "regime", "method", *COLUMNS.values(), "pairs"]]
    for row in rows(path):
        cells = [_spread(row[column], row[f"{column}_std"]) for column in COLUMNS]
        lines.append([*(row[k] for k in ("dataset", "network", "regime", "method")), *cells, row["n_pairs"]])
    return columns(lines)


def columns(lines: list[list[str]]) -> str:
    """Cells below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _spread(mean: str, std: str) -> str:
    return "" if not mean else f"{float(mean):.2f}" + (f" ± {float(std):.2f}" if std else "")


if __name__ == "__main__":
    study = Path(sys.argv[1])
    print(table(study / "tables" / "accuracy.csv"))
    print(f"\nreport: {study / 'report.html'}")
