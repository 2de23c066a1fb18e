"""Run one job of the workflow: `python scripts/align.py RECIPE` calls the script's `main` with what the recipe says.

`main` gets every input, output and setting as an argument of that name, and `scratch`, a folder that outlives a crash,
if it asks for it. When it has returned, a note of origin is written beside each output.
"""

import argparse
import hashlib
import inspect
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from neuralign.common.files import atomic, date_back, first_output, leftovers, note_path, recipe_path
from neuralign.workflow.running import failure, termination, together
from neuralign.workflow.running.gpus import lease
from neuralign.workflow.running.notes import entries, hashed, notes

log = logging.getLogger("neuralign")
SCRATCH = Path("results", ".scratch")
TOGETHER = "together"  # in the lock of a job that another one does together with its own
ENDING = 10.0  # seconds that an earlier life of a job may take to end after its next one has begun


def run(main: Callable[..., None]) -> None:
    """The command line of a script. Exit status 1 for a failure, 128 + n after signal n."""
    termination.obey_signals()
    parser = argparse.ArgumentParser(description=inspect.getmodule(main).__doc__)
    parser.add_argument("recipe", type=Path, help="the job's recipe, a JSON file under results/recipes")
    parser.add_argument("--key", help="refuse a recipe that has another key than this")
    parser.add_argument("--gpu", type=int, default=1, help="how many GPUs to use where there are any (0: none)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        recipe = json.loads(arguments.recipe.read_text())
        if arguments.key not in (None, recipe["key"]):
            sys.exit(
                f"{arguments.recipe}: the config or the code has changed since this run was planned; start it again"
            )
        termination.end_with_run()
        with lease(arguments.gpu):
            perform(main, recipe)
    except BaseException as error:
        failure.report(arguments.recipe, arguments.gpu, error)
        sys.exit(1)
    failure.forget(arguments.recipe)


def perform(main: Callable[..., None], recipe: dict[str, Any]) -> None:
    """Call `main` and write the notes of origin."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with _only_writer(recipe):
        for output in recipe["outputs"].values():
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            for old in [Path(note_path(output)), *leftovers(output), *leftovers(note_path(output))]:
                old.unlink(missing_ok=True)
        read = hashed(recipe["inputs"])
        if (seconds := together.take(SCRATCH, recipe)) is None:
            seconds = _do(main, recipe, began)
        if os.environ.get("NEURALIGN_CHECK_CLOSURE"):
            check_closure(recipe)
        now = time.time()
        date_back(map(Path, [*entries(recipe["inputs"]), recipe_path(first_output(recipe))]), latest=now, when=now)
        for output in recipe["outputs"].values():
            _to_disk(output)
        for path, note in notes(recipe, read, started, seconds):
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(note, indent=1, sort_keys=True) + "\n")
    log.info("%s done in %.1f s", recipe["rule"], time.monotonic() - began)


def _do(main: Callable[..., None], recipe: dict[str, Any], began: float) -> float:
    """Call `main`, for other jobs too where it can do several; the seconds that count as this job's."""
    own = recipe["inputs"] | recipe["outputs"] | recipe["settings"] | _scratch(main, recipe["key"])
    with ExitStack() as locks:
        others = list(_with(main, recipe, locks))
        for other in others:
            log.info("together with %s", first_output(other))
        paths = [o["inputs"] | together.shelf(SCRATCH, o) | o["settings"] | _scratch(main, o["key"]) for o in others]
        try:
            main(**deepcopy(own), **({"others": deepcopy(paths)} if others else {}))
        finally:  # theirs may be whole where its own training diverged
            share = (time.monotonic() - began) / (1 + len(others))
            for other in others:
                if not together.lay_up(SCRATCH, other, share):
                    log.warning("no result for %s: its own job will try", first_output(other))
    return share


def _with(main: Callable[..., None], recipe: dict[str, Any], locks: ExitStack) -> Iterator[dict[str, Any]]:
    """Other jobs that this one does, whose locks it holds: where `main` has a parameter `others`."""
    count = 1
    for other in together.others(recipe) if "others" in inspect.signature(main).parameters else ():
        if count < together.limit() and locks.enter_context(_aside(other)):
            count += 1
            yield other


def check_closure(recipe: dict[str, Any]) -> None:
    """Refuse a job that ran code its recipe does not know of: an edit there would go unnoticed."""
    ran = {name for name in sys.modules if name == "neuralign" or name.startswith("neuralign.")}
    from neuralign.workflow.provenance.code_digests import is_runner

    if unknown := {name for name in ran - recipe["code"].keys() if not is_runner(name)}:
        raise AssertionError(f"{recipe['rule']} ran modules outside its recipe: {sorted(unknown)}")


def _scratch(main: Callable[..., None], key: str) -> dict[str, Path]:
    """A folder of this key, for a `main` that has a parameter `scratch`."""
    if "scratch" not in inspect.signature(main).parameters:
        return {}
    folder = SCRATCH / key
    folder.mkdir(parents=True, exist_ok=True)
    return {"scratch": folder}


@contextmanager
def _only_writer(recipe: dict[str, Any]) -> Iterator[None]:
    """Hold the lock of the job's outputs, whatever their key; the kernel gives it back however the job ends.

    Waits for a process that does this job together with its own, and a little for one that is about to end, as when a
    cluster has put a job back into its queue.
    """
    last = time.monotonic() + ENDING
    while (lock := _locked(recipe)) is None:
        try:
            holder = _lock_path(recipe).read_text()
        except FileNotFoundError:  # it has just been given back
            continue
        if holder != TOGETHER and time.monotonic() > last:
            sys.exit(f"{first_output(recipe)}: another process is at work on this job; wait for it to end, or stop it")
        time.sleep(0.5)
    with _released(lock):
        yield


@contextmanager
def _aside(recipe: dict[str, Any]) -> Iterator[bool]:
    """Hold the lock of another job, to do it together with one's own; False where somebody has it."""
    if (lock := _locked(recipe)) is None:
        yield False
        return
    _lock_path(recipe).write_text(TOGETHER)
    with _released(lock):
        yield True


@contextmanager
def _released(lock: FileLock) -> Iterator[None]:
    """The lock is free afterwards, and its file gone."""
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # filelock takes no file that is gone for a lock
        lock.release()


def _locked(recipe: dict[str, Any]) -> FileLock | None:
    """The lock that stands for the job's outputs, its file empty; None where another process has it."""
    path = _lock_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock outlives its holder
    try:
        lock.acquire()
    except Timeout:
        return None
    path.write_text("")
    return lock


def _lock_path(recipe: dict[str, Any]) -> Path:
    return SCRATCH / f"{hashlib.sha256(first_output(recipe).encode()).hexdigest()[:20]}.lock"


def _to_disk(path: str) -> None:
    """Wait until the content has reached the disk: a note must not survive a power cut that its artefact does not, and
    a network file system tells of a full disk only here.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(handle)
