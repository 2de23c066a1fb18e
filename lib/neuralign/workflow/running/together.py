"""Trainings that one process does together, each of which stays a job of its own.

Snakemake sees one job per artefact, whoever does the work. The first job of several that differ in nothing but seed and
pair takes up to NEURALIGN_TOGETHER of them (by default 1: only itself), trains all at once, and leaves the results of
the others beside the checkpoints, under their keys. When the turn of those comes, they find their results there, check
the hashes, and put them in place. So plans, reruns and resuming are what they are without it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic, first_output, recipe_path, sha256
from neuralign.workflow.running.notes import read_note

MAY_DIFFER = ("seed", "pair", "alignment", "curve_seed")  # of the wildcards
Recipe = dict[str, Any]


def others(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes of jobs that are due, could start now, and differ from `recipe` in nothing but seed and pair.

    In the order of their paths; none where NEURALIGN_TOGETHER allows none.
    """
    own = Path(recipe_path(first_output(recipe)))
    depth = next((i for i, part in enumerate(own.parts) if part == recipe["wildcards"]["regime"]), len(own.parts) - 2)
    for path in sorted(Path(*own.parts[: depth + 1]).rglob("*.json")) if limit() > 1 else []:
        other = json.loads(path.read_text())
        if path != own and _setting(other) == _setting(recipe) and not _is(other) and _can_start(other):
            yield other


def limit() -> int:
    """How many trainings one process may do together."""
    text = os.environ.get("NEURALIGN_TOGETHER", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"NEURALIGN_TOGETHER must be a number of trainings, 1 or more; found {text!r}")
    return int(text)


def shelf(scratch: Path, recipe: Recipe) -> dict[str, str]:
    """Where another job's results wait for it: {output: path}, under its key."""
    return {name: str(_folder(scratch, recipe) / Path(path).name) for name, path in recipe["outputs"].items()}


def lay_up(scratch: Path, recipe: Recipe, seconds: float) -> bool:
    """Declare the results on the shelf of `recipe` complete, if they are; `seconds` is this job's share of the time."""
    paths = shelf(scratch, recipe)
    if not all(Path(path).is_file() for path in paths.values()):
        return False
    with atomic(_folder(scratch, recipe) / "complete.json") as temporary:
        hashes = {name: sha256(path) for name, path in paths.items()}
        temporary.write_text(json.dumps({"key": recipe["key"], "sha256": hashes, "seconds": seconds}))
    return True


def take(scratch: Path, recipe: Recipe) -> float | None:
    """Put the results that another job has made for this one in place; the seconds they took, None if there are none.

    Incomplete or changed ones are thrown away.
    """
    folder, paths = _folder(scratch, recipe), shelf(scratch, recipe)
    if not (folder / "complete.json").is_file():
        return None
    found = json.loads((folder / "complete.json").read_text())
    whole = found["key"] == recipe["key"] and found["sha256"].keys() == paths.keys()
    whole = whole and all(Path(p).is_file() and sha256(p) == found["sha256"][name] for name, p in paths.items())
    if whole:
        for name, path in paths.items():
            os.replace(path, recipe["outputs"][name])
    shutil.rmtree(folder, ignore_errors=True)
    return found["seconds"] if whole else None


def _folder(scratch: Path, recipe: Recipe) -> Path:
    return scratch / f"{recipe['key']}.ready"


def _setting(recipe: Recipe) -> Any:
    """What jobs must have in common to be done together."""
    settings = {name: value for name, value in recipe["settings"].items() if name != "seed"}
    place = {name: value for name, value in recipe["wildcards"].items() if name not in MAY_DIFFER}
    data = (recipe["inputs"].get("data"), recipe["upstream"].get("data"))
    return recipe["rule"], settings, place, data, recipe["code"], recipe["software"]


def _is(recipe: Recipe) -> bool:
    """Whether the results of a recipe are there."""
    return all(_key(path) == recipe["key"] for path in recipe["outputs"].values())


def _can_start(recipe: Recipe) -> bool:
    """Whether all that a job reads is there, as its recipe wants it."""
    return all(_key(path) == recipe["upstream"][name] for name, path in recipe["inputs"].items())


def _key(path: str) -> str | None:
    """The key in the note of an artefact; None where either is missing."""
    return read_note(path).get("key") if Path(path).is_file() else None
