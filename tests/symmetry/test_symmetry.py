"""Permutations of neurons change the weights, never the function."""

from pathlib import Path

import pytest
import torch
from tiny import assert_close, assert_same, generator, randomised, shifts, whole
from torch import Tensor, nn

from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import (
    Blocks,
    PermutationSpec,
    check,
    extent,
    identity,
    inverse,
    mix,
    move_counts,
    permute,
)
from neuralign.symmetry.storage import save_permutation
from neuralign.symmetry.tracing.trace import trace

# a: 2 channels, b: 3; `w` has a then b on its rows, and two neighbouring columns for each channel of a
SPEC = PermutationSpec(axes={"w": ((("a", 1), ("b", 1)), (("a", 2),)), "v": ((("b", 1),),)}, sizes={"a": 2, "b": 3})


def spec_of(model: Model, images: Images) -> PermutationSpec:
    return trace(model.network, model.normalise(as_float(images.pixels[:2]))).spec


def groups_of(blocks: Blocks) -> set[str]:
    """The groups that lie on an axis, those within blocks of others too."""
    factors = [factor for block in blocks for factor in block]
    nested = [groups_of(factor) for factor in factors if isinstance(factor, tuple)]
    return {factor for factor in factors if isinstance(factor, str)}.union(*nested)


def behaviour(model: Model, state: dict[str, Tensor], pixels: Tensor, training: bool) -> list[Tensor]:
    """Every head's output, and the gradient of all of them with respect to the pixels."""
    model.network.train(training)
    for layer in model.network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    pixels = pixels.clone().requires_grad_()
    outputs = model(state, pixels)
    heads = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return heads + list(torch.autograd.grad(sum(head.logsumexp(1).sum() for head in heads), pixels))


@pytest.mark.parametrize("training", [False, True])
def test_a_random_permutation_leaves_outputs_and_gradients_unchanged(
    model: Model, images: Images, training: bool
) -> None:
    spec, state = spec_of(model, images), randomised(model.network)
    permutation = permutations.random(spec, generator(1))
    permuted = permute(spec, permutation, state)
    pixels = as_float(images.pixels).double()
    before, after = (behaviour(model, s, pixels, training) for s in (state, permuted))
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9 * old.abs().max().item())
    # the running statistics that training mode updated are permuted too
    for name, tensor in permute(spec, permutation, state).items():
        torch.testing.assert_close(permuted[name], tensor, rtol=1e-9, atol=1e-9)


def test_moving_every_channel_changes_every_tensor_that_has_one(model: Model, images: Images) -> None:
    spec, state = spec_of(model, images), randomised(model.network)
    permuted = permute(spec, shifts(spec), state)
    movable = {n for n, axes in spec.axes.items() if any(groups_of(axis) & {*spec.free} for axis in axes)}
    assert {name for name in state if not torch.equal(state[name], permuted[name])} == movable
    assert {name for name, tensor in state.items() if tensor.dim() > 1} <= movable


def test_every_free_group_lies_on_some_tensor(model: Model, images: Images) -> None:
    spec = spec_of(model, images)
    described = set().union(*(groups_of(axis) for axes in spec.axes.values() for axis in axes))
    assert described == spec.sizes.keys()


def test_the_inverse_undoes_a_permutation(model: Model, images: Images) -> None:
    spec, state = spec_of(model, images), randomised(model.network)
    permutation = permutations.random(spec, generator(2))
    assert_same(permute(spec, inverse(permutation), permute(spec, permutation, state)), state)


def test_two_permutations_compose_to_one(model: Model, images: Images) -> None:
    spec, state = spec_of(model, images), randomised(model.network)
    first, second = (permutations.random(spec, generator(seed)) for seed in (3, 4))
    both = {group: first[group][second[group]] for group in spec.free}
    assert_same(permute(spec, second, permute(spec, first, state)), permute(spec, both, state))


def test_each_block_is_permuted_in_its_place_and_pixels_stay_with_their_channel() -> None:
    state = {"w": torch.arange(20).view(5, 4), "v": torch.arange(3), "other": torch.arange(3)}
    permuted = permute(SPEC, {"a": torch.tensor([1, 0]), "b": torch.tensor([2, 0, 1])}, state)
    rows, columns = [1, 0, 4, 2, 3], [2, 3, 0, 1]
    assert permuted["w"].tolist() == state["w"][rows][:, columns].tolist()
    assert permuted["v"].tolist() == [2, 0, 1]
    assert permuted["other"].tolist() == [0, 1, 2]


def test_channels_within_heads_move_alike_in_every_head_and_with_it() -> None:
    """Two heads, each with a query of two channels, a value of three, and a position that stays in place."""
    within = (("q", 1), ("v", 1), (1,))
    spec = PermutationSpec(axes={"w": ((("heads", within, 1),),)}, sizes={"heads": 2, "q": 2, "v": 3})
    permutation = {"heads": torch.tensor([1, 0]), "q": torch.tensor([1, 0]), "v": torch.tensor([2, 0, 1])}
    moved = permute(spec, permutation, {"w": torch.arange(12)})["w"]
    assert moved.tolist() == [7, 6, 10, 8, 9, 11, 1, 0, 4, 2, 3, 5]
    assert extent(spec.sizes, within) == 6
    matrices = {g: torch.eye(len(p))[p] for g, p in permutation.items()}
    assert_same(mix(spec, matrices, {"w": torch.arange(12.0)}), {"w": moved.float()})


def test_groups_that_a_permutation_does_not_name_stay_in_place() -> None:
    permuted = permute(SPEC, {"a": torch.tensor([1, 0])}, {"w": torch.arange(20).view(5, 4), "v": torch.arange(3)})
    assert permuted["v"].tolist() == [0, 1, 2]
    assert permuted["w"][:, 0].tolist() == [6, 2, 10, 14, 18]


def test_moves_count_channels_that_lost_their_place() -> None:
    permutation, start = {"a": torch.tensor([1, 0]), "b": torch.tensor([0, 2, 1])}, {"a": torch.tensor([1, 0])}
    rows = move_counts(permutation, {**identity(SPEC), **start}, {"fact": 3})
    assert rows[0] == {"group": "a", "units": 2, "moved": 2, "moved_from_start": 0, "fact": 3}
    assert rows[1] == {"group": "b", "units": 3, "moved": 2, "moved_from_start": 2, "fact": 3}


def test_mixing_multiplies_every_axis_of_a_group_by_its_matrix() -> None:
    axes = {"square": ((("a", 1),), (("a", 1),)), "wide": ((("b", 1),), (("a", 3),)), "bias": ((("a", 1),),)}
    spec = PermutationSpec(axes, {"a": 4, "b": 5})
    draws = generator(0)
    a, b = (torch.randn(n, n, generator=draws, dtype=torch.float64).requires_grad_() for n in (4, 5))
    state = {n: torch.randn(*shape, generator=draws) for n, shape in {"square": (4, 4), "wide": (5, 12)}.items()}
    state = {n: t.double() for n, t in state.items()} | {"bias": torch.ones(4), "other": torch.ones(2)}
    actual = mix(spec, {"a": a, "b": b}, state)
    wide = torch.einsum("ij,jkc,lk->ilc", b, state["wide"].view(5, 4, 3), a).reshape(5, 12)
    expected = {"square": a @ state["square"] @ a.T, "wide": wide, "bias": a.sum(1).float(), "other": torch.ones(2)}
    assert_close(actual, expected, 1e-6)
    for name in ("square", "wide"):
        gradients = [torch.autograd.grad(t[name].pow(2).sum(), a, retain_graph=True)[0] for t in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_mixing_by_permutation_matrices_is_permuting(model: Model, images: Images) -> None:
    spec, state = spec_of(model, images), randomised(model.network, 1)
    state = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    permutation = permutations.random(spec, generator(5))
    matrices = {g: torch.eye(len(p), dtype=torch.float64)[p] for g, p in permutation.items()}
    assert_same(mix(spec, matrices, state), permute(spec, permutation, state))


def test_the_identity_moves_nothing() -> None:
    state = {"w": torch.rand(5, 4), "v": torch.rand(3)}
    assert_same(permute(SPEC, identity(SPEC), state), state)


def test_random_permutations_follow_their_generator(model: Model, images: Images) -> None:
    spec = spec_of(model, images)
    assert_same(permutations.random(spec, generator(5)), permutations.random(spec, generator(5)))
    check(spec, permutations.random(spec, generator(5)))
    assert any(not torch.equal(p, identity(spec)[g]) for g, p in permutations.random(spec, generator(5)).items())


def test_permuting_does_not_touch_the_state_it_is_given(tinyten: Model, images: Images) -> None:
    spec, state = spec_of(tinyten, images), whole(tinyten.network)
    before = {name: tensor.clone() for name, tensor in state.items()}
    permute(spec, shifts(spec), state)
    assert_same(state, before)


@pytest.mark.parametrize("index", [[0, 0, 1], [0, 1], [0, 1, 3], [-1, 0, 1], [0, 1, 2, 3], [[0, 1, 2]], []])
def test_what_is_no_permutation_of_a_group_is_refused(index: list) -> None:
    with pytest.raises(ValueError, match="group 'b': not a permutation of 3 channels"):
        check(SPEC, {"b": torch.tensor(index, dtype=torch.int64)})


def test_a_permutation_of_other_numbers_than_int64_is_refused() -> None:
    with pytest.raises(ValueError, match="group 'b': not a permutation of 3 channels"):
        check(SPEC, {"b": torch.tensor([0.0, 1.0, 2.0])})


def test_fixed_and_unknown_groups_are_refused() -> None:
    spec = PermutationSpec(SPEC.axes, SPEC.sizes, fixed=frozenset({"a"}))
    with pytest.raises(ValueError, match=r"group 'a' cannot be permuted; the free groups are \['b'\]"):
        check(spec, {"a": torch.tensor([0, 1])})
    with pytest.raises(ValueError, match="group 'c' cannot be permuted"):
        check(spec, {"c": torch.tensor([0])})


def test_the_same_permutation_is_saved_as_the_same_bytes(tinyten: Model, images: Images, tmp_path: Path) -> None:
    spec, facts = spec_of(tinyten, images), {"images": 5, "certificate": 1e-15}
    for i in range(8):
        in_order = dict(reversed(facts.items())) if i % 2 else facts
        save_permutation(shifts(spec), tmp_path / str(i), spec, in_order)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
