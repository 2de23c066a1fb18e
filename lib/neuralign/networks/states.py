"""States of a network, and the check that one fits: every tensor is there, of the right shape and dtype, and finite.

A *state* maps the names of `named_parameters()` and `named_buffers()` to tensors. A state_dict differs from it in two
ways: it repeats a tied tensor under each of its names, and it lacks the buffers that are not persistent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError, join_names
from neuralign.common.tensors import load_tensors
from neuralign.networks.model import Model, State, buffers, canonical_names, parameters, trainable

OPTIONAL = "num_batches_tracked"  # a counter that is read only by norms with `momentum=None` in training mode
EXTRA = "_extra_state"  # ending of the state_dict key of what `Module.get_extra_state` returns, which is no tensor
PART = 2**20  # numbers of a mean that are computed at once; in float64 they take little memory beside a network
PLAIN = "a dense tensor of float16, bfloat16, float32 or float64 is needed"


class StateError(UserError):
    """A state does not fit the network. The message names the tensor, what it is and what it should be."""


def load_state(path: str, model: Model) -> dict[str, Tensor]:
    """The state in a checkpoint that a job wrote, on the model's device. Raises StateError unless it fits the model."""
    state = load_tensors(path, model.device)
    check_state(path, state, {**parameters(model.network), **buffers(model.network)})
    return state


def split_trainable(model: Model, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trainable parameters of a state, and the rest of it: buffers and frozen parameters."""
    trained = trainable(model.network)
    names = [name for name in parameters(model.network) if name in trained]
    return {n: state[n] for n in names}, {n: t for n, t in state.items() if n not in names}


def state_dict_tensors(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers in the network's state_dict, and {name there: name of the same tensor in a state}.

    The two names differ for tied tensors only: a state_dict has all their names, a state only the first.
    """
    names = canonical_names(network)
    saved = {n: t for n, t in network.state_dict(keep_vars=True).items() if n in names}
    return saved, {n: names[n] for n in saved}


def mean_state(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The mean of states, or their sum with `weights`, computed in float64 and returned in their dtypes.

    Tensors that are no floating-point or complex numbers, such as counters, are those of the first state.
    """
    weights = [1 / len(states)] * len(states) if weights is None else weights
    mean = {}
    for name, first in states[0].items():
        is_number = first.is_floating_point() or first.is_complex()
        mean[name] = _mean([first, *(state[name] for state in states[1:])], weights) if is_number else first
    return mean


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of tensors of one shape with weights, in float64, for so many numbers at once as PART says."""
    wide = torch.promote_types(tensors[0].dtype, torch.float64)

    def mean(parts: Sequence[Tensor]) -> Tensor:
        terms = [part.to(wide) * weight for part, weight in zip(parts, weights, strict=True)]
        return torch.stack(terms).sum(0).to(tensors[0].dtype)

    parts = zip(*(tensor.flatten().split(PART) for tensor in tensors), strict=True)
    return torch.cat([mean(part) for part in parts]).view(tensors[0].shape)


def check_state(where: str, state: State, expected: State) -> None:
    """Raise StateError unless `state` has the names, shapes and types of `expected`, and finite values.

    `where`: the file or argument that the state comes from, with which the message begins.
    """
    if missing := expected.keys() - state.keys():
        raise StateError(f"{where}: tensors are missing for this network: {join_names(sorted(missing))}")
    if extra := state.keys() - expected.keys():
        raise StateError(f"{where}: tensors that this network does not have: {join_names(sorted(extra))}")
    for name, tensor in expected.items():
        if problem := tensor_problem(state[name], tensor):
            raise StateError(f"{where}: {name} {problem}")


def tensor_problem(tensor: Tensor, expected: Tensor) -> str | None:
    """What keeps `tensor` from taking the place of `expected`, worded to follow its name; None if nothing does."""
    if problem := storage_problem(tensor):
        return problem
    if tensor.shape != expected.shape:
        return f"has shape {tuple(tensor.shape)}, the network {tuple(expected.shape)}"
    if tensor.dtype != expected.dtype:
        return f"is {tensor.dtype}, the network {expected.dtype}"
    if tensor.device != expected.device:
        return f"is on {tensor.device}, the network on {expected.device}"
    return finiteness_problem(tensor, expected)


def storage_problem(tensor: Tensor) -> str | None:
    """In what way a tensor is not a dense array of numbers in memory, worded to follow its name; None if it is one."""
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is quantised ({tensor.dtype}); {PLAIN}"
    if tensor.is_meta:
        return f"is on the meta device, which keeps no numbers; {PLAIN}"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"is {'nested' if tensor.is_nested else 'sparse'}; {PLAIN}"
    return None


def finiteness_problem(tensor: Tensor, expected: Tensor) -> str | None:
    """The text "has values that are not finite" if that is so, else None.

    Values that `expected` has as well are allowed: an attention mask, for example, holds -inf in every state.
    """
    bad = ~torch.isfinite(tensor)
    if not bad.any() or torch.equal(tensor[bad], expected.to(tensor)[bad]):
        return None
    return "has values that are not finite"


def fitted_state(where: str, network: nn.Module, tensors: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state of the network made of `tensors`, a state or a state_dict, and {name in `tensors`: name in the state}.

    Its tensors are on the devices of those of the network, wherever `tensors` are.
    Non-persistent buffers and `num_batches_tracked` that `tensors` lacks are taken from the network. Raises StateError,
    whose message begins with `where`, if anything else is missing or does not fit.
    """
    if not isinstance(tensors, Mapping):
        raise StateError(f"{where}: found {_describe(tensors)}; named tensors are needed, such as network.state_dict()")
    if others := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise StateError(
            f"{where}: {join_names([str(others[0])])} is {_describe(tensors[others[0]])}; tensors are needed"
        )
    expected = {**parameters(network), **buffers(network)}
    _, aliases = state_dict_tensors(network)
    names = {n: n for n in expected} | aliases
    relevant = {n: t.detach() for n, t in tensors.items() if n in names or not n.endswith(EXTRA)}
    for name in relevant.keys() & names.keys():
        if not relevant[name].is_meta:  # which has no numbers to move; `check_state` refuses it
            relevant[name] = relevant[name].to(expected[names[name]].device)
    state: dict[str, Tensor] = {}
    for name, tensor in relevant.items():
        if not are_equal(state.setdefault(names.get(name, name), tensor), tensor):
            shared = join_names([n for n in relevant if names.get(n) == names[name]])
            raise StateError(f"{where}: {shared} are one tensor in the network, but differ here")
    persistent = set(aliases.values())
    optional = {n: t for n, t in buffers(network).items() if n.endswith(OPTIONAL) or n not in persistent}
    check_state(where, optional | state, expected)
    return {n: (optional | state)[n] for n in expected}, {n: names[n] for n in relevant}


def are_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have equal values, types and devices."""
    return a is b or (a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:60] if isinstance(value, int | float | str) else type(value).__name__
