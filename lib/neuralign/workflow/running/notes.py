"""The note of origin of an artefact: what it is, what it was made from, by which code, where, and digests of all that.

A note holds the digest of its artefact, those of the inputs, the whole recipe, whose digest is the key, the keys of the
recipes upstream, and a digest of the note itself. So notes form a Merkle tree like recipes, and `neuralign verify` can
check one against the other without the workflow.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neuralign.common.files import PACKAGE, note_path, sha256

# what a recipe's key is made of
IDENTITY = ("rule", "wildcards", "settings", "code", "software", "source", "places", "upstream")
LIBRARIES = {  # package: module
    "torch": "torch",
    "torchvision": "torchvision",
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
    """The key of a recipe, or of the recipe in a note: a digest of all but where files lie."""
    identity = {name: recipe[name] for name in IDENTITY if name in recipe}
    for place in recipe.get("places", []):  # the same bytes from another place are the same data
        identity["settings"] = _without(identity["settings"], place)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _without(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The settings without the one that lies at `place`, its keys with dots between them."""
    first, _, rest = place.partition(".")
    if not rest:
        return {key: value for key, value in settings.items() if key != first}
    return {**settings, first: _without(settings[first], rest)}


def hashed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """{name: {path, sha256}, or a list of them} of the files a job reads."""
    found: dict[str, str] = {}

    def entry(path: str) -> dict[str, str]:
        if path not in found:
            found[path] = sha256(path)
        return {"path": path, "sha256": found[path]}

    return {name: [entry(p) for p in of] if isinstance(of, list) else entry(of) for name, of in inputs.items()}


def notes(
    recipe: Mapping[str, Any], inputs: Mapping[str, Any], began: str, seconds: float
) -> Iterator[tuple[str, Note]]:
    """(path, note) for every output of a job that is done; `inputs` as `hashed` gave them before it began."""
    told = {name: recipe[name] for name in (*IDENTITY, "key") if name in recipe}
    told |= {"inputs": inputs, "seeds": seeds(recipe["rule"], recipe["settings"])}
    told |= {"started": began, "seconds": round(seconds, 2), **origin()}
    for output in recipe["outputs"].values():
        note = told | {"artefact": output, "sha256": sha256(output)}
        yield note_path(output), note | {"digest": digest(note)}


def digest(note: Mapping[str, Any]) -> str:
    """The digest of a note's content, itself and white space aside."""
    content = {name: value for name, value in note.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seeds(rule: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Every seed among the settings of a job, by the name of what it is a seed of."""
    found: dict[str, int] = {}
    for name, value in settings.items():
        if name == "seed":
            found[rule] = value
        elif isinstance(value, Mapping):
            found |= seeds(name, value)
    return found


def flat(inputs: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Any]]:
    """(name, place in its list, entry) of inputs or upstream keys, which are entries or lists of them."""
    for name, of in inputs.items():
        if isinstance(of, list):
            yield from ((name, i, entry) for i, entry in enumerate(of))
        else:
            yield name, None, of


def entries(inputs: Mapping[str, Any]) -> Iterator[Any]:
    """The entries alone."""
    return (entry for _, _, entry in flat(inputs))


def read_note(output: str | Path) -> Note:
    """The note of origin of `output`; empty if it has none that can be read."""
    try:
        note = json.loads(Path(note_path(output)).read_text())
        return note if "key" in note else {}
    except (OSError, ValueError, TypeError):
        return {}


def origin() -> dict[str, Any]:
    """Commit, versions of the libraries in use, platform, device and threads of this process."""
    torch = sys.modules.get("torch")
    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "versions": versions(name for name, module in LIBRARIES.items() if module in sys.modules),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "CPU",
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def versions(packages: Any) -> dict[str, str]:
    """Versions of Python and of those `packages` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git(*arguments: str) -> str | None:
    """What git says of the folder this code lies in; None where it does not know it, or is not there."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        found = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None
