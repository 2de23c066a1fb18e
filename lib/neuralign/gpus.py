"""One GPU for one job: a slot taken by a file lock, which the kernel gives back however the job ends.

Snakemake counts `gpu` but hands out no device ids. Slots are shared by all processes of this machine and user.
`NEURALIGN_SLOTS_PER_GPU` (default 1) lets several small jobs share a device.
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

log = logging.getLogger(__name__)


def devices() -> list[str]:
    """Ids of the GPUs this process may use: those of CUDA_VISIBLE_DEVICES, else all the machine has."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        listed = map(str.strip, visible.split(","))
        return list(takewhile(lambda d: d and not d.startswith("-"), listed))  # -1 ends the list, says CUDA
    return sorted((p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")), key=int)


def slots() -> list[tuple[str, int]]:
    """(device, slot) pairs, one slot of every device first, so that jobs spread over the devices."""
    wanted = os.environ.get("NEURALIGN_SLOTS_PER_GPU", "1")
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"NEURALIGN_SLOTS_PER_GPU: found {wanted!r}, a number from 1 is wanted")
    return [(device, i) for i in range(int(wanted)) for device in devices()]


@contextmanager
def lease(gpus: int) -> Iterator[None]:
    """Give this process a device of its own through CUDA_VISIBLE_DEVICES, waiting until one is free.

    0 hides all devices. On a machine without GPUs, and inside Slurm, which does it itself, nothing is done.
    """
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus == 0 or not devices() or "SLURM_JOB_ID" in os.environ:
        yield
        return
    folder = Path(tempfile.gettempdir(), f"neuralign-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    waited = False
    while True:
        for device, i in slots():
            with (folder / f"{device}.{i}".replace("/", "_")).open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                yield
                return
        if not waited:
            log.info("waiting for one of %d GPU slots", len(slots()))
            waited = True
        time.sleep(1)
