"""End a job early, by a signal or because the run that started it has died, without leaving half-written files.

Ctrl-C, Slurm's time limit and a preemption arrive as signals. The code that a signal interrupts can swallow an
exception that the handler raises (C++ code of torch does), so the handler removes temporary files and ends the process
itself. A run that is killed by SIGKILL sends its jobs no signal: they and the shells that started them would go on. So
a job watches the processes between itself and the run, and ends when one of them does.
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
    """End at SIGTERM, SIGINT or SIGHUP with exit status 128 + its number.

    A signal that is already ignored, as SIGHUP under nohup, stays ignored.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        end(128 + number, f"ended by {signal.Signals(number).name}")

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)


def end_with_run() -> None:
    """End this process when the run that started it ends, or a shell between them.

    Does nothing without a run (the job was started by hand), if the run is no ancestor of this process (a Slurm job),
    and on other systems than Linux, which have no `pidfd_open`.
    """
    if RUN not in os.environ or not hasattr(os, "pidfd_open"):
        return
    run, poll = int(os.environ[RUN]), select.poll()
    ancestors = [process.pid for process in psutil.Process().parents()]
    if run not in ancestors and psutil.pid_exists(run):
        return
    try:
        for process in ancestors[: ancestors.index(run) + 1] if run in ancestors else [run]:
            # not psutil's `wait`, which also waits until the parent of the ended process has reaped it
            poll.register(os.pidfd_open(process), select.POLLIN)
    except ProcessLookupError:
        sys.exit(f"process {run}, the run that started this job, is gone")

    def wait() -> None:
        poll.poll()
        end(128 + signal.SIGTERM, f"process {run}, the run that started this job, is gone; ended")

    threading.Thread(target=wait, daemon=True).start()


def end(status: int, why: str) -> NoReturn:
    """Remove temporary files and end this process at once, from any thread; the kernel releases its locks."""
    discard()
    message = (
        f"{time.strftime('%H:%M:%S')}  {why}; no half-written result is left, a training goes on from its checkpoint\n"
    )
    with contextlib.suppress(OSError):  # standard error may be a terminal that has been closed
        os.write(2, message.encode())  # not by `logging`, as the signal may have interrupted it while it holds its lock
    os._exit(status)
