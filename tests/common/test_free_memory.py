"""How much memory is free, and whether data fit into it."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from neuralign.common import memory
from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.common.memory import fits, free_memory


def test_a_control_group_limits_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    for name, text in {"max": "5000\n", "current": "4000\n", "stat": "anon 3000\ninactive_file 700\n"}.items():
        (group.parent / f"memory.{name}").write_text(text)
    (group / "memory.max").write_text("max\n")
    assert list(memory._free_in_control_group(group.parent)) == [1700]
    assert list(memory._free_in_control_group(group)) == []
    monkeypatch.setattr(memory, "_free_by_control_groups", lambda: memory._free_in_control_group(group.parent))
    assert free_memory() == 1700


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the kernel of Linux tells it")
@pytest.mark.parametrize("limit, field", [("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)])
def test_the_machine_and_the_limits_of_the_process_limit_the_free_memory(limit: str, field: int) -> None:
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    code = (
        "import resource\n"
        "from neuralign.common.memory import free_memory\n"
        f"used = int(open('/proc/self/statm').read().split()[{field}]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.{limit}, (used + 2**28, used + 2**28))\n"
        "assert 2**27 < free_memory() <= 2**28\n"
    )
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_where_no_file_tells_of_memory_it_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_free_by_machine", "_free_by_control_groups", "_free_by_process_limits"):
        monkeypatch.setattr(memory, name, lambda: iter(()))
    assert free_memory() == float("inf")


def test_a_control_group_of_version_1_limits_the_free_memory(tmp_path: Path) -> None:
    files = {"limit_in_bytes": "5000\n", "usage_in_bytes": "4000\n", "stat": "rss 3000\ntotal_inactive_file 700\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert list(memory._free_in_control_group(tmp_path, 1)) == [1700]
    assert list(memory._free_in_control_group(tmp_path, 2)) == []


def test_data_fit_into_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.BUDGET, raising=False)
    monkeypatch.setattr(memory, "free_memory", lambda device=None: 1000)
    assert fits(500) and not fits(501)


def test_data_fit_into_half_of_what_the_process_has_left_of_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_process_sizes", lambda: [10**9, 10**6])
    monkeypatch.setenv(memory.BUDGET, "3")
    assert fits(10**6) and not fits(10**6 + 1)
    monkeypatch.setenv(memory.BUDGET, "0")
    assert not fits(0)


@pytest.mark.parametrize("text", ["8 GB", "-1", "0.5"])
def test_a_budget_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.BUDGET, text)
    with pytest.raises(UserError, match=f"^NEURALIGN_MEMORY: found '{text}'; a whole number of megabytes is needed$"):
        fits(1)
