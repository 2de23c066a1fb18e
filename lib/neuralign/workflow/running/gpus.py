"""One GPU for one job: a slot taken by a file lock, which the kernel gives back however the job ends.

Snakemake counts `gpu` but hands out no device ids. Slots are shared by all processes of this machine and user, in an
allocation of Slurm by those of the allocation: a job to which Slurm has given a device gets just that.
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
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return [str(i) for i in range(count)]  # CUDA counts what it finds: in a container /dev/nvidia3 may be its device 0


def slots() -> list[tuple[str, int]]:
    """(device, slot) pairs, one slot of every device first, so that jobs spread over the devices."""
    wanted = os.environ.get("NEURALIGN_SLOTS_PER_GPU", "1")
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"NEURALIGN_SLOTS_PER_GPU: found {wanted!r}, a number from 1 is wanted")
    return [(device, i) for i in range(int(wanted)) for device in devices()]


@contextmanager
def lease(gpus: int) -> Iterator[None]:
    """Give this process a device of its own through CUDA_VISIBLE_DEVICES, waiting until one is free.

    0 hides all devices. On a machine without GPUs nothing is done.
    """
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus == 0 or not devices():
        yield
        return
    folder = _folder()
    folder.mkdir(exist_ok=True)
    waited = False
    while True:
        for device, i in slots():
            with (folder / f"{device}.{i}".replace("/", "_")).open("w") as lock:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process: no child inherits it
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                log.info("on GPU %s", device)
                yield
                return
        if not waited:
            log.info("waiting for one of %d GPU slots", len(slots()))
            waited = True
        time.sleep(1)


def _folder() -> Path:
    """Where the locks lie. Jobs of Slurm may all see a device 0 that is another one for each."""
    job = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir(), f"neuralign-gpus-{os.getuid()}" + (f"-slurm-{job}" if job else ""))
