"""How much memory a comparison needs, and that a certificate holds few copies of a network."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from neuralign.common.files import PACKAGE
from neuralign.symmetry.explain import _perturbed_when_read, perturbed_state
from neuralign.symmetry.memory import MARGIN, needed_memory
from neuralign.symmetry.permutations import PermutationSpec, permute, permute_when_read
from neuralign.symmetry.tracing import modes


def test_a_comparison_needs_one_state_two_gradients_and_the_activations() -> None:
    assert needed_memory(8, 100, 30, 40) == int(8 * 200 * MARGIN)


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
