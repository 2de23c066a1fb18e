"""Tidy rows as CSV files, and tables as text."""

import csv
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic


def write_rows(rows: Iterable[dict[str, Any]], path: str | Path, columns: Sequence[str] = ()) -> None:
    """Write rows with equal columns to a CSV file, atomically and with numbers in full precision.

    `columns` are those of the table if there are no rows.
    """
    table = list(rows)
    names = list(table[0]) if table else columns
    if not names:
        raise ValueError(f"{path}: a table without rows, and its columns are not known")
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def columns(lines: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Lines of cells as text, the cells of a column below each other; `right`: numbers of columns that end flush."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
