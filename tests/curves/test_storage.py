"""The ends and the bends of a path are read from files as they were written."""

from pathlib import Path

import pytest
import torch
from awkward import FREE
from safetensors.torch import save_file
from tiny import assert_same, pictures, randomised, shifts, unnormalised, whole
from torch import nn

from neuralign.common.tensors import save_tensors
from neuralign.curves.storage import load_bends, load_ends, name_bends
from neuralign.networks.model import Model
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import split_trainable
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.storage import save_permutation
from neuralign.symmetry.tracing.trace import trace_model

IMAGES = pictures(10)


def save_networks(network: nn.Module, folder: Path) -> tuple[list[dict[str, torch.Tensor]], list[str]]:
    """Two random states of the network, and the paths of the files that hold them."""
    states, paths = (
        [randomised(network, seed) for seed in (1, 2)],
        [str(folder / name) for name in ("target", "source")],
    )
    for state, path in zip(states, paths, strict=True):
        save_file(state, path)
    return states, paths


def test_the_ends_of_a_path_are_read_with_the_second_permuted(model: Model, tmp_path: Path) -> None:
    (target, source), files = save_networks(model.network, tmp_path)
    spec, path = trace_model(model, IMAGES).spec, tmp_path / "permutation.safetensors"
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15})
    start, end = load_ends(model, IMAGES, *files, str(path))
    assert_same(start, target)
    assert_same(end, permute(spec, shifts(spec), source))
    assert_same(load_ends(model, IMAGES, *files, None)[1], source)


def test_a_permutation_of_attention_heads_is_read_only_if_its_file_says_that_it_has_some(tmp_path: Path) -> None:
    model = unnormalised(FREE["encoder layer"][0]())
    (_, source), files = save_networks(model.network, tmp_path)
    spec, path = trace_model(model, IMAGES, attention=True).spec, tmp_path / "permutation.safetensors"
    assert any("blocks" in group for group in shifts(spec))
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15}, attention=True)
    assert_same(load_ends(model, IMAGES, *files, str(path))[1], permute(spec, shifts(spec), source))
    save_permutation(shifts(spec), path, spec, {"certificate": 1e-15})
    with pytest.raises(ValueError, match="its certificate is of another network, with other groups or sizes"):
        load_ends(model, IMAGES, *files, str(path))


@pytest.mark.parametrize("count", [1, 3])
def test_bends_come_back_as_they_were_written(tinyten: Model, tmp_path: Path, count: int) -> None:
    layout = FlatLayout.of(split_trainable(tinyten, whole(tinyten.network))[0])
    bends = torch.stack([layout.flatten(randomised(tinyten.network, seed)) for seed in range(count)])
    named = name_bends(layout, bends)
    assert named[f"{count}.fc.bias"].shape == (5,)
    save_tensors(named, tmp_path / "bends.safetensors")
    assert torch.equal(load_bends(str(tmp_path / "bends.safetensors"), layout, torch.zeros_like(bends)), bends)


def test_a_curve_without_bends_has_no_tensors(tinyten: Model) -> None:
    layout = FlatLayout.of(split_trainable(tinyten, whole(tinyten.network))[0])
    assert name_bends(layout, torch.empty(0, 1)) == {}
