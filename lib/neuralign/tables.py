"""Tidy rows as CSV files."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neuralign.files import atomic


def write_rows(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write rows of equal columns, at least one, numbers in full precision; whole or not at all."""
    first, *rest = rows
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, first.keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows([first, *rest])
