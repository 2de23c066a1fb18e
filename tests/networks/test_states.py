"""States of networks: whether they fit, how they are read from a file and divided."""

import pytest
import tiny
import torch
from tiny import assert_same, randomised
from torch import nn

from neuralign.common.tensors import save_tensors
from neuralign.networks.states import (
    StateError,
    check_state,
    fitted_state,
    load_state,
    split_trainable,
    state_dict_tensors,
    tensor_problem,
)


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_whole_state_and_a_state_dict_fit():
    module = network()
    state = randomised(module)
    actual, names = fitted_state("a", module, state)
    assert_same(actual, state)
    assert names == {n: n for n in state}
    assert_same(fitted_state("a", module, module.state_dict())[0], tiny.whole(module))


def test_counts_of_batches_may_be_missing_and_statistics_may_not():
    module = network()
    state = {n: t for n, t in randomised(module).items() if n != "1.num_batches_tracked"}
    actual, names = fitted_state("a", module, state)
    assert torch.equal(actual["1.num_batches_tracked"], torch.tensor(0)) and names.keys() == state.keys()
    with pytest.raises(StateError, match=r"a: tensors are missing for this network: 1.running_var$"):
        fitted_state("a", module, {n: t for n, t in state.items() if n != "1.running_var"})


def test_a_fitted_state_requires_no_gradients():
    module = network()
    state = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in module.state_dict().items()}
    assert not any(t.requires_grad for t in fitted_state("a", module, state)[0].values())


def test_a_shared_tensor_may_be_given_by_one_of_its_names_or_equally_by_all():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    tensors, first_names = state_dict_tensors(module)
    assert list(tensors) == ["0.weight", "1.weight"] and first_names == {"0.weight": "0.weight", "1.weight": "0.weight"}
    one = {"0.weight": torch.ones(2, 2)}
    assert fitted_state("a", module, one)[1] == {"0.weight": "0.weight"}
    with pytest.raises(StateError, match="a: 0.weight, 1.weight are one tensor in the network, but differ here"):
        fitted_state("a", module, one | {"1.weight": torch.zeros(2, 2)})


def test_extra_state_is_ignored():
    module = network()
    assert "0._extra_state" not in fitted_state("a", module, module.state_dict() | {"0._extra_state": torch.ones(1)})[0]


@pytest.mark.parametrize(
    "actual, expected, problem",
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
def test_the_problem_of_a_tensor_names_what_differs_from_the_network(actual, expected, problem):
    assert tensor_problem(actual, expected) == problem


def test_missing_tensors_are_listed_in_alphabetical_order():
    with pytest.raises(StateError, match=r"x: tensors are missing for this network: a, b$"):
        check_state("x", {"d": torch.ones(1)}, {"b": torch.ones(1), "a": torch.ones(1)})


def test_a_state_comes_back_as_it_was_written(model, tmp_path):
    state = randomised(model.network)
    save_tensors(state, tmp_path / "network.safetensors")
    assert_same(load_state(str(tmp_path / "network.safetensors"), model), state)


def test_a_missing_file_is_named(tinyten, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_state(str(tmp_path / "nowhere.safetensors"), tinyten)


def test_a_state_splits_into_parameters_and_buffers(model):
    state = randomised(model.network)
    parameters, buffers = split_trainable(model, state)
    assert parameters.keys() == dict(model.network.named_parameters()).keys()
    assert buffers.keys() == dict(model.network.named_buffers()).keys()
    assert_same({**parameters, **buffers}, state)
