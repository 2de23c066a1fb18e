"""Memory that a process keeps."""

import platform
import resource
import subprocess
import sys

import pytest

TOUCH = """
import ctypes, resource, sys
from neuralign.workflow.running.malloc import keep
if sys.argv[1] == "keep":
    assert keep()
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
    library.malloc_trim(0) if sys.argv[1] == "trim" else None
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that ten allocations of 8 MB had to be given, after a first one."""
    done = subprocess.run([sys.executable, "-c", TOUCH, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_is_used_again_without_asking_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    pages = (8 << 20) // resource.getpagesize()
    assert faults("keep") < pages < faults("trim")
