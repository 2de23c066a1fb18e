"""Assign each job one GPU by file locks, which the kernel releases however the job ends.

Snakemake limits how many jobs use a GPU at the same time, but does not say which device each of them shall use. So each
device has NEURALIGN_SLOTS_PER_GPU slots (default 1; more let small jobs share a device), each slot has a lock file, and
a job waits until it holds one. The slots are common to all processes of a user on a machine. Within a Slurm job they
are common to the processes of that Slurm job only, and the devices are those that Slurm has allocated to it.
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
    """Ids of the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES if it is set, else all there are."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        listed = map(str.strip, visible.split(","))
        return list(takewhile(lambda d: d and not d.startswith("-"), listed))  # CUDA ignores -1 and what follows
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return [str(i) for i in range(count)]  # CUDA numbers visible devices from 0: /dev/nvidia3 alone is its device 0


def slots() -> list[tuple[str, int]]:
    """(device, slot number) pairs, slot 0 of every device first, so that jobs spread over the devices."""
    slots_per_gpu = os.environ.get("NEURALIGN_SLOTS_PER_GPU", "1")
    if not slots_per_gpu.isdecimal() or int(slots_per_gpu) < 1:
        raise ValueError(f"NEURALIGN_SLOTS_PER_GPU must be a number of slots, 1 or more; found {slots_per_gpu!r}")
    return [(device, i) for i in range(int(slots_per_gpu)) for device in devices()]


@contextmanager
def lease(gpus: int) -> Iterator[None]:
    """Wait for a free slot, hold it during the block, and set CUDA_VISIBLE_DEVICES to its device.

    `gpus` = 0 hides all devices instead. On a machine without GPUs this does nothing.
    """
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus == 0 or not devices():
        yield
        return
    folder = _folder()
    folder.mkdir(exist_ok=True)
    has_logged = False
    while True:
        for device, i in slots():
            with (folder / f"{device}.{i}".replace("/", "_")).open("w") as lock:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # children do not inherit it
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                log.info("on GPU %s", device)
                yield
                return
        if not has_logged:
            log.warning("waiting for one of %d GPU slots", len(slots()))
            has_logged = True
        time.sleep(1)


def _folder() -> Path:
    """The folder of the lock files; one for each Slurm job, as device 0 can be another GPU in each of them."""
    job = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir(), f"neuralign-gpus-{os.getuid()}" + (f"-slurm-{job}" if job else ""))
