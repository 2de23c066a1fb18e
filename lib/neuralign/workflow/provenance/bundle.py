"""Bundles: the finished results of a study with their notes of origin, in a folder that can be published.

`publish` fills one; `restore` puts its results where the workflow looks for them. A bundle leaves out the dataset,
which anybody can download, and keeps its recipe. Its results may have been made by older code: a restored result whose
settings are those that the config asks for now, and whose inputs are so too, stands for the result of the present code.
Its note says so (`restored_as`), and keeps the key and the commit under which it was made. Nothing else of the note
changes. Results whose settings differ are left out, with the first difference as the reason.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from neuralign.common.errors import UserError
from neuralign.common.files import atomic, note_path, recipe_path, sha256
from neuralign.common.logs.progress import track
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import job_name
from neuralign.workflow.provenance.consistency import (
    Results,
    check_results,
    disagreements,
    path_in_folder,
    read_results,
)
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import Note, digest, flat, read_note, settings_of_key, stands_for

DATA = "fetch_data"  # the rule whose results a bundle leaves out


class Restored(NamedTuple):
    """What `restore` did. All paths are relative to the results folder.

    Attributes:
        copied: results that were not there before.
        kept: results that were there with the same content.
        as_older: those of both that were made by other code or other versions than the present ones.
        left_out: {result: why it was not restored}.
    """

    copied: list[str]
    kept: list[str]
    as_older: list[str]
    left_out: dict[str, str]


def publish(
    catalogue: Catalogue, study: str, results: Path, bundle: Path, *, unfinished: bool = False
) -> tuple[list[str], list[str]]:
    """Copy all results of a study but its data, with their notes, to the folder `bundle`.

    Returns (the paths of the results, the names of the jobs that are not finished). A bundle that is there is replaced
    once the new one is complete. Raises `UserError` if a job is not finished, unless `unfinished`, and if a result was
    not made from this config and code or does not agree with its note.
    """
    found = read_results(results)
    chosen, missing = list[str](), list[str]()
    by_job: dict[str, list[str]] = {}
    for path, note in found.notes.items():
        by_job.setdefault(job_name(note["rule"], note["wildcards"]), []).append(path)
    for rule, wildcards, _ in jobs(catalogue, study):
        if paths := by_job.get(job_name(rule, wildcards)):
            chosen += paths if rule != DATA else []
        elif rule != DATA:
            missing.append(f"{rule} {' '.join(wildcards.values())}")
    if missing and (not unfinished or not chosen):
        raise UserError(f"{study}: {len(missing)} jobs are not finished in {results}, such as {missing[0]}")
    (findings, _), published = check_results(found, catalogue), set(chosen)
    if wrong := [finding for finding in findings if finding.path in published]:
        raise UserError(f"{study}: {len(wrong)} results do not agree, such as {wrong[0].path}: {wrong[0].text}")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=".bundle.") as temporary:
        part = Path(temporary, "new")
        files = [*chosen, *map(note_path, chosen)]
        for path in track(files, "copying", len(files)):
            _copy(results / path, part / path)
        for data in _data_of(found, chosen):
            recipe = path_in_folder(recipe_path(f"results/{data}"))
            _copy(results / recipe, part / recipe)
        if bundle.exists():
            bundle.rename(Path(temporary, "old"))
        part.rename(bundle)
    return sorted(chosen), missing


def restore(catalogue: Catalogue, bundle: Path, results: Path) -> Restored:
    """Copy the results of a bundle into a results folder, if they are those that the config asks for.

    Raises `UserError`, before anything is written, if a file of the bundle does not agree with its note or the notes
    with each other, and if the results folder has another result in the place of one.
    """
    found = read_results(bundle)
    if damaged := list(disagreements(found)):
        raise UserError(
            f"{bundle}: {len(damaged)} of its files do not agree with their notes, such as {damaged[0].path}: "
            f"{damaged[0].text}"
        )
    comparison = _Comparison(catalogue, found)
    reasons = {path: comparison.difference(path) for path in found.notes}
    chosen = [path for path, reason in reasons.items() if reason is None]
    there = [path for path in chosen if (results / path).exists()]
    if other := [path for path in there if sha256(results / path) != found.hashes[path]]:
        raise UserError(
            f"{results}: holds {len(other)} other results in the same places, such as {other[0]}; move them away, or "
            "restore to another folder with --results"
        )
    as_older = []
    for path in track(chosen, "restoring", len(chosen)):
        note, key = found.notes[path], comparison.key(path)
        if path in there and stands_for(read_note(results / path), key):
            continue
        if note["key"] != key:
            as_older.append(path)
            note = note | {"restored_as": key}
            note["digest"] = digest(note)
        if path not in there:
            _copy(bundle / path, results / path)
        with atomic(results / note_path(path)) as temporary:
            temporary.write_text(json.dumps(note, indent=1, sort_keys=True) + "\n")
    left_out = {path: reason for path, reason in reasons.items() if reason is not None}
    return Restored([path for path in chosen if path not in there], there, as_older, left_out)


class _Comparison:
    """Compares the results of a bundle with what the config asks for, their inputs before themselves."""

    def __init__(self, catalogue: Catalogue, found: Results):
        self.found, self.recipes = found, Recipes.without_paths(catalogue)
        self._differences: dict[str, str | None] = {}

    def key(self, path: str) -> str:
        """The key of the result in this place under the present config and code."""
        note = self.found.notes[path]
        return str(self.recipes.of(note["rule"], note["wildcards"])["key"])

    def difference(self, path: str) -> str | None:
        """Why a result of the bundle is not what the config asks for; None if it is."""
        if path not in self._differences:
            self._differences[path] = self._compare(path)
        return self._differences[path]

    def _compare(self, path: str) -> str | None:
        if (note := self._origin(path)) is None:
            return f"the bundle has neither {path} nor its recipe"
        try:
            recipe = self.recipes.of(note["rule"], note["wildcards"])
        except (UserError, KeyError, TypeError):
            return "the config has no such job"
        if stands_for(note, recipe["key"]):
            return None
        if note.get("source") != recipe.get("source"):
            return f"source: {note.get('source')} in the bundle, {recipe.get('source')} in the config"
        if reason := _first_difference(settings_of_key(note), _as_read(settings_of_key(recipe))):
            return reason
        if reason := _first_difference(_counts(note["inputs"]), _counts(recipe["upstream"])):
            return f"number of inputs, {reason}"
        for _, _, entry in flat(note["inputs"]):
            source = path_in_folder(entry["path"] if isinstance(entry, Mapping) else entry)
            if reason := self.difference(source):
                return f"made from {source} ({reason})"
        return None

    def _origin(self, path: str) -> Note | None:
        """The note of a result, or the recipe of a dataset, which has no note in a bundle."""
        if path in self.found.notes:
            return self.found.notes[path]
        try:
            recipe: Note = json.loads((self.found.root / path_in_folder(recipe_path(f"results/{path}"))).read_text())
            return recipe
        except (OSError, ValueError):
            return None


def _first_difference(bundle: Any, config: Any, name: str = "") -> str | None:
    """The first setting that differs, as `a.b: 1 in the bundle, 2 in the config`; None if all are equal."""
    if isinstance(bundle, Mapping) and isinstance(config, Mapping):
        for key in sorted({*bundle, *config}):
            pair = (bundle.get(key, "nothing"), config.get(key, "nothing"))
            if reason := _first_difference(*pair, f"{name}.{key}".lstrip(".")):
                return reason
        return None
    if bundle == config:
        return None
    if not (isinstance(bundle, list) and isinstance(config, list)):
        return f"{name}: {bundle} in the bundle, {config} in the config"
    only = {"bundle": [x for x in bundle if x not in config], "config": [x for x in config if x not in bundle]}
    parts = [f"{len(own)} only in the {place}, such as {own[0]}" for place, own in only.items() if own]
    return f"{name}: {', and '.join(parts) or 'another order'}"


def _as_read(settings: Mapping[str, Any]) -> Any:
    """The settings as they come back from a JSON file, where tuples are lists."""
    return json.loads(json.dumps(settings))


def _counts(inputs: Mapping[str, Any]) -> dict[str, int]:
    """{name: number of entries} of inputs or upstream keys."""
    return dict(Counter(name for name, _, _ in flat(inputs)))


def _data_of(found: Results, chosen: list[str]) -> Iterator[str]:
    """The datasets that the chosen results were made from, as paths in the results folder."""
    inputs = {path_in_folder(entry["path"]) for path in chosen for _, _, entry in flat(found.notes[path]["inputs"])}
    return (path for path in sorted(inputs) if path in found.notes and found.notes[path]["rule"] == DATA)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
