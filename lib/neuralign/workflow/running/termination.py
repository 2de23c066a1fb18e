"""How a job ends before its time: at a signal, or when the run that started it is gone; always with its files in order.

Ctrl-C, Slurm's time limit and a preemption come as signals. An exception raised by a signal handler can be swallowed by
what it interrupts (C++ code of torch does so), so the handler cleans up and ends the process itself. A run that is
killed outright cannot send signals; the shell between it and a job lives on, and so would the job. So a job watches its
ancestors up to that run.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

import psutil

from neuralign.common.files import discard

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RUN = "NEURALIGN_RUN"  # the environment variable with the process id of the run; rules/common.smk sets it


def obey_signals() -> None:
    """End at SIGTERM, SIGINT or SIGHUP with exit status 128 + its number; but not where one is ignored, as by nohup."""

    def obey(number: int, frame: FrameType | None) -> None:
        end(128 + number, f"ended by {signal.Signals(number).name}")

    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, obey)


def end_with_run() -> None:
    """End this process when the run that started it does, or a shell between them.

    Without a run, as when a person started it, where the run is no ancestor, as in a job of Slurm's, and where the
    kernel cannot tell (only Linux can), nothing is watched.
    """
    if RUN not in os.environ or not hasattr(os, "pidfd_open"):
        return
    run, poll = int(os.environ[RUN]), select.poll()
    ancestors = [process.pid for process in psutil.Process().parents()]
    if run not in ancestors and psutil.pid_exists(run):
        return
    try:
        for process in ancestors[: ancestors.index(run) + 1] if run in ancestors else [run]:
            # psutil's own wait would go on until a process that has ended is reaped as well
            poll.register(os.pidfd_open(process), select.POLLIN)
    except ProcessLookupError:
        sys.exit(f"process {run}, the run that started this job, is gone")

    def wait() -> None:
        poll.poll()
        end(128 + signal.SIGTERM, f"process {run}, the run that started this job, is gone; ended")

    threading.Thread(target=wait, daemon=True).start()


def end(status: int, why: str) -> NoReturn:
    """End this process at once, from any thread: temporary files are removed, locks the kernel gives back."""
    discard()
    told = (
        f"{time.strftime('%H:%M:%S')}  {why}; no half-written result is left, a training goes on from its checkpoint\n"
    )
    with contextlib.suppress(OSError):  # of a terminal that has hung up
        os.write(2, told.encode())  # the logging module may be what was interrupted
    os._exit(status)
