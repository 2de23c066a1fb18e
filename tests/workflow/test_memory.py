"""The memory of jobs: with their settings glibc keeps what is freed, and they are told how much they were given."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import Project

from neuralign.common.memory import BUDGET
from neuralign.workflow.planning.costs import JOB_MEMORY
from neuralign.workflow.running.environment import KEPT_MEMORY, glibc_version

TOUCH = """
import ctypes, resource
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
size = {size}
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


def faults(size: int, *settings: str) -> int:
    """Pages that ten allocations of `size` bytes had to be given, after a first one."""
    command = ["env", *settings, sys.executable, "-c", TOUCH.replace("{size}", str(size))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not glibc_version(), reason="another C library")
@pytest.mark.parametrize("megabytes", [8, 64])
def test_freed_memory_is_reused_without_page_faults(megabytes: int) -> None:
    if megabytes > 32 and glibc_version() < (2, 35):
        pytest.skip("this glibc keeps no block above 32 MB")
    size = megabytes << 20
    pages = size // resource.getpagesize()
    assert faults(size, *KEPT_MEMORY) < pages < faults(size, "MALLOC_TRIM_THRESHOLD_=0")


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_job_is_told_how_much_memory_it_was_given(tmp_path: Path) -> None:
    project = Project.of_repository(tmp_path)
    code, text = project.dry_run("--printshellcmds")
    commands = [line for line in text.splitlines() if "scripts/" in line]
    assert code == 0 and len(commands) > 20, text
    budgets = {line.split("scripts/")[1].split(".py")[0]: line.split(f"{BUDGET}=")[1].split()[0] for line in commands}
    assert budgets["train_endpoint"] == budgets["evaluate"] == str(JOB_MEMORY)
    assert budgets["fetch_data"] == "6000" and budgets["tabulate"] == "2000"
