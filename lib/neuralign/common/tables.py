"""Tidy rows as CSV files."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic


def write_rows(rows: Iterable[dict[str, Any]], path: str | Path, columns: Sequence[str] = ()) -> None:
    """Write rows of equal columns, numbers in full precision; whole or not at all. `columns`: of a table of no rows."""
    found = list(rows)
    names = list(found[0]) if found else columns
    if not names:
        raise ValueError(f"{path}: a table without rows, and nobody says which columns it has")
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
