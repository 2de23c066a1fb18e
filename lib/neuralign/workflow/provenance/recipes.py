"""A recipe is a small JSON file that says all a job may know, and is an input of that job.

It holds the job's files, its settings, the digest of every module its script can reach, and the keys of the recipes
upstream (a Merkle tree). Its content changes if and only if the result would, so Snakemake's ordinary comparison of
input files decides what is stale: after any edit, with its own records lost, in a copied results folder, on another
branch. `diff` of two recipes says why. Where there is an output of another key, the recipe also says what it replaces.
"""

import json
import os
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralign.common.files import PACKAGE, atomic, date_back, recipe_path, sha256
from neuralign.config.catalogue import Catalogue
from neuralign.config.plugins import module
from neuralign.config.references import is_object
from neuralign.datasets.reading.locations import content_digest
from neuralign.workflow.graph import job
from neuralign.workflow.job import Ref
from neuralign.workflow.provenance.code_digests import closure, file_digest, outside
from neuralign.workflow.running.notes import entries, key_of, read_note

LONG_AGO = 1e9  # seconds since the epoch; older than any result
MEMO = Path("results", ".identities.json")  # digests of local data already computed
Paths = Callable[[str, dict[str, str]], dict[str, str]]  # (rule, wildcards) -> {output: path}


class Recipes:
    """Recipes of the jobs of one workflow. `scripts`: folder of the scripts; `paths`: the rules' output files."""

    def __init__(self, catalogue: Catalogue, scripts: Path, paths: Paths):
        self.catalogue, self.scripts, self.paths = catalogue, scripts, paths
        self.made: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]] = {}
        self.needed: dict[str, list[Ref]] = {}  # key -> what the job reads
        self.written: dict[str, dict[str, Any]] = {}  # path -> the recipe that lies there

    @classmethod
    def without_paths(cls, catalogue: Catalogue) -> "Recipes":
        """Recipes of this package's workflow for their keys alone, which do not depend on where outputs lie."""
        return cls(catalogue, PACKAGE.parents[1] / "scripts", lambda rule, wildcards: _Anywhere())

    def of(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        """The recipe of one job; its `key` names the result."""
        name = (rule, tuple(sorted(wildcards.items())))
        if name not in self.made:
            self.made[name] = self._make(rule, wildcards)
        return self.made[name]

    def write(self, rule: str, wildcards: dict[str, str]) -> str:
        """Write the recipe if it is new or has changed, after those upstream; its path. File times come to say what
        keys say: a recipe is newer than an output of another key, and older than one of its own, as are its inputs.
        Without an output it is old, or Snakemake would compare it with results further down, whose recipes know better.
        """
        recipe = self.of(rule, wildcards)
        outputs = [Path(p) for p in recipe["outputs"].values()]
        path = Path(recipe_path(outputs[0]))
        if str(path) in self.written:
            return str(path)
        self.written[str(path)] = recipe
        for needed in self.needed[recipe["key"]]:
            self.write(needed.rule, dict(needed.wildcards))
        made = [p for p in outputs if p.exists()]
        now = time.time()
        date_back([path], latest=now + 1, when=now)
        date_back(made, latest=now, when=now - 1)
        notes = [read_note(p) for p in made]
        others = [n for n in notes if n and n["key"] != recipe["key"]]
        replaces = {"replaces": {k: others[0].get(k) for k in ("key", "started")}} if others else {}
        text = json.dumps(recipe | replaces, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            with atomic(path) as temporary:
                temporary.write_text(text)
            _date(path, max([time.time(), *(p.stat().st_mtime + 1 for p in made)]))
        if not made:
            _date(path, LONG_AGO)
        elif made == outputs and all(n.get("key") == recipe["key"] for n in notes):
            _settle(path, [Path(p) for p in entries(recipe["inputs"])], outputs)
        return str(path)

    def current(self, rule: str, wildcards: dict[str, str]) -> bool:
        """Whether all results of a job are there and of its recipe, by the file times that Snakemake compares."""
        recipe = Path(self.write(rule, wildcards))
        read = [recipe, *map(Path, entries(self.of(rule, wildcards)["inputs"]))]
        made = [Path(p) for p in self.of(rule, wildcards)["outputs"].values()]
        if not all(p.exists() for p in made):
            return False
        oldest = min(p.stat().st_mtime for p in made)
        return all(p.stat().st_mtime <= oldest for p in read if p.exists())

    def _make(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        found = job(self.catalogue, rule, wildcards)
        recipe: dict[str, Any] = {
            "rule": rule,
            "wildcards": wildcards,
            "settings": found.settings,
            "code": code(self.scripts / f"{rule}.py", tuple(found.plugins), tuple(found.files)),
            "software": {package: _version(package) for package in found.software},
            "upstream": {name: self._upstream(needed) for name, needed in found.inputs.items()},
        }
        if found.source is not None:
            recipe["source"] = found.source.get("checksum") or _content_digest(json.dumps(found.source, sort_keys=True))
            recipe["places"] = found.places
        key = key_of(recipe)
        files = {"inputs": {n: self._path(r) for n, r in found.inputs.items()}, "outputs": self.paths(rule, wildcards)}
        self.needed[key] = list(entries(found.inputs))
        return recipe | files | {"key": key}

    def _upstream(self, needed: Ref | list[Ref]) -> Any:
        if isinstance(needed, list):
            return [self._upstream(r) for r in needed]
        return self.of(needed.rule, dict(needed.wildcards))["key"]

    def _path(self, needed: Ref | list[Ref]) -> Any:
        if isinstance(needed, list):
            return [self._path(r) for r in needed]
        return self.paths(needed.rule, dict(needed.wildcards))[needed.output]


class _Anywhere(dict[str, str]):
    """Output files of no importance."""

    def __missing__(self, name: str) -> str:
        return name


def _settle(recipe: Path, inputs: list[Path], outputs: list[Path]) -> None:
    """Date the outputs, which are of this very recipe, after it and after all inputs, which copying may have mixed up;
    but not after an input that is no longer what its own note says.
    """
    oldest = min(p.stat().st_mtime for p in outputs)
    newer = [p for p in inputs if p.exists() and p.stat().st_mtime > oldest]
    if newer and all(read_note(p).get("sha256") == sha256(p) for p in newer):
        oldest = max(p.stat().st_mtime for p in newer)
        for path in outputs:
            _date(path, max(oldest, path.stat().st_mtime))
    if recipe.stat().st_mtime >= oldest:
        _date(recipe, oldest - 1)


def _date(path: Path, when: float) -> None:
    os.utime(path, (when, when))


@cache
def code(script: Path, plugins: tuple[tuple[str, str], ...], files: tuple[str, ...]) -> dict[str, str]:
    """{module or file: digest} of everything that `script` runs with these plug-ins."""
    ours = [module(kind, use) for kind, use in plugins if not is_object(use)]
    theirs = [outside(use) for _, use in plugins if is_object(use)]
    found = closure(script, ours) | {name: file_digest(PACKAGE / name) for name in files}
    return found | {name: digest for part in theirs for name, digest in part.items()}


@cache
def _content_digest(entry: str) -> str:
    return content_digest(json.loads(entry), MEMO)


@cache
def _version(package: str) -> str:
    return version(package).split("+")[0]  # the CPU and the GPU build of a release count as one
