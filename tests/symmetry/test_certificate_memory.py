"""How much memory is free, and that a certificate holds few copies of a network."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from neuralign.common.files import PACKAGE
from neuralign.symmetry import memory
from neuralign.symmetry.explain import _perturbed_when_read, perturbed_state
from neuralign.symmetry.memory import free_memory, needed_memory
from neuralign.symmetry.permutations import PermutationSpec, permute, permute_when_read
from neuralign.symmetry.tracing import modes

CPU = torch.device("cpu")


def test_a_control_group_limits_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    for name, text in {"max": "5000\n", "current": "4000\n", "stat": "anon 3000\ninactive_file 700\n"}.items():
        (group.parent / f"memory.{name}").write_text(text)
    (group / "memory.max").write_text("max\n")
    assert list(memory._free_in_control_group(group.parent)) == [1700]
    assert list(memory._free_in_control_group(group)) == []
    monkeypatch.setattr(memory, "_free_by_control_groups", lambda: memory._free_in_control_group(group.parent))
    assert free_memory(CPU) == 1700


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the kernel of Linux tells it")
def test_the_machine_limits_the_free_memory() -> None:
    assert 0 < free_memory(CPU) <= os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the kernel of Linux tells it")
@pytest.mark.parametrize("limit, field", [("RLIMIT_AS", 0), ("RLIMIT_DATA", 5)])
def test_the_limits_of_the_process_limit_the_free_memory(limit: str, field: int) -> None:
    code = (
        "import resource, torch\n"
        "from neuralign.symmetry.memory import free_memory\n"
        f"used = int(open('/proc/self/statm').read().split()[{field}]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.{limit}, (used + 2**28, used + 2**28))\n"
        "assert 2**27 < free_memory(torch.device('cpu')) <= 2**28\n"
    )
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_where_no_file_tells_of_memory_it_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_free_by_machine", "_free_by_control_groups", "_free_by_process_limits"):
        monkeypatch.setattr(memory, name, lambda: iter(()))
    assert free_memory(CPU) == float("inf")


def test_a_comparison_needs_one_state_two_gradients_and_the_activations() -> None:
    assert needed_memory(8, 100, 30, 40) == int(8 * 200 * memory.MARGIN)


def test_tensors_that_are_computed_when_read_are_those_of_the_whole_state() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    whole, lazy = perturbed_state(network, 3), _perturbed_when_read(network, 3)
    spec = PermutationSpec({"0.weight": ((("u", 1),), ())}, {"u": 4})
    permutation = {"u": torch.tensor([2, 0, 3, 1])}
    permuted, lazily = permute(spec, permutation, whole), permute_when_read(spec, permutation, lazy)
    assert list(whole) == list(lazy) and list(permuted) == list(lazily) and len(lazy) == len(whole)
    for name in reversed(whole):
        assert torch.equal(lazy[name], whole[name]) and torch.equal(lazily[name], permuted[name])
    assert not torch.equal(permuted["0.weight"], whole["0.weight"])
    with pytest.raises(KeyError, match="nothing"):
        lazy["nothing"]


def test_a_recorded_run_keeps_no_tensor() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    recorder = modes.run(network, torch.ones(5, 3), frozenset()).recorder
    assert not recorder.records and not recorder.constants and not list(recorder.network.parameters())
    assert recorder.used_parameters == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert recorder.activations >= 5 * (4 + 4 + 2)


def test_views_of_parameters_are_no_activations() -> None:
    network = nn.Linear(100, 100).eval()  # whose run transposes the weight
    assert modes.run(network, torch.ones(5, 100), frozenset()).recorder.activations == 5 * 100


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="it is about glibc")
@pytest.mark.parametrize("call", ["", "return_freed_memory()"])
def test_freed_memory_returns_to_the_system_on_request(call: str) -> None:
    code = (
        "import torch\n"
        "from neuralign.symmetry.memory import return_freed_memory\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        f"{call}\n"
        "torch.ones(2**19)\n"  # 2 MiB; after it glibc takes others of this size from its heap
        "before = resident()\n"
        "tensors = [torch.ones(2**19) for _ in range(100)]\n"
        "tensors = tensors[-1:]\n"
        "print((resident() - before) // 2**20)\n"
    )
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert int(done.stdout) < 20 if call else int(done.stdout) > 150
