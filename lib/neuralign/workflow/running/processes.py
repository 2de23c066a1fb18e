"""The processes of a job that trains one model on several devices: they are started, watched and ended together.

The process of the job itself computes nothing then. It starts the script once for each device, with the environment
variables of `torchrun`, and waits. If one of them fails or is killed, it ends all others and raises the error of that
one. If it is itself killed, they end with it.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from neuralign.common.files import atomic, discard
from neuralign.workflow.running import termination
from neuralign.workflow.running.gpus import devices

GRACE = 5.0  # seconds in which the other processes may say why they fail too, before they are killed
ARGUMENTS = "arguments.json"


def run_processes(count: int, arguments: Mapping[str, Any]) -> None:
    """Run the script of this job in `count` processes, until all have ended.

    In each, `main` gets these arguments, and `processes`, by which they know of each other. If one fails, exits with
    what the process says that failed first.
    """
    with tempfile.TemporaryDirectory(prefix="neuralign-processes-") as folder:
        Path(folder, ARGUMENTS).write_text(json.dumps(arguments, default=str))
        command = [sys.executable, "-P", *sys.argv, "--process-in", folder]
        processes = [subprocess.Popen(command, env=_environment(rank, count, folder)) for rank in range(count)]
        try:
            while not (failed := _failed(processes)) and None in map(subprocess.Popen.poll, processes):
                time.sleep(0.05)
            deadline = time.monotonic() + (GRACE if failed and not any(map(_signal, failed.values())) else 0)
            while None in map(subprocess.Popen.poll, processes) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()  # without effect on those that have ended
                process.wait()
        if failed := failed or _failed(processes):
            sys.exit(_cause(failed, count, Path(folder)))


def _failed(processes: list[subprocess.Popen[bytes]]) -> dict[int, int]:
    """{rank: exit status} of the processes that have failed so far."""
    return {rank: status for rank, p in enumerate(processes) if (status := p.poll())}


def _signal(status: int) -> str:
    """The name of the signal that ended a process with this exit status, empty if none did (`termination.end`)."""
    number = -status if status < 0 else status - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def _cause(failed: Mapping[int, int], count: int, folder: Path) -> str:
    """What the process said that failed first. `failed`: {rank: exit status} of those that were the first to end.

    The others fail because they lose their connection to it, and say so later.
    """
    reports = {r["rank"]: r for r in (json.loads(path.read_text()) for path in folder.glob("error.*.json"))}
    for rank, status in failed.items():
        if rank not in reports:
            how = f"was ended by {_signal(status)}" if _signal(status) else f"ended with status {status}"
            return f"process {rank} of {count} {how}; so the others were ended too"
    first = min(reports.values(), key=lambda report: report["when"])
    return f"process {first['rank']} of {count}: {first['error']}"


def _environment(rank: int, count: int, folder: str) -> dict[str, str]:
    """The environment variables of one process: its number, its device, its share of the threads and of the memory."""
    from neuralign.common.memory import BUDGET  # here, as not every job has it in its recipe

    shared = {
        name: n for name, n in os.environ.items() if (name.endswith("_THREADS") or name == BUDGET) and n.isdecimal()
    }
    shared = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)} | shared
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    environment = os.environ | {name: str(number) for name, number in numbers.items()}
    environment |= {name: str(max(1, int(n) // count)) for name, n in shared.items()}
    # a file, as a port that is free now may be taken a moment later; the processes are on one machine
    environment |= {"NEURALIGN_RENDEZVOUS": f"file://{folder}/rendezvous", termination.RUN: str(os.getpid())}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if gpus := devices():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[rank]
    return environment


def run_as_one_of_several(main: Callable[..., None], folder: Path) -> None:
    """Call `main` with the processes of this job; if it fails, leave its error in `folder` and exit with status 1."""
    termination.end_with_run()
    if os.environ["RANK"] != "0":
        logging.getLogger("neuralign").setLevel(logging.ERROR)  # the first process writes the log
    try:
        from neuralign.networks.setup import device
        from neuralign.training.distributed.processes import joined

        with joined(device()) as processes:
            main(**json.loads((folder / ARGUMENTS).read_text()), processes=processes)
    except BaseException as error:
        _fail(folder, error)


def _fail(folder: Path, error: BaseException) -> NoReturn:
    rank, text = int(os.environ["RANK"]), "".join(traceback.format_exception(error)).rstrip()
    report = {"when": time.time(), "rank": rank, "error": text}
    with atomic(folder / f"error.{rank}.json") as temporary:
        temporary.write_text(json.dumps(report))
    discard()
    os._exit(1)  # at once: an ordinary end could wait for the other processes
