"""What jobs have cost, from their notes of origin. Without pandas, for the workflow."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def one_for_each_job(notes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The notes without those of further files of the same job, whose seconds would count again."""
    return list({(n["rule"], json.dumps(n.get("wildcards"), sort_keys=True)): n for n in notes}.values())


def undisturbed_seconds(note: Mapping[str, Any]) -> float:
    """The seconds of a finished job, for one of one thread only those in which it had a processor.

    The others are those in which it was paused or other programs ran.
    """
    seconds: float = note["seconds"]
    is_of_one_thread = note.get("device") == "CPU" and note.get("threads") == 1
    return seconds * min(1.0, note.get("cpu_use", 1.0)) if is_of_one_thread else seconds
