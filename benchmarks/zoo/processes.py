"""Measures in separate processes with limits of time and memory."""

import json
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WALL_PER_CPU = 10  # the limit of wall seconds, as a multiple of the limit of CPU seconds


def measure(arguments: Sequence[str], seconds: int, memory: int) -> dict[str, Any]:
    """The row that a Python process with these arguments prints as JSON; {"failure": why} if it fails.

    It has limits of CPU seconds and GiB. CPU time is limited because wall time depends on what else the machine does; a
    process that hangs is ended too.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (memory << 30, memory << 30))

    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, preexec_fn=limit, timeout=WALL_PER_CPU * seconds, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return {"failure": f"it takes more than {WALL_PER_CPU * seconds} s"}
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        return {"failure": f"ended by {ended}, as for want of {memory} GiB or {seconds} s of the processor"}
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:200]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def print_row(compute: Callable[[], dict[str, Any]]) -> None:
    """Print a row as JSON, computed on one thread."""
    import torch

    from neuralign.symmetry.memory import return_freed_memory

    torch.set_num_threads(1)
    return_freed_memory()
    warnings.simplefilter("ignore")
    print(json.dumps(compute()))
