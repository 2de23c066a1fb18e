"""Several trainings in one process, although each is a job of its own for Snakemake.

If NEURALIGN_TOGETHER is n > 1 (default 1), the first of several jobs that differ only in seed and pair trains up to n
of them, itself included, at the same time. It stores the results of the other jobs in the scratch folder, one folder
per key. When Snakemake starts one of the other jobs, that job finds its results there, checks their hashes and moves
them to its outputs. Plans, reruns and resuming are therefore the same as without it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic, first_output, recipe_path, sha256
from neuralign.workflow.running.notes import read_note, stands_for

MAY_DIFFER = ("seed", "pair", "alignment", "curve_seed")  # wildcards that jobs trained together need not have in common
Recipe = dict[str, Any]


def candidates(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes of other jobs that may be trained together with this one, in the order of their paths.

    They have the same settings but for seed and pair, their results are not current, and all their inputs are.
    There are none if NEURALIGN_TOGETHER is 1.
    """
    if limit() == 1:
        return
    file = Path(recipe_path(first_output(recipe)))
    for path in sorted(_folder_of_setting(file, recipe).rglob("*.json")):
        candidate = json.loads(path.read_text())
        matches = path != file and _common_part(candidate) == _common_part(recipe)
        if matches and not _is_current(candidate) and _has_current_inputs(candidate):
            yield candidate


def limit() -> int:
    """The value of NEURALIGN_TOGETHER: how many trainings one process may do at the same time."""
    text = os.environ.get("NEURALIGN_TOGETHER", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"NEURALIGN_TOGETHER must be a number of trainings, 1 or more; found {text!r}")
    return int(text)


def stored_outputs(scratch: Path, recipe: Recipe) -> dict[str, str]:
    """{output: path} where another job's process writes the outputs of this job."""
    return {name: str(_storage(scratch, recipe) / Path(path).name) for name, path in recipe["outputs"].items()}


def mark_complete(scratch: Path, recipe: Recipe, seconds: float) -> bool:
    """Record that all stored outputs of a job are complete, with their hashes; False, and no record, if any is missing.

    `seconds`: the job's share of the wall time, with that of earlier processes.
    """
    paths = stored_outputs(scratch, recipe)
    if not all(Path(path).is_file() for path in paths.values()):
        return False
    with atomic(_storage(scratch, recipe) / "complete.json") as temporary:
        hashes = {name: sha256(path) for name, path in paths.items()}
        temporary.write_text(json.dumps({"key": recipe["key"], "sha256": hashes, "seconds": seconds}))
    return True


def take_results(scratch: Path, recipe: Recipe) -> float | None:
    """Move stored outputs that another job has made to the outputs of this one; the seconds that count as this job's.

    None if there are no complete ones. Outputs that do not match their recorded hashes are deleted.
    """
    folder, paths = _storage(scratch, recipe), stored_outputs(scratch, recipe)
    if not (folder / "complete.json").is_file():
        return None
    record = json.loads((folder / "complete.json").read_text())
    intact = record["key"] == recipe["key"] and record["sha256"].keys() == paths.keys()
    intact = intact and all(Path(p).is_file() and sha256(p) == record["sha256"][name] for name, p in paths.items())
    if intact:
        for name, path in paths.items():
            os.replace(path, recipe["outputs"][name])
    shutil.rmtree(folder, ignore_errors=True)
    return record["seconds"] if intact else None


def _storage(scratch: Path, recipe: Recipe) -> Path:
    """The folder for the outputs of a job that another one trains."""
    return scratch / f"{recipe['key']}.ready"


def _folder_of_setting(path: Path, recipe: Recipe) -> Path:
    """The folder above the recipe at `path` that ends with its regime; it holds the recipes that may be similar."""
    regime = recipe["wildcards"]["regime"]
    depth = next((i for i, part in enumerate(path.parts) if part == regime), len(path.parts) - 2)
    return Path(*path.parts[: depth + 1])


def _common_part(recipe: Recipe) -> Any:
    """The part of a recipe that jobs must have in common to be trained together."""
    settings = {name: value for name, value in recipe["settings"].items() if name != "seed"}
    wildcards = {name: value for name, value in recipe["wildcards"].items() if name not in MAY_DIFFER}
    data = (recipe["inputs"].get("data"), recipe["upstream"].get("data"))
    return recipe["rule"], settings, wildcards, data, recipe["code"], recipe["software"]


def _is_current(recipe: Recipe) -> bool:
    """Whether all outputs of a job exist and were made from this recipe."""
    return all(_stands_for(path, recipe["key"]) for path in recipe["outputs"].values())


def _has_current_inputs(recipe: Recipe) -> bool:
    """Whether all inputs of a job exist and were made from the recipes whose keys its recipe has."""
    return all(_stands_for(path, recipe["upstream"][name]) for name, path in recipe["inputs"].items())


def _stands_for(path: str, key: str) -> bool:
    """Whether there is an artefact at `path` whose note says that it was made under `key`."""
    return Path(path).is_file() and stands_for(read_note(path), key)
