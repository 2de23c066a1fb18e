"""A recipe is a small JSON file that says all a job may know, and is an input of that job.

It holds the job's files, its settings, the digest of every module its script can reach, and the keys of the recipes
upstream (a Merkle tree). Its content changes if and only if the result would, so Snakemake's ordinary comparison of
input files decides what is stale: after any edit, with its own records lost, in a copied results folder, on another
branch. `diff` of two recipes says why.
"""

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralign.code import PACKAGE, closure, file_digest
from neuralign.config import Catalogue
from neuralign.data.sources import identity
from neuralign.files import atomic
from neuralign.workflow import Job, Ref, job

MEMO = Path("results", ".identities.json")  # digests of local data already computed
Paths = Callable[[str, dict[str, str]], dict[str, str]]  # (rule, wildcards) -> {output: path}


class Recipes:
    """Recipes of the jobs of one workflow. `scripts`: folder of the scripts; `paths`: the rules' output files."""

    def __init__(self, catalogue: Catalogue, scripts: Path, paths: Paths):
        self.catalogue, self.scripts, self.paths = catalogue, scripts, paths
        self.made: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]] = {}

    def of(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        """The recipe of one job; its `key` names the result."""
        name = (rule, tuple(sorted(wildcards.items())))
        if name not in self.made:
            self.made[name] = self._make(rule, wildcards)
        return self.made[name]

    def write(self, rule: str, wildcards: dict[str, str]) -> str:
        """Write the recipe if it is new or has changed; its path."""
        recipe = self.of(rule, wildcards)
        outputs = [Path(p) for p in recipe["outputs"].values()]
        path = Path(recipe_path(outputs[0]))
        text = json.dumps(recipe, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            with atomic(path) as temporary:
                temporary.write_text(text)
        if all(p.exists() for p in outputs) and noted_key(outputs[0]) == recipe["key"]:
            oldest = min(p.stat().st_mtime for p in outputs)
            if path.stat().st_mtime >= oldest:  # the outputs are of this very recipe, whatever the clock says
                os.utime(path, (oldest - 1, oldest - 1))
        return str(path)

    def _make(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        found: Job = job(self.catalogue, rule, wildcards)
        recipe = {
            "rule": rule,
            "wildcards": wildcards,
            "settings": found.settings,
            "code": code(self.scripts / f"{rule}.py", tuple(found.plugins), tuple(found.files)),
            "software": {package: _version(package) for package in found.software},
            "upstream": {name: self._upstream(needed) for name, needed in found.inputs.items()},
        }
        identity_of = recipe
        if rule == "fetch_data":
            source = found.settings["dataset"]
            recipe["source"] = source.get("checksum") or _identity(json.dumps(source, sort_keys=True))
            # the same bytes from another mirror are the same data
            identity_of = recipe | {"settings": {k: v for k, v in source.items() if k != "url"}}
        key = hashlib.sha256(json.dumps(identity_of, sort_keys=True).encode()).hexdigest()[:20]
        files = {"inputs": {n: self._path(r) for n, r in found.inputs.items()}, "outputs": self.paths(rule, wildcards)}
        return recipe | files | {"key": key}

    def _upstream(self, needed: Ref | list[Ref]) -> Any:
        if isinstance(needed, list):
            return [self._upstream(r) for r in needed]
        return self.of(needed.rule, dict(needed.wildcards))["key"]

    def _path(self, needed: Ref | list[Ref]) -> Any:
        if isinstance(needed, list):
            return [self._path(r) for r in needed]
        return self.paths(needed.rule, dict(needed.wildcards))[needed.output]


def recipe_path(output: str | Path) -> str:
    """Where the recipe of the job that makes `output` lies: results/x/y.csv -> results/recipes/x/y.csv.json."""
    root, *rest = Path(output).parts
    return str(Path(root, "recipes", *rest)) + ".json"


def note_path(output: str | Path) -> str:
    """Where the note of origin of an artefact lies: beside it."""
    return f"{output}.json"


def noted_key(output: Path) -> str | None:
    """The key of the recipe that `output` was made from; None if it has no note."""
    try:
        return json.loads(Path(note_path(output)).read_text())["key"]
    except FileNotFoundError:
        return None


@cache
def code(script: Path, plugins: tuple[tuple[str, str], ...], files: tuple[str, ...]) -> dict[str, str]:
    """{module or file: digest} of everything that `script` runs with these plug-ins."""
    modules = closure(script, [f"neuralign.{home}.{use}" for home, use in plugins])
    return modules | {name: file_digest(PACKAGE / name) for name in files}


@cache
def _identity(entry: str) -> str:
    return identity(json.loads(entry), MEMO)


@cache
def _version(package: str) -> str:
    return version(package).split("+")[0]  # the CPU and the GPU build of a release count as one
