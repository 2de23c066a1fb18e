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

from neuralign.common.errors import UserError
from neuralign.common.files import sha256
from neuralign.config.catalogue import Catalogue
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
# folders of a results folder that hold none of its results: plans, downloads (which have checksums), and results
# folders of others, each of which is verified on its own
NOT_RESULTS = ("recipes", "data/archives", "published")


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
                self.notes[artefact] = _checked_note(json.loads((root / name).read_text()))
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


def read_results(folder: Path) -> Results:
    """What lies in `folder`. Raises `UserError` for what is no results folder, or only a part of one."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    results = Results(folder)
    if not results.notes and not results.edited:
        raise UserError(f"{folder}: no notes of origin here; a results folder is needed")
    if results.notes and all(inside(note["artefact"]) != path for path, note in results.notes.items()):
        example = next(iter(results.notes.values()))["artefact"]
        raise UserError(f"{folder}: only a part of a results folder, the one with {example}; name the whole folder")
    return results


def check_results(results: Results, catalogue: Catalogue | None) -> tuple[list[Finding], list[str]]:
    """(all that is wrong, in the order of `KINDS`; the artefacts that were not compared with config and code).

    `catalogue`: the config that the results should be of; None: no artefact is compared with config and code.
    """
    findings, not_compared = list(disagreements(results)), list(results.notes)
    if catalogue is not None:
        late, not_compared = out_of_date(results, catalogue)
        findings += late
    return sorted(findings, key=lambda finding: (KINDS.index(finding.kind), finding.path)), not_compared


def inside(path: str) -> str:
    """A path as notes have it, within the results folder: results/x/y.csv -> x/y.csv."""
    return path.partition("/")[2]


def disagreements(results: Results) -> Iterator[Finding]:
    """All that is wrong between artefacts and notes."""
    for path, problem in results.edited.items():
        yield Finding("note edited", path, problem)
    for path in results.artefacts:
        if path not in results.notes and path not in results.edited:
            yield Finding("note missing", path, f"there is no {path}.json")
    for path, note in results.notes.items():
        if inside(note["artefact"]) != path:
            yield Finding("note misplaced", path, f"its note is that of {inside(note['artefact'])}")
        elif path not in results.hashes:
            yield Finding("artefact missing", path, "deleted, or not copied with its note")
        elif results.hashes[path] != note["sha256"]:
            number = len(results.readers.get(path, {}))
            more = f"; {number} results were made from what it was" if number else ""
            yield Finding(
                "artefact changed", path, f"{_change(results.hashes[path], note['sha256'])} by its note{more}"
            )
        yield from _broken_links(results, path, note)
    for path in results.absent():
        if len(set(results.readers[path].values())) > 1:
            readings = ", ".join(f"{sha[:12]} by {reader}" for reader, sha in sorted(results.readers[path].items()))
            yield Finding("chain broken", path, f"not here, and different content of it was read: {readings}")


def _broken_links(results: Results, path: str, note: Note) -> Iterator[Finding]:
    """One note against those of the inputs."""
    keys = {(name, i): key for name, i, key in flat(note["upstream"])}
    for name, i, entry in flat(note["inputs"]):
        needed = inside(entry["path"])
        content = results.content(needed)
        if content is not None and content != entry["sha256"]:
            yield Finding("stale", path, f"its {name}, {needed}: {_change(content, entry['sha256'])} when it was read")
        key = results.notes[needed]["key"] if needed in results.notes else None
        if key is not None and key != keys[name, i]:
            yield Finding("chain broken", path, f"its {name}, {needed}: the key is {key}, and was {keys[name, i]}")


def out_of_date(results: Results, catalogue: Catalogue) -> tuple[list[Finding], list[str]]:
    """(results whose key is not that of config and code; artefacts that the config has no job for)."""
    recipes, findings, unknown = Recipes.without_paths(catalogue), list[Finding](), list[str]()
    for path, note in results.notes.items():
        try:
            key = recipes.of(note["rule"], note["wildcards"])["key"]
        except (UserError, KeyError, TypeError):  # of another config, or its local data are not here
            unknown.append(path)
            continue
        if key != note["key"]:
            text = f"its key is {note['key']}, the config and code ask for {key}"
            findings.append(Finding("out of date", path, text))
    return findings, unknown


def _checked_note(note: Any) -> Note:
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
        names[:] = [n for n in names if not n.startswith(".") and (below / n).as_posix() not in NOT_RESULTS]
        yield from ((below / f).as_posix() for f in files if not f.startswith(".") and f != "README.md")


def _change(now: str, then: str) -> str:
    return f"its sha256 is {now[:12]}, and was {then[:12]}"
