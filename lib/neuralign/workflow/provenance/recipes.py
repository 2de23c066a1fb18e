"""The recipe of a job: a JSON file with everything its result depends on. It is an input file of the job.

A recipe holds the paths of the job's files, its settings, the digest of every module that its script can import, and
the keys of the recipes of its inputs. Its own key is a digest of all this but the paths, so the keys form a Merkle
tree: a key changes if and only if the result would. Snakemake's ordinary comparison of the modification times of input
and output files then decides which jobs run again (`Recipes.write` says how). This works after any edit, without
Snakemake's own records, in a copied results folder and on another branch; `diff` of two recipes shows what changed.
If an output on disk was made under another key, the recipe also records that key and its date, as `replaces`.
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
from neuralign.common.workflow_files import WORKFLOW
from neuralign.config.catalogue import Catalogue
from neuralign.config.checking.hub_names import DISTRIBUTIONS, hub_of
from neuralign.config.plugins import HUB_MODULE, module, object_outside
from neuralign.config.references import is_hub, is_object
from neuralign.datasets.reading.locations import content_digest
from neuralign.workflow.graph import job
from neuralign.workflow.job import Ref
from neuralign.workflow.provenance.code_digests import closure, external_code, file_digest, file_of, modules_used
from neuralign.workflow.running.notes import entries, key_of, read_note, stands_for

LONG_AGO = 1e9  # seconds since the epoch; older than any result
IDENTITY_CACHE = Path("results", ".identities.json")  # digests of the user's own data files, so each is hashed once
Paths = Callable[[str, dict[str, str]], dict[str, str]]  # (rule, wildcards) -> {output: path}


class Recipes:
    """Recipes of the jobs of one catalogue. `paths`: the rules' output files."""

    def __init__(self, catalogue: Catalogue, paths: Paths):
        self.catalogue, self.paths = catalogue, paths
        self.written: dict[str, dict[str, Any]] = {}  # path -> the recipe that this process has written there
        self._built: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Any]] = {}  # (rule, wildcards) -> recipe
        self._inputs: dict[str, list[Ref]] = {}  # key -> the inputs of the job

    @classmethod
    def without_paths(cls, catalogue: Catalogue) -> "Recipes":
        """Recipes that are good for their keys only: keys do not depend on the paths of outputs."""
        return cls(catalogue, lambda rule, wildcards: _PlaceholderPaths())

    def of(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        """The recipe of one job; its `key` identifies the result."""
        name = (rule, tuple(sorted(wildcards.items())))
        if name not in self._built:
            self._built[name] = self._build(rule, wildcards)
        return self._built[name]

    def write(self, rule: str, wildcards: dict[str, str]) -> str:
        """Write the recipe of a job, after those of its inputs, if it is new or has changed; returns its path.

        It also sets the modification times (mtimes) by which Snakemake decides whether the job has to run:

        outputs on disk            | mtimes                                    | Snakemake
        ---------------------------|-------------------------------------------|------------------------------------
        none                       | recipe: `LONG_AGO`                        | runs the job if an output is needed
        all, each with a note that | recipe: before the outputs;               | does not run the job, unless an
          has this key             | outputs: not before any input, unless the | input has been changed
                                   | content of one has changed                |
        anything else (another     | recipe: after the outputs if its text has | runs the job; if the text is
          key, no note, a missing  | changed, else as it was                   | unchanged, decides as it did at
          output)                  |                                           | the last planning

        In the first case a recent date would be wrong: where an intermediate file is missing, Snakemake compares its
        inputs with the results further downstream and would make those again, although their own recipes are unchanged.
        In the third case a recipe whose output has another key has a new text, because it records what it `replaces`.
        Recipes and outputs dated in the future, as after a clock was set back, are dated to the present first.
        """
        recipe = self.of(rule, wildcards)
        outputs = [Path(p) for p in recipe["outputs"].values()]
        path = Path(recipe_path(outputs[0]))
        if str(path) in self.written:
            return str(path)
        self.written[str(path)] = recipe
        for ref in self._inputs[recipe["key"]]:
            self.write(ref.rule, dict(ref.wildcards))
        existing = [p for p in outputs if p.exists()]
        now = time.time()
        date_back([path], latest=now + 1, when=now)
        date_back(existing, latest=now, when=now - 1)
        notes = [read_note(p) for p in existing]
        stale = [n for n in notes if n and not stands_for(n, recipe["key"])]
        replaces = {"replaces": {k: stale[0].get(k) for k in ("key", "started")}} if stale else {}
        text = json.dumps(recipe | replaces, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            with atomic(path) as temporary:
                temporary.write_text(text)
            _set_mtime(path, max([time.time(), *(p.stat().st_mtime + 1 for p in existing)]))
        if not existing:
            _set_mtime(path, LONG_AGO)
        elif existing == outputs and all(stands_for(n, recipe["key"]) for n in notes):
            _date_as_current(path, [Path(p) for p in entries(recipe["inputs"])], outputs)
        return str(path)

    def is_current(self, rule: str, wildcards: dict[str, str]) -> bool:
        """Whether all outputs of a job exist and none is older than its inputs or its recipe, so it need not run."""
        inputs = [Path(self.write(rule, wildcards)), *map(Path, entries(self.of(rule, wildcards)["inputs"]))]
        outputs = [Path(p) for p in self.of(rule, wildcards)["outputs"].values()]
        if not all(p.exists() for p in outputs):
            return False
        oldest = min(p.stat().st_mtime for p in outputs)
        return all(p.stat().st_mtime <= oldest for p in inputs if p.exists())

    def inputs_to_demand(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        """{name: path, or a list of them} of the inputs that Snakemake has to provide for a job.

        A finished job does not demand its dataset if that is not there. Otherwise, where something else needs the
        dataset, as after `neuralign restore`, Snakemake would also repeat all that was made from it before; but a
        dataset that is made again has the same bytes.
        """
        recipe = self.of(rule, wildcards)
        inputs: dict[str, Any] = recipe["inputs"]
        if "data" not in inputs or Path(inputs["data"]).exists():
            return inputs
        is_finished = all(
            Path(path).exists() and stands_for(read_note(path), recipe["key"]) for path in recipe["outputs"].values()
        )
        return {name: path for name, path in inputs.items() if name != "data"} if is_finished else inputs

    def _build(self, rule: str, wildcards: dict[str, str]) -> dict[str, Any]:
        """The recipe of one job, as `of` returns it; its inputs are kept for `write`."""
        described = job(self.catalogue, rule, wildcards)
        recipe: dict[str, Any] = {
            "rule": rule,
            "wildcards": wildcards,
            "settings": described.settings,
            "code": code(WORKFLOW / "scripts" / f"{rule}.py", tuple(described.plugins), tuple(described.files)),
            "software": {package: _version(package) for package in described.software},
            "upstream": {name: self._keys(refs) for name, refs in described.inputs.items()},
        }
        if (source := described.source) is not None:
            recipe["source"] = described.declared_source or _content_digest(json.dumps(source, sort_keys=True))
            recipe["places"] = described.places
        key = key_of(recipe)
        inputs = {name: self._paths(refs) for name, refs in described.inputs.items()}
        self._inputs[key] = list(entries(described.inputs))
        return recipe | {"inputs": inputs, "outputs": self.paths(rule, wildcards), "key": key}

    def _keys(self, refs: Ref | list[Ref]) -> Any:
        """The key of the job that makes an input, or a list of them."""
        if isinstance(refs, list):
            return [self._keys(ref) for ref in refs]
        return self.of(refs.rule, dict(refs.wildcards))["key"]

    def _paths(self, refs: Ref | list[Ref]) -> Any:
        """The path of an input, or a list of them."""
        if isinstance(refs, list):
            return [self._paths(ref) for ref in refs]
        return self.paths(refs.rule, dict(refs.wildcards))[refs.output]


class _PlaceholderPaths(dict[str, str]):
    """Output files whose paths are not used: the name of an output stands for its path."""

    def __missing__(self, name: str) -> str:
        return name


def _date_as_current(recipe: Path, inputs: list[Path], outputs: list[Path]) -> None:
    """Set the mtimes of outputs made from this recipe so that Snakemake takes them for current.

    Copying a results folder can leave inputs newer than outputs; then the outputs get the time of the newest input.
    They keep their own if the content of any newer input differs from its note: that input has been changed since, and
    Snakemake shall run the job again.
    """
    oldest = min(p.stat().st_mtime for p in outputs)
    newer = [p for p in inputs if p.exists() and p.stat().st_mtime > oldest]
    if newer and all(read_note(p).get("sha256") == sha256(p) for p in newer):
        oldest = max(p.stat().st_mtime for p in newer)
        for path in outputs:
            _set_mtime(path, max(oldest, path.stat().st_mtime))
    if recipe.stat().st_mtime >= oldest:
        _set_mtime(recipe, oldest - 1)


def _set_mtime(path: Path, when: float) -> None:
    os.utime(path, (when, when))


@cache
def code(script: Path, plugins: tuple[tuple[str, str], ...], files: tuple[str, ...]) -> dict[str, str]:
    """{module, file or distribution: digest or version} of all code that `script` can run with these plug-ins.

    Args:
        script: the script of the rule.
        plugins: (kind, name) of each plug-in, of this package or from outside (`config.plugins`), or of what a hub has.
        files: data files that the code reads, as in `Job`.
    """
    hubs = [plugin for plugin in plugins if is_hub(plugin[1])]
    outside = {plugin: name for plugin in plugins if plugin not in hubs and (name := object_outside(*plugin))}
    modules = [module(*plugin) for plugin in plugins if plugin not in (*hubs, *outside)]
    modules += [HUB_MODULE] if hubs else []
    modules += [imported for name in outside.values() for imported in modules_used(name)]
    digests = closure(script, modules) | {name: file_digest(PACKAGE / name) for name in files if not is_object(name)}
    external = [(name, external_code(name)) for name in outside.values()]
    external += [(name, file_of(name)) for name in files if is_object(name)]
    for kind, name in hubs:
        if (kind, hub_of(name)) != ("checkpoints", "hf-hub"):  # which no library computes anything of
            library = DISTRIBUTIONS[hub_of(name)]
            external.append((name, {library: _version(library)}))
    for name, of_object in external:
        for label, digest in of_object.items():  # files of the same name in different folders both count
            digests[label if digests.get(label, digest) == digest else f"{label} of {name}"] = digest
    return digests


@cache
def _content_digest(entry: str) -> str:
    """The digest of the user's own data files that a config entry, as JSON, names."""
    return content_digest(json.loads(entry), IDENTITY_CACHE)


@cache
def _version(package: str) -> str:
    return version(package).split("+")[0]  # the CPU and the GPU build of a release count as one
