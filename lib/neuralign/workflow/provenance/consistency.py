"""Checks of a results folder: do the artefacts match their notes of origin, and the notes each other and the config?

It needs neither torch nor Snakemake. All checks but `out_of_date` work without config and code, so also on a copy of a
results folder or of a part of one. Notes are not signed: if someone changes an artefact, its note and the notes of all
that was made from it, with all digests, this is not noticed.
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
from neuralign.common.logs.progress import track
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import IDENTITY, Note, digest, flat, key_of, stands_for

KINDS = (  # of findings, in the order of the output
    "note edited",  # the note cannot be read, or its digest or key does not match its content
    "note missing",  # there is an artefact without a note
    "note misplaced",  # the note names another artefact
    "artefact missing",  # there is a note without an artefact
    "artefact changed",  # the digest of the artefact is not that in its note
    "stale",  # an input had another content when the artefact was made
    "chain broken",  # its note has another key for an input than the note of that input
    "out of date",  # its key is not the one that config and code now ask for
)
# folders inside a results folder without results to check: recipes, downloads (which have checksums), and the results
# folders of other people, each of which is verified on its own
NOT_RESULTS = ("recipes", "data/archives", "published")


class Finding(NamedTuple):
    """One thing that is wrong with an artefact; `path` is its path relative to the results folder."""

    kind: str  # of KINDS
    path: str
    text: str


class Results:
    """The content of a results folder. All paths are relative to the folder.

    Attributes:
        artefacts: paths of all files but notes.
        notes: {artefact: its note}, those that can be read and match their own digest and key.
        edited: {artefact: what is wrong with its note}, all others.
        hashes: {artefact: the SHA-256 of its content}.
        readers: {input: {artefact made from it: the SHA-256 of the input at that time}}.
    """

    def __init__(self, root: Path):
        self.root = root
        files = set(_files(root))
        self.artefacts = sorted(f for f in files if not f.endswith(".json"))
        self.notes: dict[str, Note] = {}
        self.edited: dict[str, str] = {}
        for name in sorted(files - set(self.artefacts)):
            artefact = name.removesuffix(".json")
            try:
                self.notes[artefact] = _check_note(json.loads((root / name).read_text()))
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                self.edited[artefact] = str(error)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
            digests = pool.map(sha256, (root / artefact for artefact in self.artefacts))
            self.hashes = dict(zip(self.artefacts, track(digests, "hashing", len(self.artefacts)), strict=True))
        self.readers: dict[str, dict[str, str]] = defaultdict(dict)
        for reader, note in self.notes.items():
            for _, _, entry in flat(note["inputs"]):
                self.readers[path_in_folder(entry["path"])][reader] = entry["sha256"]

    def digest_of(self, path: str) -> str | None:
        """The SHA-256 of an artefact by its note, or of the file if it has no note; None if both are missing."""
        return self.notes[path]["sha256"] if path in self.notes else self.hashes.get(path)

    def without_commit(self) -> list[str]:
        """Names of repositories of a hub that artefacts were made from and that name no commit."""
        return sorted({name for note in self.notes.values() for name in note.get("hub", {})})

    def absent(self) -> list[str]:
        """Inputs of artefacts in this folder that are not in it themselves, neither as a file nor by a note."""
        return sorted(path for path in self.readers if self.digest_of(path) is None)


def read_results(folder: Path) -> Results:
    """The content of a results folder. Raises `UserError` for any other folder and for a subfolder of one."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    results = Results(folder)
    if not results.notes and not results.edited:
        raise UserError(f"{folder}: no notes of origin here; a results folder is needed")
    if results.notes and all(path_in_folder(note["artefact"]) != path for path, note in results.notes.items()):
        example = next(iter(results.notes.values()))["artefact"]
        raise UserError(f"{folder}: a subfolder of a results folder, the one with {example}; name the results folder")
    return results


def check_results(results: Results, catalogue: Catalogue | None) -> tuple[list[Finding], list[str]]:
    """(findings, sorted by kind as in `KINDS` and by path; artefacts that were not compared with config and code).

    `catalogue`: the config that the results should agree with; None to compare no artefact with config and code.
    """
    findings, not_compared = list(disagreements(results)), list(results.notes)
    if catalogue is not None:
        outdated, not_compared = out_of_date(results, catalogue)
        findings += outdated
    return sorted(findings, key=lambda finding: (KINDS.index(finding.kind), finding.path)), not_compared


def path_in_folder(path: str) -> str:
    """The path of a note's entry relative to the results folder: results/x/y.csv -> x/y.csv."""
    return path.partition("/")[2]


def disagreements(results: Results) -> Iterator[Finding]:
    """Findings from the artefacts and notes alone, without config and code."""
    for path, problem in results.edited.items():
        yield Finding("note edited", path, problem)
    for path in results.artefacts:
        if path not in results.notes and path not in results.edited:
            yield Finding("note missing", path, f"there is no {path}.json")
    for path, note in results.notes.items():
        if path_in_folder(note["artefact"]) != path:
            yield Finding("note misplaced", path, f"its note is that of {path_in_folder(note['artefact'])}")
        elif path not in results.hashes:
            yield Finding("artefact missing", path, "deleted, or not copied with its note")
        elif results.hashes[path] != note["sha256"]:
            number = len(results.readers.get(path, {}))
            readers = f"; {number} results were made from what it was" if number else ""
            text = f"{_describe_change(results.hashes[path], note['sha256'])} by its note{readers}"
            yield Finding("artefact changed", path, text)
        yield from _broken_links(results, path, note)
    for path in results.absent():
        if len(set(results.readers[path].values())) > 1:
            readings = ", ".join(f"{sha[:12]} by {reader}" for reader, sha in sorted(results.readers[path].items()))
            yield Finding("chain broken", path, f"not here, and different content of it was read: {readings}")
    yield from _moved_repositories(results)


def _broken_links(results: Results, path: str, note: Note) -> Iterator[Finding]:
    """Findings from comparing one note with the notes of its inputs."""
    keys = {(name, i): key for name, i, key in flat(note["upstream"])}
    for name, i, entry in flat(note["inputs"]):
        source = path_in_folder(entry["path"])
        now, then = results.digest_of(source), entry["sha256"]
        if now is not None and now != then:
            yield Finding("stale", path, f"its {name}, {source}: {_describe_change(now, then)} when it was read")
        origin = results.notes.get(source)
        same_bytes = now == then and "restored_as" in note  # older code read what newer code has made again
        if origin is not None and not same_bytes and not stands_for(origin, keys[name, i]):
            text = f"its {name}, {source}: the key is {origin['key']}, and was {keys[name, i]}"
            yield Finding("chain broken", path, text)


def _moved_repositories(results: Results) -> Iterator[Finding]:
    """Findings where a name of a hub that names no commit stood for another commit than when the newest was made."""
    newest_first = sorted(results.notes.items(), key=lambda item: str(item[1].get("started")), reverse=True)
    newest: dict[str, tuple[str, str]] = {}  # name -> commit, artefact
    for path, note in newest_first:
        for name, commit in note.get("hub", {}).items():
            last, other = newest.setdefault(name, (commit, path))
            if commit != last:
                text = f"made from {name} when that was commit {commit[:12]}; {other} was made from {last[:12]}"
                yield Finding("chain broken", path, f"{text}: name a commit")


def out_of_date(results: Results, catalogue: Catalogue) -> tuple[list[Finding], list[str]]:
    """(findings: artefacts whose key is not the one of config and code; artefacts that the config has no job for)."""
    recipes, findings, unknown = Recipes.without_paths(catalogue), list[Finding](), list[str]()
    for path, note in results.notes.items():
        try:
            key = recipes.of(note["rule"], note["wildcards"])["key"]
        except (UserError, KeyError, TypeError):  # the config has no such job, or its data files are missing
            unknown.append(path)
            continue
        if not stands_for(note, key):
            text = f"its key is {note['key']}, the config and code ask for {key}"
            findings.append(Finding("out of date", path, text))
    return findings, unknown


def _check_note(note: Any) -> Note:
    """The note. Raises `ValueError` if parts of it are missing or its digest or key does not match its content."""
    required = {*IDENTITY, "key", "inputs", "artefact", "sha256", "digest"} - {"source", "places"}
    if not isinstance(note, dict) or not required <= note.keys():
        raise ValueError("not a note of origin, or entries of one are missing")
    if note["digest"] != digest(note):
        raise ValueError("its digest is not that of its content")
    if note["key"] != key_of(note):
        raise ValueError("its key is not that of its recipe")
    entries = list(flat(note["inputs"]))
    if not isinstance(hub := note.get("hub", {}), dict):
        raise ValueError("its `hub` is no mapping of names to commits")
    texts = [
        *hub.values(),
        note["artefact"],
        note["sha256"],
        *(entry[key] for _, _, entry in entries for key in ("path", "sha256")),
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its paths and digests must be text")
    if [entry[:2] for entry in entries] != [key[:2] for key in flat(note["upstream"])]:
        raise ValueError("its inputs are not those of its recipe")
    return note


def _files(root: Path) -> Iterator[str]:
    """The relative paths of all artefacts and notes below `root`."""
    for folder, names, files in os.walk(root):
        below = Path(folder).relative_to(root)
        names[:] = [n for n in names if not n.startswith(".") and (below / n).as_posix() not in NOT_RESULTS]
        yield from ((below / f).as_posix() for f in files if not f.startswith(".") and not _is_added(below / f))


def _is_added(path: Path) -> bool:
    """Whether people put this file, of this path in a results folder, there: a README, or at the top a config."""
    return path.name == "README.md" or (len(path.parts) == 1 and path.suffix == ".yaml")


def _describe_change(now: str, then: str) -> str:
    return f"its sha256 is {now[:12]}, and was {then[:12]}"
