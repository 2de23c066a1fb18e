"""Assign each job its GPUs, most often one, by file locks, which the kernel releases however the job ends.

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
from contextlib import ExitStack, contextmanager
from itertools import islice, takewhile
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
    """Wait for free slots on so many devices, hold them during the block, and set CUDA_VISIBLE_DEVICES to these.

    `gpus` = 0 hides all devices instead. On a machine without GPUs this does nothing. Raises ValueError if there are
    fewer devices.
    """
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus == 0 or not devices():
        yield
        return
    if gpus > len(devices()):
        raise ValueError(
            f"gpus: this job needs {gpus} GPUs at once, and {len(devices())} are visible to it; lower `gpus` of its "
            "regime, or compute on the CPU with `snakemake --resources gpu=0`"
        )
    folder = _folder()
    folder.mkdir(exist_ok=True)
    has_logged = False
    while True:
        with ExitStack() as locks:
            free = list(islice(_free_devices(folder, locks), gpus))
            if len(free) == gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(free)
                log.info("on GPU %s", ", ".join(free))
                yield
                return
        # the slots are given back while this waits, so that jobs which need several never wait for each other
        if not has_logged:
            log.warning("waiting for %d of %d GPU slots", gpus, len(slots()))
            has_logged = True
        time.sleep(1)


def _free_devices(folder: Path, locks: ExitStack) -> Iterator[str]:
    """Different devices that have a free slot, which `locks` holds from then on."""
    leased: set[str] = set()
    for device, i in slots():
        if device in leased:
            continue
        lock = locks.enter_context((folder / f"{device}.{i}".replace("/", "_")).open("w"))
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # children do not inherit it
        except BlockingIOError:
            continue
        leased.add(device)
        yield device


def _folder() -> Path:
    """The folder of the lock files; one for each Slurm job, as device 0 can be another GPU in each of them."""
    job = os.environ.get("SLURM_JOB_ID")
    return Path(tempfile.gettempdir(), f"neuralign-gpus-{os.getuid()}" + (f"-slurm-{job}" if job else ""))
