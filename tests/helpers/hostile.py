"""What is wrong or hostile and must be refused: one `Case` each, collected by test_hostile.py.

Cases lie in hostile_configs.py, hostile_yaml.py, hostile_archives.py, hostile_images.py and hostile_artefacts.py.
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
    refused: Callable[
        [Path], Any
    ]  # makes what is wrong in an empty folder and hands it to the code that must refuse it
    words: tuple[str, ...]  # that the one message must contain: what it is, what was found, what is allowed


class Trap:
    """A pickle of it would make a folder when it is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def fetch(entry: dict[str, Any], folder: Path) -> None:
    """As scripts/fetch_data.py does it, up to where the file is written."""
    check(plugin("datasets", entry)(folder / "archives"), source_name(entry))


def flipped(blob: bytes, place: int) -> bytes:
    """The bytes with one bit turned."""
    return blob[:place] + bytes([blob[place] ^ 4]) + blob[place + 1 :]
