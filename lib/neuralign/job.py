"""Run one job of the workflow: `python scripts/align.py RECIPE` calls the script's `main` with what the recipe says.

`main` gets every input, output and setting as an argument of that name, and `scratch`, a folder that outlives a crash,
if it asks for it. When it has returned, a note of origin is written beside each output.
"""

import argparse
import fcntl
import inspect
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralign.files import atomic, note_path, sha256
from neuralign.gpus import lease

log = logging.getLogger("neuralign")
PACKAGE = Path(__file__).parent
SCRATCH = Path("results", ".scratch")


def run(main: Callable[..., None]) -> None:
    """The command line of a script."""
    parser = argparse.ArgumentParser(description=inspect.getmodule(main).__doc__)
    parser.add_argument("recipe", type=Path, help="the job's recipe, a JSON file under results/recipes")
    parser.add_argument("--key", help="refuse a recipe that has another key than this")
    parser.add_argument("--gpu", type=int, default=1, help="how many GPUs to use where there are any (0: none)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.INFO)
    recipe = json.loads(arguments.recipe.read_text())
    if arguments.key not in (None, recipe["key"]):
        sys.exit(f"{arguments.recipe}: the config or the code has changed since this run was planned; start it again")
    try:
        with lease(arguments.gpu):
            perform(main, recipe)
    except BaseException:
        threads = [f"OMP_NUM_THREADS={n}" for n in filter(None, [os.environ.get("OMP_NUM_THREADS")])]
        environment = ["env", f"PYTHONPATH={PACKAGE.parent}", *threads]
        alone = shlex.join([*environment, sys.executable, "-P", sys.argv[0], str(arguments.recipe)])
        log.error("this job alone, in %s: %s", Path.cwd(), alone)
        raise


def perform(main: Callable[..., None], recipe: dict[str, Any]) -> None:
    """Call `main` and write the notes of origin."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    for output in recipe["outputs"].values():
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(note_path(output)).unlink(missing_ok=True)
    arguments = recipe["inputs"] | recipe["outputs"] | recipe["settings"]
    with _scratch(main, recipe["key"]) as scratch:
        main(**arguments, **scratch)
    if os.environ.get("NEURALIGN_CHECK_CLOSURE"):
        check_closure(recipe)
    note = {
        **{k: recipe[k] for k in ("rule", "wildcards", "key", "settings", "inputs", "upstream")},
        "started": started,
        "seconds": round(time.monotonic() - began, 2),
        **_origin(),
    }
    for output in recipe["outputs"].values():
        with atomic(note_path(output)) as temporary:
            temporary.write_text(json.dumps(note | {"sha256": sha256(output)}, indent=1, sort_keys=True) + "\n")
    log.info("%s done in %.1f s", recipe["rule"], note["seconds"])


def check_closure(recipe: dict[str, Any]) -> None:
    """Refuse a job that ran code its recipe does not know of: an edit there would go unnoticed."""
    ran = {name for name in sys.modules if name == "neuralign" or name.startswith("neuralign.")}
    from neuralign.code import RUNNER  # here, for it is no part of a job

    if unknown := ran - recipe["code"].keys() - RUNNER:
        raise AssertionError(f"{recipe['rule']} ran modules outside its recipe: {sorted(unknown)}")


@contextmanager
def _scratch(main: Callable[..., None], key: str) -> Iterator[dict[str, Path]]:
    """A folder of this key, locked against a second writer, for a `main` that has a parameter `scratch`."""
    if "scratch" not in inspect.signature(main).parameters:
        yield {}
        return
    folder = SCRATCH / key
    folder.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / f"{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{folder}: another process is at work on this job; wait for it to end, or stop it")
        yield {"scratch": folder}
    Path(lock.name).unlink(missing_ok=True)


def _origin() -> dict[str, Any]:
    """Commit, versions and device of this process."""
    torch = sys.modules.get("torch")
    packages = ["numpy", *(["torch"] if torch else [])]
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "CPU",
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None
