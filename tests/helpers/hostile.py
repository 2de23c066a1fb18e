"""Wrong or hostile input that must be refused: one `Case` each, collected by test_hostile.py.

Cases are in hostile_configs.py, hostile_yaml.py, hostile_archives.py, hostile_images.py and hostile_artefacts.py.
Each is refused at the earliest of four moments: at planning, before any job; when data is fetched, on a CPU, before any
training; when a job starts, before it computes; while training.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuralign.config.plugins import plugin
from neuralign.datasets.checks import check
from neuralign.datasets.reading.locations import source_name

PLANNING, FETCHING, STARTING, TRAINING = "at planning", "when fetched", "when the job starts", "while training"


@dataclass(frozen=True)
class Case:
    name: str
    when: str
    refused: Callable[[Path], Any]  # given an empty folder, makes the wrong input and runs the code that must refuse it
    words: tuple[str, ...]  # that the message must contain: the key or file, what was found, what is allowed


class Trap:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, path: str | Path = "executed"):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def fetch(entry: dict[str, Any], folder: Path) -> None:
    """Do what scripts/fetch_data.py does before it writes the file."""
    check(plugin("datasets", entry)(folder / "archives"), source_name(entry))


def flipped(blob: bytes, position: int) -> bytes:
    """The bytes with one bit changed."""
    return blob[:position] + bytes([blob[position] ^ 4]) + blob[position + 1 :]
