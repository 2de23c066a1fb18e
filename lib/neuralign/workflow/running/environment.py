"""The environment of a job: settings of the memory allocator, and in a checkout the path of this package."""

import os

from neuralign.common.files import PACKAGE


def glibc_version() -> tuple[int, ...]:
    """Major and minor version of this machine's glibc; () for another C library."""
    name = "CS_GNU_LIBC_VERSION"
    words = (os.confstr(name) or "").split() if name in os.confstr_names else []  # such as glibc 2.36
    return tuple(int(number) for number in words[1].split(".")[:2]) if words else ()


# Every training step frees its activations and allocates as much again. By default, glibc returns large blocks to the
# operating system, which then has to zero new pages: 6 % of the time of a step of TinyTen, 20 % of an alignment of
# ResNet32, 60 % of an evaluation of TinyTen in batches of 1,024 (docs/measurements.md). With these settings a job keeps
# up to 2 GB of freed memory, in blocks of up to 1 GB (32 MB before glibc 2.35, which refuses more).
LARGEST_BLOCK = 1 << (30 if glibc_version() >= (2, 35) else 25)
KEPT_MEMORY = (f"MALLOC_MMAP_THRESHOLD_={LARGEST_BLOCK}", f"MALLOC_TRIM_THRESHOLD_={(1 << 31) - 1}")


def environment_of_jobs() -> list[str]:
    """The beginning of a job's command line.

    An installed package is on the path already; its folder before the standard library could hide modules of that.
    """
    from neuralign.common.workflow_files import IS_CHECKOUT  # here, as no job has it in its recipe

    return ["env", *([f"PYTHONPATH={PACKAGE.parent}"] if IS_CHECKOUT else []), *KEPT_MEMORY]
