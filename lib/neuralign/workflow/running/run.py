"""Run one job of the workflow: `python scripts/align.py RECIPE` calls the script's `main` as the recipe says.

Each input, output and setting of the recipe becomes an argument of that name. A `main` with a parameter `scratch` also
gets a folder for its checkpoints, which is kept if the job fails; one with a parameter `others` gets the arguments of
other jobs that it shall do in the same process (`together.py`). When `main` has returned, a note of origin is written
beside each output, with what `main` returned, if anything.
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
from neuralign.workflow.running import elapsed, failure, termination, together
from neuralign.workflow.running.gpus import lease
from neuralign.workflow.running.notes import entries, hash_inputs, notes
from neuralign.workflow.running.processes import run_as_one_of_several, run_processes

log = logging.getLogger("neuralign")
Main = Callable[..., dict[str, Any] | None]  # of a script
SCRATCH = Path("results", ".scratch")
TOGETHER = "together"  # content of a job's lock file while the process of another job does it too
LOCK_TIMEOUT = 10.0  # seconds to wait for an earlier process of the same job, which may still be ending


def run(main: Main) -> None:
    """The command line of a script. Exits with status 1 after a failure and 128 + n after signal n."""
    termination.obey_signals()
    parser = argparse.ArgumentParser(description=inspect.getmodule(main).__doc__)
    parser.add_argument("recipe", type=Path, help="the job's recipe, a JSON file under results/recipes")
    parser.add_argument("--key", help="refuse a recipe that has another key than this")
    parser.add_argument("--gpu", type=int, default=1, help="how many GPUs to use where there are any (0: none)")
    parser.add_argument("--process-in", type=Path, help=argparse.SUPPRESS)  # for `processes.py`: its folder
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.INFO)
    if arguments.process_in:
        run_as_one_of_several(_checked(main, arguments.recipe), arguments.process_in)
        return
    try:
        recipe = json.loads(arguments.recipe.read_text())
        if arguments.key not in (None, recipe["key"]):
            sys.exit(
                f"{arguments.recipe}: the config or the code has changed since this run was planned; start it again"
            )
        _refuse_edited_code(recipe)
        termination.end_with_run()
        with lease(arguments.gpu):
            perform(main, recipe)
    except BaseException as error:
        failure.report(arguments.recipe, arguments.gpu, error)
        sys.exit(1)
    failure.forget(arguments.recipe)


def _refuse_edited_code(recipe: dict[str, Any]) -> None:
    """Exit if the user's code is not that of the recipe: the result would be kept as that of the code before."""
    if names := [name for name in _plugins(recipe["settings"]) if ":" in name]:
        # not before: a job without such plug-ins imports nothing of the config
        from neuralign.config.references import is_object
        from neuralign.workflow.provenance.code_digests import is_edited

        for name in filter(is_object, names):
            if is_edited(name, recipe["code"]):
                sys.exit(f"{name}: its code has been edited since this run was planned; start it again")


def _plugins(settings: Any) -> Iterator[str]:
    """What the settings of a job name by `use`, at any depth."""
    if isinstance(settings, dict):
        if isinstance(settings.get("use"), str):
            yield settings["use"]
        settings = list(settings.values())
    for part in settings if isinstance(settings, list) else ():
        yield from _plugins(part)


def perform(main: Main, recipe: dict[str, Any]) -> None:
    """Do one job: call `main`, or take its results if another job has made them, and write the notes of origin."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with _locked_outputs(recipe):
        for output in recipe["outputs"].values():
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            for old in [Path(note_path(output)), *leftovers(output), *leftovers(note_path(output))]:
                old.unlink(missing_ok=True)
        inputs = hash_inputs(recipe["inputs"])
        reported: dict[str, Any] = {}
        if (seconds := together.take_results(SCRATCH, recipe)) is None:
            seconds, reported = _call_main(main, recipe, began)
        check_closure(recipe)
        now = time.time()
        date_back(map(Path, [*entries(recipe["inputs"]), recipe_path(first_output(recipe))]), latest=now, when=now)
        for output in recipe["outputs"].values():
            _sync_to_disk(output)
        for path, note in notes(recipe, inputs, started, seconds, reported):
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(note, indent=1, sort_keys=True) + "\n")
    log.info("%s done in %.1f s", recipe["rule"], time.monotonic() - began)


def _call_main(main: Main, recipe: dict[str, Any], began: float) -> tuple[float, dict[str, Any]]:
    """Run the job and the jobs that it shares its process with.

    Returns the seconds of this job, and what it reports for its notes, without what is empty. The seconds are its share
    of the wall time, with that of earlier processes that were killed.
    `began`: when the job started, by `time.monotonic()`.
    """
    arguments = recipe["inputs"] | recipe["outputs"] | recipe["settings"] | _scratch_argument(main, recipe["key"])
    reported: dict[str, Any] | None = None
    with ExitStack() as locks:
        shared = list(_jobs_to_share(main, recipe, locks))
        for job in shared:
            log.info("together with %s", first_output(job))
        others = [
            job["inputs"]
            | together.stored_outputs(SCRATCH, job)
            | job["settings"]
            | _scratch_argument(main, job["key"])
            for job in shared
        ]
        earlier, *earlier_of_shared = (_begin(job, 1 + len(shared)) for job in (arguments, *others))
        try:
            if count := arguments.pop("gpus", None):
                run_processes(count, arguments)
            else:
                reported = main(**deepcopy(arguments), **({"others": deepcopy(others)} if others else {}))
        finally:  # also after an error: when this job's training has diverged, those of the others may have succeeded
            share = (time.monotonic() - began) / (1 + len(shared))
            for job, spent in zip(shared, earlier_of_shared, strict=True):
                if not together.mark_complete(SCRATCH, job, spent + share):
                    log.warning("no result for %s: it will be trained by its own job", first_output(job))
    return earlier + share, {name: value for name, value in (reported or {}).items() if value}


def _begin(arguments: dict[str, Any], sharing: int) -> float:
    """The seconds of earlier processes of a job (`elapsed.py`); 0 where it has no checkpoints to continue from."""
    return elapsed.begin(arguments["scratch"], sharing) if "scratch" in arguments else 0.0


def _jobs_to_share(main: Main, recipe: dict[str, Any], locks: ExitStack) -> Iterator[dict[str, Any]]:
    """The recipes of the other jobs that this process shall do too; `locks` holds their locks.

    There are none where `main` has no parameter `others`, or where the job has several processes itself. Jobs that
    another process is at work on are left out.
    """
    if "others" not in inspect.signature(main).parameters or "gpus" in recipe["settings"]:
        return
    count = 1
    for candidate in together.candidates(recipe):
        if count < together.limit() and locks.enter_context(_lock_if_free(candidate)):
            count += 1
            yield candidate


def _checked(main: Main, recipe: Path) -> Callable[..., None]:
    """`main`, and afterwards `check_closure`."""

    def checked(**arguments: Any) -> None:
        main(**arguments)
        check_closure(json.loads(recipe.read_text()))

    return checked


def check_closure(recipe: dict[str, Any]) -> None:
    """Raise an `AssertionError` if the process has imported modules that the recipe has no digest of.

    An edit of such a module would change results without changing their keys. This is for tests: it is checked only if
    the environment variable NEURALIGN_CHECK_CLOSURE is set.
    """
    if not os.environ.get("NEURALIGN_CHECK_CLOSURE"):
        return
    imported = {name for name in sys.modules if name == "neuralign" or name.startswith("neuralign.")}
    from neuralign.workflow.provenance.code_digests import is_runner

    if unknown := {name for name in imported - recipe["code"].keys() if not is_runner(name)}:
        raise AssertionError(f"{recipe['rule']} ran modules outside its recipe: {sorted(unknown)}")


def _scratch_argument(main: Main, key: str) -> dict[str, Path]:
    """{"scratch": the folder of this key}, which is created; empty for a `main` without that parameter."""
    if "scratch" not in inspect.signature(main).parameters:
        return {}
    folder = SCRATCH / key
    folder.mkdir(parents=True, exist_ok=True)
    return {"scratch": folder}


@contextmanager
def _locked_outputs(recipe: dict[str, Any]) -> Iterator[None]:
    """Hold the lock of the job's outputs, so that only one process writes them, under whatever key.

    The kernel releases the lock when the process ends, in whatever way. If another process holds it because it does
    this job together with its own, wait until it has finished. Else wait for `LOCK_TIMEOUT` seconds, for example for a
    process that is ending while its cluster job has already been requeued; then exit.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while (lock := _acquire(recipe)) is None:
        try:
            holder = _lock_path(recipe).read_text()
        except FileNotFoundError:  # it has just been released
            continue
        if holder != TOGETHER and time.monotonic() > deadline:
            sys.exit(f"{first_output(recipe)}: another process is at work on this job; wait for it to end, or stop it")
        time.sleep(0.5)
    with _released_afterwards(lock):
        yield


@contextmanager
def _lock_if_free(recipe: dict[str, Any]) -> Iterator[bool]:
    """Hold the lock of another job that this process does together with its own; False if another process holds it."""
    if (lock := _acquire(recipe)) is None:
        yield False
        return
    _lock_path(recipe).write_text(TOGETHER)
    with _released_afterwards(lock):
        yield True


@contextmanager
def _released_afterwards(lock: FileLock) -> Iterator[None]:
    """Remove the lock file and release the lock when the block ends."""
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # filelock accepts no lock on a file that has been removed
        lock.release()


def _acquire(recipe: dict[str, Any]) -> FileLock | None:
    """The lock of the job's outputs, with an empty lock file; None if another process holds it."""
    path = _lock_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        lock.acquire()
    except Timeout:
        return None
    path.write_text("")
    return lock


def _lock_path(recipe: dict[str, Any]) -> Path:
    """The lock file of a job, named after its first output."""
    return SCRATCH / f"{hashlib.sha256(first_output(recipe).encode()).hexdigest()[:20]}.lock"


def _sync_to_disk(path: str) -> None:
    """Wait until the content of a file has reached the disk. An `OSError` names the file.

    Without this, after a power cut a note could exist whose artefact was never written. Also, a network file system
    reports a full disk only at this point.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(handle)
