"""How much memory is free, and how much the comparison of two networks needs."""

import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
GIB = 2**30
M_MMAP_THRESHOLD = -3  # of malloc.h
MARGIN = (
    1.1  # for what is needed for a moment; the measured need of a vit_b_16 is 0.7, of a resnet101 1.0 of the estimate
)


def free_memory(device: torch.device) -> float:
    """How many bytes can still be allocated on a device; infinity where the system does not tell.

    On the CPU this is the smallest of what the machine has free, what the control groups of the process (version 2; of
    a container or a job of Slurm) allow, and the limits of its address space and of its data (`ulimit -v`, `-d`).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([*_free_by_machine(), *_free_by_control_groups(), *_free_by_process_limits()], default=float("inf"))


def needed_memory(itemsize: int, state: int, gradients: int, activations: int) -> int:
    """How many bytes `outputs_and_gradients` of two networks need, one after the other, besides the networks.

    Args:
        itemsize: bytes of a number.
        state: numbers in a network's parameters and buffers, of which there is one copy.
        gradients: numbers in the gradients that are held at once, of each network.
        activations: numbers in all results of a forward pass, of which the backward pass may need every one.
    """
    return int(itemsize * (state + 2 * gradients + activations) * MARGIN)


def return_freed_memory() -> None:
    """Let the C library return the memory of each tensor above 1 MiB to the system as soon as it is freed.

    By default glibc keeps what is freed between tensors that are still in use, and a process that works on a large
    network holds up to twice what it needs. It costs a little time; it is for whole processes, so no library call does
    it. The environment variable MALLOC_MMAP_THRESHOLD_=1048576 has the same effect.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in every C library
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)


def _free_by_machine() -> Iterator[int]:
    """What the kernel can give to a new process without swapping."""
    if (path := Path("/proc/meminfo")).is_file():
        lines = (line.split() for line in path.read_text().splitlines())
        yield from (int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def _free_by_control_groups() -> Iterator[int]:
    """What each control group of this process, from the innermost to the outermost, lets it allocate."""
    if not (path := Path("/proc/self/cgroup")).is_file():
        return
    for line in path.read_text().splitlines():
        if line.startswith("0::"):
            innermost = CGROUPS / line.removeprefix("0::").strip("/")
            for group in (innermost, *innermost.parents):
                if group.is_relative_to(CGROUPS):
                    yield from _free_in_control_group(group)


def _free_in_control_group(group: Path) -> Iterator[int]:
    """The limit less what is in use; files in the page cache are not, for they give way."""
    limit, used, statistics = (group / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        cached = dict(line.split() for line in statistics.read_text().splitlines())
        yield int(most) - int(used.read_text()) + int(cached.get("inactive_file", 0))


def _free_by_process_limits() -> Iterator[int]:
    """The limits of the address space and of the data of this process, less what it has of each."""
    statistics = Path("/proc/self/statm")
    if not statistics.is_file():
        return
    pages = statistics.read_text().split()  # of the address space first, of data and stack sixth
    for kind, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
            yield limit - int(used) * resource.getpagesize()
