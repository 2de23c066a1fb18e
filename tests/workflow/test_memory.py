"""With the settings of jobs, glibc keeps freed memory."""

import platform
import resource
import subprocess
import sys

import pytest

from neuralign.workflow.running.failure import KEPT_MEMORY

TOUCH = """
import ctypes, resource
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
size = 8 << 20
def touch():
    piece = library.malloc(ctypes.c_size_t(size))
    ctypes.memset(piece, 1, size)
    library.free(ctypes.c_void_p(piece))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*settings: str) -> int:
    """Pages that ten allocations of 8 MB had to be given, after a first one."""
    command = ["env", *settings, sys.executable, "-c", TOUCH]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_reused_without_page_faults() -> None:
    pages = (8 << 20) // resource.getpagesize()
    assert faults(*KEPT_MEMORY) < pages < faults("MALLOC_TRIM_THRESHOLD_=0")
