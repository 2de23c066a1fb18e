"""Whether a state fits a network."""

import pytest
import tiny
import torch
from tiny import assert_same, randomised
from torch import nn

from neuralign.networks.states import StateError, check_state, fitted_state, state_dict_tensors, tensor_problem


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_whole_state_and_a_state_dict_fit():
    module = network()
    state = randomised(module)
    found, names = fitted_state("a", module, state)
    assert_same(found, state)
    assert names == {n: n for n in state}
    assert_same(fitted_state("a", module, module.state_dict())[0], tiny.whole(module))


def test_counts_of_batches_may_be_missing_and_statistics_may_not():
    module = network()
    state = {n: t for n, t in randomised(module).items() if n != "1.num_batches_tracked"}
    found, names = fitted_state("a", module, state)
    assert torch.equal(found["1.num_batches_tracked"], torch.tensor(0)) and names.keys() == state.keys()
    with pytest.raises(StateError, match=r"a: tensors are missing for this network: 1.running_var$"):
        fitted_state("a", module, {n: t for n, t in state.items() if n != "1.running_var"})


def test_gradients_are_left_behind():
    module = network()
    state = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in module.state_dict().items()}
    assert not any(t.requires_grad for t in fitted_state("a", module, state)[0].values())


def test_a_shared_tensor_has_one_name_of_its_own():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    held, own = state_dict_tensors(module)
    assert list(held) == ["0.weight", "1.weight"] and own == {"0.weight": "0.weight", "1.weight": "0.weight"}
    one = {"0.weight": torch.ones(2, 2)}
    assert fitted_state("a", module, one)[1] == {"0.weight": "0.weight"}
    with pytest.raises(StateError, match="a: 0.weight, 1.weight are one tensor in the network, but differ here"):
        fitted_state("a", module, one | {"1.weight": torch.zeros(2, 2)})


def test_extra_state_is_left_aside():
    module = network()
    assert "0._extra_state" not in fitted_state("a", module, module.state_dict() | {"0._extra_state": torch.ones(1)})[0]


@pytest.mark.parametrize(
    "found, expected, problem",
    [
        (torch.ones(2), torch.ones(2), None),
        (torch.tensor([1.0, torch.inf]), torch.tensor([0.0, torch.inf]), None),
        (torch.tensor([torch.inf, 1.0]), torch.tensor([0.0, torch.inf]), "has values that are not finite"),
        (torch.tensor([torch.nan]), torch.tensor([torch.nan]), "has values that are not finite"),
        (torch.ones(2), torch.ones(2, 1), "has shape (2,), the network (2, 1)"),
        (torch.ones(2), torch.ones(2).cfloat(), "is torch.float32, the network torch.complex64"),
        (torch.ones(2, dtype=torch.bool), torch.ones(2), "is torch.bool, the network torch.float32"),
        (torch.ones(2), torch.ones(2, device="meta"), "is on cpu, the network on meta"),
    ],
)
def test_what_keeps_a_tensor_from_being_taken(found, expected, problem):
    assert tensor_problem(found, expected) == problem


def test_the_order_of_what_is_said_is_fixed():
    with pytest.raises(StateError, match=r"x: tensors are missing for this network: a, b$"):
        check_state("x", {"d": torch.ones(1)}, {"b": torch.ones(1), "a": torch.ones(1)})
