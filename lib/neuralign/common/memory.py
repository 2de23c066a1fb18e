"""How much memory is free, and whether data fit into it. Imports no torch unless a GPU is asked about."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neuralign.common.errors import UserError

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
BUDGET = "NEURALIGN_MEMORY"  # environment variable: megabytes that a job may take; the rules set it to their mem_mb
SHARE = 0.5  # of the free memory that data may fill; the rest is for networks, batches and their activations
# the files of a control group: its limit, what is in use, and what of that is cached files; of version 2 and version 1
FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(device: "torch.device | None" = None) -> float:
    """How many bytes can still be allocated on a device; infinity where the system does not tell.

    On the CPU, which is meant by None, this is the smallest of what the machine has free, what the control groups of
    the process (of a container or a job of Slurm) allow, and the limits of its address space and of its data
    (`ulimit -v`, `-d`).
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return min([*_free_by_machine(), *_free_by_control_groups(), *_free_by_process_limits()], default=float("inf"))


def fits(size: int, device: "torch.device | None" = None) -> bool:
    """Whether data of `size` bytes shall be held on the device (None: the CPU): in at most SHARE of what is free there.

    On the CPU, what the environment variable BUDGET leaves to this process counts, too.
    """
    free = free_memory(device)
    if device is None or device.type == "cpu":
        free = min([free, *_free_by_budget()])
    return size <= SHARE * free


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
        number, controllers, place = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            version, root = (2, CGROUPS) if number == "0" else (1, CGROUPS / "memory")
            innermost = root / place.strip("/")
            for group in (innermost, *innermost.parents):
                if group.is_relative_to(root):
                    yield from _free_in_control_group(group, version)


def _free_in_control_group(group: Path, version: int = 2) -> Iterator[int]:
    """The limit less what is in use; files in the page cache are not, for they give way."""
    limit_file, used_file, cached = FILES[version]
    limit = group / limit_file
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield int(most) - int((group / used_file).read_text()) + int(statistics.get(cached, 0))


def _free_by_process_limits() -> Iterator[int]:
    """The limits of the address space and of the data of this process, less what it has of each."""
    for kind, size in zip((resource.RLIMIT_AS, resource.RLIMIT_DATA), _process_sizes()[::2], strict=False):
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
            yield limit - size


def _free_by_budget() -> Iterator[float]:
    """What BUDGET names less what the process holds in memory."""
    if text := os.environ.get(BUDGET):
        if not text.isdecimal():
            raise UserError(f"{BUDGET}: found {text!r}; a whole number of megabytes is needed")
        yield int(text) * 1e6 - sum(_process_sizes()[1:2])


def _process_sizes() -> list[int]:
    """Bytes of this process's address space, of its part in memory, and of its data; [] where no system tells."""
    if not (path := Path("/proc/self/statm")).is_file():
        return []
    pages = path.read_text().split()
    return [int(pages[i]) * resource.getpagesize() for i in (0, 1, 5)]
