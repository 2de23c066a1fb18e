"""The note of origin of an artefact: a JSON file beside it that says what it was made from, by which code and where.

A note holds the digests of the artefact and of the inputs, the recipe, its key, the keys of the recipes of the inputs,
and a digest of the note itself. So notes form a Merkle tree like recipes, and `neuralign verify` can check them against
each other and against the artefacts without the workflow.
"""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from neuralign.common.files import PACKAGE, note_path, sha256

# the parts of a recipe that its key is a digest of
IDENTITY = ("rule", "wildcards", "settings", "code", "software", "source", "places", "upstream")
LIBRARIES = {  # {distribution: module} whose versions are noted where the module is imported
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "huggingface-hub": "huggingface_hub",
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "scikit-learn": "sklearn",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
}
Note = dict[str, Any]


def key_of(recipe: Mapping[str, Any]) -> str:
    """The key of a recipe, or of the recipe in a note: a digest of all that the result depends on."""
    identity = {name: recipe[name] for name in IDENTITY if name in recipe}
    if recipe.get("places"):
        identity["settings"] = settings_of_key(recipe)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def settings_of_key(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without paths and URLs of data: the same bytes from another place are the same data."""
    settings = recipe["settings"]
    for location in recipe.get("places", []):
        settings = _without(settings, location)
    return dict(settings)


def stands_for(note: Mapping[str, Any], key: str) -> bool:
    """Whether the artefact of a note counts as made under `key`: it was, or it was restored as such (bundle.py)."""
    return key in (note.get("key"), note.get("restored_as"))


def _without(settings: Mapping[str, Any], location: str) -> dict[str, Any]:
    """The settings without one of them, whose keys `location` names with dots between them, as in `dataset.url`."""
    first, _, rest = location.partition(".")
    if not rest:
        return {key: value for key, value in settings.items() if key != first}
    return {**settings, first: _without(settings[first], rest)}


def hash_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """{name: {path, sha256}, or a list of them} of the input files of a job, `inputs`: {name: path, or a list}."""
    digests: dict[str, str] = {}

    def entry(path: str) -> dict[str, str]:
        if path not in digests:
            digests[path] = sha256(path)
        return {"path": path, "sha256": digests[path]}

    return {n: [entry(p) for p in paths] if isinstance(paths, list) else entry(paths) for n, paths in inputs.items()}


def notes(
    recipe: Mapping[str, Any], inputs: Mapping[str, Any], started: str, seconds: float, reported: Mapping[str, Any]
) -> Iterator[tuple[str, Note]]:
    """(path, note) for every output of a finished job.

    Args:
        recipe: the recipe of the job.
        inputs: its input files with their digests (`hash_inputs`), taken before it began.
        started: when its last process began, as ISO 8601 text.
        seconds: how long it took, with earlier processes that were killed.
        reported: what the job says of its results that the recipe cannot know, such as warnings; {} if nothing.

    `peak_memory` is the largest memory in megabytes that this process has had, and `cpu_use` how many processors it has
    kept busy on average; jobs that share a process share both.
    """
    common = {name: recipe[name] for name in (*IDENTITY, "key") if name in recipe}
    common |= {"inputs": inputs, "seeds": seeds(recipe["rule"], recipe["settings"])}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes
    common |= {"started": started, "seconds": round(seconds, 2), "cpu_use": round(_cpu_use(), 3)}
    common |= {"peak_memory": round(peak / 1e6), **origin()}
    common |= {"reported": dict(reported)} if reported else {}
    for output in recipe["outputs"].values():
        note = common | {"artefact": output, "sha256": sha256(output)}
        yield note_path(output), note | {"digest": digest(note)}


def _cpu_use() -> float:
    """Processor time of this process and of those it has started, by the time since it began."""
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used / max(time.time() - psutil.Process().create_time(), 1e-3)


def digest(note: Mapping[str, Any]) -> str:
    """The digest of a note's content; the entry `digest` itself and the formatting of the JSON do not count."""
    content = {name: value for name, value in note.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seeds(rule: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """{name: seed} of all seeds in the settings of a job; the name is that of the settings it stands in, or `rule`."""
    collected: dict[str, int] = {}
    for name, value in settings.items():
        if name == "seed":
            collected[rule] = value
        elif isinstance(value, Mapping):
            collected |= seeds(name, value)
    return collected


def flat(inputs: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Any]]:
    """(name, position in its list or None, entry) of all inputs or upstream keys. `inputs`: {name: entry or list}."""
    for name, value in inputs.items():
        if isinstance(value, list):
            yield from ((name, i, entry) for i, entry in enumerate(value))
        else:
            yield name, None, value


def entries(inputs: Mapping[str, Any]) -> Iterator[Any]:
    """All entries of inputs or upstream keys, without names. `inputs`: {name: entry or list of them}."""
    return (entry for _, _, entry in flat(inputs))


def read_note(output: str | Path) -> Note:
    """The note of origin of `output`; empty if there is none or it cannot be read."""
    try:
        note = json.loads(Path(note_path(output)).read_text())
        return note if isinstance(note, dict) and "key" in note else {}
    except (OSError, ValueError):
        return {}


def origin() -> dict[str, Any]:
    """Commit, versions of the libraries in use, platform, processor, device, its precision, threads of this process.

    Where it has read repositories of a hub that are named without a commit, also `hub`, {name: commit}.
    """
    torch, hub = sys.modules.get("torch"), sys.modules.get("neuralign.networks.hubs.files")
    on_gpu = torch is not None and torch.cuda.is_available()
    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "versions": versions(name for name, module in LIBRARIES.items() if module in sys.modules),
        "platform": platform.platform(),
        "processor": processor(),
        "device": torch.cuda.get_device_name() if torch and on_gpu else "CPU",
        "tf32": bool(torch and on_gpu and torch.backends.cudnn.allow_tf32),  # whether float32 convolutions run in TF32
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    } | ({"hub": dict(hub.REVISIONS)} if hub and hub.REVISIONS else {})


@cache
def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those `packages` that are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def git(*arguments: str) -> str | None:
    """The output of a git command in the folder of this package; None if it fails or git is not installed."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        process = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
