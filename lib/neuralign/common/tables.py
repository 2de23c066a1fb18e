"""Rows of results as CSV files, and tables as aligned text."""

import csv
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic


def write_rows(rows: Iterable[dict[str, Any]], path: str | Path, columns: Sequence[str] = ()) -> None:
    """Write rows with equal columns to a CSV file, atomically and with numbers in full precision.

    `columns` is the header of a table without rows; otherwise the header is the keys of the first row.
    """
    table = list(rows)
    names = list(table[0]) if table else columns
    if not names:
        raise ValueError(f"{path}: found a table without rows; `columns` is needed for its header")
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def write_frames(frames: Mapping[str, Any]) -> None:
    """Write tables of pandas, {path: table}, to CSV files, each atomically and without its index."""
    for path, frame in frames.items():
        with atomic(path) as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")


def align_columns(lines: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """A table as text, one line for each sequence of cells. `right`: indices of the columns that are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
