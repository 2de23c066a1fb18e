"""What is wrong in a results folder: artefacts, their notes of origin, config and code, each against the others.

Needs no torch, no Snakemake and, but for `out_of_date`, neither config nor code: it works on a copy of a results folder
or of a part of one. There is no signature: who rewrites an artefact, its note and those of all that was made from it,
with all digests, is not found out.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from neuralign.common.errors import Refused
from neuralign.common.files import sha256
from neuralign.config.catalogue import Catalogue
from neuralign.datasets.dataset import DataError
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import IDENTITY, Note, digest, flat, key_of

KINDS = (  # in the order of the output
    "note edited",  # it is not what the job wrote
    "note missing",  # nobody can say what the artefact was made from
    "note misplaced",  # it is that of another artefact
    "artefact missing",  # only its note is left
    "artefact changed",  # it is not what the job wrote
    "stale",  # made from other content than lies here
    "chain broken",  # its note and those of its inputs tell different stories
    "out of date",  # the config or the code has changed since it was made
)
NOT_MADE = ("recipes", "data/archives")  # have no notes: they are plans, and downloads (which have checksums)


class Finding(NamedTuple):
    """One thing that is wrong; `path` is that of the artefact in the results folder."""

    kind: str  # of KINDS
    path: str
    text: str


class Results:
    """What lies in a results folder: artefacts with their digests, and their notes. Paths are within the folder."""

    def __init__(self, root: Path):
        self.root = root
        files = set(_files(root))
        self.artefacts = sorted(f for f in files if not f.endswith(".json"))
        self.notes: dict[str, Note] = {}
        self.edited: dict[str, str] = {}  # artefact -> what is wrong with its note
        for name in sorted(files - set(self.artefacts)):
            artefact = name.removesuffix(".json")
            try:
                self.notes[artefact] = _sound(json.loads((root / name).read_text()))
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                self.edited[artefact] = str(error)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads work
            self.hashes = dict(zip(self.artefacts, pool.map(sha256, (root / a for a in self.artefacts)), strict=True))
        self.readers: dict[str, dict[str, str]] = defaultdict(dict)  # input -> {who read it: its digest then}
        for reader, note in self.notes.items():
            for _, _, entry in flat(note["inputs"]):
                self.readers[inside(entry["path"])][reader] = entry["sha256"]

    def content(self, path: str) -> str | None:
        """The digest that an artefact should have by its own note, else the one it has; None if it is not here."""
        return self.notes[path]["sha256"] if path in self.notes else self.hashes.get(path)

    def absent(self) -> list[str]:
        """Inputs of which neither content nor note is here."""
        return sorted(path for path in self.readers if self.content(path) is None)


def inside(path: str) -> str:
    """A path as notes have it, within the results folder: results/x/y.csv -> x/y.csv."""
    return path.partition("/")[2]


def disagreements(found: Results) -> Iterator[Finding]:
    """All that is wrong between artefacts and notes."""
    for path, problem in found.edited.items():
        yield Finding("note edited", path, problem)
    for path in found.artefacts:
        if path not in found.notes and path not in found.edited:
            yield Finding("note missing", path, f"there is no {path}.json")
    for path, note in found.notes.items():
        if inside(note["artefact"]) != path:
            yield Finding("note misplaced", path, f"its note is that of {inside(note['artefact'])}")
        elif path not in found.hashes:
            yield Finding("artefact missing", path, "deleted, or not copied with its note")
        elif found.hashes[path] != note["sha256"]:
            number = len(found.readers.get(path, {}))
            more = f"; {number} results were made from what it was" if number else ""
            yield Finding("artefact changed", path, f"{_differ(found.hashes[path], note['sha256'])} by its note{more}")
        yield from _chain(found, path, note)
    for path in found.absent():
        if len(set(found.readers[path].values())) > 1:
            told = ", ".join(f"{sha[:12]} by {who}" for who, sha in sorted(found.readers[path].items()))
            yield Finding("chain broken", path, f"not here, and different content of it was read: {told}")


def _chain(found: Results, path: str, note: Note) -> Iterator[Finding]:
    """One note against those of the inputs."""
    keys = {(name, i): key for name, i, key in flat(note["upstream"])}
    for name, i, entry in flat(note["inputs"]):
        needed = inside(entry["path"])
        content = found.content(needed)
        if content is not None and content != entry["sha256"]:
            yield Finding("stale", path, f"its {name}, {needed}: {_differ(content, entry['sha256'])} when it was read")
        key = found.notes[needed]["key"] if needed in found.notes else None
        if key is not None and key != keys[name, i]:
            yield Finding("chain broken", path, f"its {name}, {needed}: the key is {key}, and was {keys[name, i]}")


def out_of_date(found: Results, catalogue: Catalogue, unknown: list[str]) -> Iterator[Finding]:
    """Results whose key is not that of the config and code; those the config has no job for are added to `unknown`."""
    recipes = Recipes.without_paths(catalogue)
    for path, note in found.notes.items():
        try:
            key = recipes.of(note["rule"], note["wildcards"])["key"]
        except (Refused, DataError, KeyError, TypeError):  # of another config, or its local data are not here
            unknown.append(path)
            continue
        if key != note["key"]:
            yield Finding("out of date", path, f"its key is {note['key']}, the config and code ask for {key}")


def _sound(note: Any) -> Note:
    """The note, if it is one and nobody has edited it."""
    wanted = {*IDENTITY, "key", "inputs", "artefact", "sha256", "digest"} - {"source", "places"}
    if not isinstance(note, dict) or not wanted <= note.keys():
        raise ValueError("this is no note of origin with all that belongs in one")
    if note["digest"] != digest(note):
        raise ValueError("its content is not that of its digest")
    if note["key"] != key_of(note):
        raise ValueError("its key is not that of its recipe")
    entries = list(flat(note["inputs"]))
    texts = [note["artefact"], note["sha256"], *(entry[key] for _, _, entry in entries for key in ("path", "sha256"))]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its paths and digests are no text")
    if [entry[:2] for entry in entries] != [key[:2] for key in flat(note["upstream"])]:
        raise ValueError("its inputs are not those of its recipe")
    return note


def _files(root: Path) -> Iterator[str]:
    """Artefacts and notes."""
    for folder, names, files in os.walk(root):
        below = Path(folder).relative_to(root)
        names[:] = [n for n in names if not n.startswith(".") and (below / n).as_posix() not in NOT_MADE]
        yield from ((below / f).as_posix() for f in files if not f.startswith(".") and f != "README.md")


def _differ(now: str, then: str) -> str:
    return f"its sha256 is {now[:12]}, and was {then[:12]}"
