"""How much memory a comparison needs, and that a certificate holds few copies of a network."""

import pytest
import torch
from torch import nn

from neuralign.symmetry.certificate import FLOAT32, FLOAT64, Precision, _cast
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


@pytest.mark.parametrize("precision", [FLOAT32, FLOAT64], ids=str)
def test_a_copy_of_a_state_has_its_values_strides_and_version_counters(precision: Precision) -> None:
    state = {
        "transposed": torch.randn(3, 5).t(),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "counter": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(70).half(),
        "complex": torch.randn(3, dtype=torch.complex64),
    }
    copies = _cast(nn.Linear(3, 4), state, precision)
    for name, tensor in state.items():
        expected = tensor.to(precision.dtype_for(tensor.dtype), copy=True)
        assert torch.equal(copies[name], expected) and copies[name].dtype == expected.dtype
        assert copies[name].stride() == expected.stride() and copies[name].data_ptr() % 64 == 0
    version = copies["half"]._version
    copies["transposed"].add_(1)  # a network may overwrite its buffers before a backward pass reads other tensors
    assert copies["half"]._version == version and torch.equal(copies["half"], state["half"].to(copies["half"]))
