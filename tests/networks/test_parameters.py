"""Named tensors as one flat vector, and back."""

import pytest
import torch
from tiny import assert_same

from neuralign.networks.model import Model, parameters
from neuralign.networks.parameters import FlatLayout

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7.0), "c": torch.empty(0), "d": torch.tensor([8.0])}


def test_flattening_lays_each_tensor_at_a_multiple_of_sixteen_with_zeros_between() -> None:
    flat = FlatLayout.of(TENSORS).flatten(TENSORS)
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, *[0] * 10, 7, *[0] * 15, 8]


def test_tensors_whose_sizes_are_multiples_of_sixteen_lie_end_to_end() -> None:
    tensors = {"a": torch.ones(16), "b": torch.ones(2, 16), "c": torch.ones(10)}
    assert FlatLayout.of(tensors).flatten(tensors).shape == (58,)


def test_the_order_of_the_layout_counts_not_that_of_the_tensors() -> None:
    layout, backwards = FlatLayout.of(TENSORS), dict(reversed(TENSORS.items()))
    assert torch.equal(layout.flatten(backwards | {"other": torch.ones(9)}), layout.flatten(TENSORS))


def test_views_undo_flattening_for_every_network(model: Model) -> None:
    tensors = parameters(model.network)
    layout = FlatLayout.of(tensors)
    views = layout.views(layout.flatten(tensors))
    assert list(views) == list(tensors)
    assert_same(views, tensors)


def test_flattening_copies_even_a_single_tensor() -> None:
    one = {"a": torch.zeros(3)}
    FlatLayout.of(one).flatten(one).add_(1)
    assert one["a"].tolist() == [0, 0, 0]


def test_views_share_memory_and_pass_gradients_back() -> None:
    layout = FlatLayout.of(TENSORS)
    flat = layout.flatten(TENSORS).requires_grad_()
    views = layout.views(flat)
    (gradient,) = torch.autograd.grad(2 * views["a"].sum() + 3 * views["d"].sum(), flat)
    assert gradient.tolist() == [*[2] * 6, *[0] * 26, 3]
    with torch.no_grad():
        layout.views(flat)["b"].fill_(9)
    assert flat[16].item() == 9


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        FlatLayout.of(TENSORS).views(torch.zeros(9))


# tensors of several kinds

MIXED = {
    "real": torch.tensor([1.0, 2.0]),
    "complex": torch.tensor([[1 + 2j, 3 - 1j]]),
    "kernel": torch.arange(16.0).view(2, 2, 2, 2).to(torch.complex64),
    "coarse": torch.tensor([0.5], dtype=torch.bfloat16),
    "precise": torch.tensor(1 / 3, dtype=torch.float64),
}


def test_tensors_of_several_types_come_back_to_the_bit() -> None:
    layout = FlatLayout.of(MIXED)
    flat = layout.flatten(MIXED)
    assert flat.dtype == torch.float64 and len(flat) == layout.trained_size == 16 + 16 + 32 + 16 + 1
    views = layout.views(flat)
    assert all(views[name].dtype == tensor.dtype and torch.equal(views[name], tensor) for name, tensor in MIXED.items())
    halves = layout.views(flat / 2)["complex"]
    assert halves.tolist() == [[0.5 + 1j, 1.5 - 0.5j]]


def test_gradients_flow_back_from_both_parts_of_a_complex_tensor() -> None:
    layout = FlatLayout.of({"complex": MIXED["complex"]})
    flat = layout.flatten(MIXED).requires_grad_()
    product = layout.views(flat)["complex"] * (2 + 3j)
    (gradient,) = torch.autograd.grad(product.real.sum(), flat)
    assert gradient.tolist() == [2, -3, 2, -3]


def test_the_vector_of_one_type_has_views_and_no_copies() -> None:
    layout = FlatLayout.of({"precise": MIXED["precise"]})
    flat = layout.flatten(MIXED)
    assert not layout.types and layout.views(flat)["precise"].data_ptr() == flat.data_ptr()


def test_frozen_parameters_are_among_the_views_but_not_in_the_vector() -> None:
    frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    layout = FlatLayout.of({"a": torch.zeros(2), "frozen": frozen})
    assert len(layout.flatten({"a": torch.zeros(2), "frozen": frozen})) == 2
    assert layout.views(torch.ones(2))["frozen"] is frozen


def test_untrained_tensors_get_no_gradients() -> None:
    layout = FlatLayout.of({"a": torch.zeros(2), "b": torch.zeros(1)}, untrained=["b"])
    flat = torch.ones(17, requires_grad=True)
    views = layout.views(flat)
    (gradient,) = torch.autograd.grad(views["a"].sum() * 2 + views["b"].sum(), flat)
    assert gradient.tolist() == [2, 2, *[0] * 15] and layout.trained_size == 16
