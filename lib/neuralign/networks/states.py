"""Whether a state fits a network: every tensor there, of the right shape and type, with finite numbers.

A *state* is parameters and buffers by name. A state_dict is one, but for two things: it has every name of a tensor that
several layers share, and it leaves out buffers that are not persistent.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import Refused, some
from neuralign.common.tensors import load_tensors
from neuralign.networks.model import Model, State, buffers, parameters, trainable

OPTIONAL = "num_batches_tracked"  # counts batches; evaluation and cumulative averages with a momentum do not use it
EXTRA = "_extra_state"  # what a module keeps besides tensors of its own
PLAIN = "a dense tensor of float16, bfloat16, float32 or float64 is wanted"


class StateError(Refused):
    """A state that does not fit its network; the message names the tensor, what it is and what it should be."""


def load_state(path: str, model: Model) -> dict[str, Tensor]:
    """The parameters and buffers of a checkpoint that a job wrote; StateError unless they fit the model."""
    state = load_tensors(path, model.mean.device)
    check(path, state, {**parameters(model.network), **buffers(model.network)})
    return state


def split_trainable(model: Model, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state's parameters that train, and all else that it holds: buffers and frozen parameters."""
    trains = trainable(model.network)
    names = [name for name in parameters(model.network) if name in trains]
    return {n: state[n] for n in names}, {n: t for n, t in state.items() if n not in names}


def named(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a state_dict of the network holds, and of each name the one that the network's parameters or buffers have.

    The two differ where layers share a tensor.
    """
    tensors = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    known = {name for found in tensors for name, _ in found}
    held = {n: t for n, t in network.state_dict(keep_vars=True).items() if n in known}
    first: dict[int, str] = {}
    for name, tensor in held.items():
        first.setdefault(id(tensor), name)
    own = {id(t): n for n, t in (*network.named_parameters(), *network.named_buffers())}
    return held, {n: own.get(id(t), first[id(t)]) for n, t in held.items()}


def check(where: str, found: State, expected: State) -> None:
    """Refuse a state `found` at `where` that has other names, shapes or types than `expected`, or infinite numbers."""
    if missing := expected.keys() - found.keys():
        raise StateError(f"{where}: tensors are missing for this network: {sorted(missing)[:5]}")
    if extra := found.keys() - expected.keys():
        raise StateError(f"{where}: tensors that this network does not have: {sorted(extra)[:5]}")
    for name, tensor in expected.items():
        if problem := tensor_problem(found[name], tensor):
            raise StateError(f"{where}: {name} {problem}")


def tensor_problem(found: Tensor, expected: Tensor) -> str | None:
    """What keeps a tensor from being taken in place of another, to be put behind its name; None for nothing."""
    if odd := oddity(found):
        return odd
    if found.shape != expected.shape:
        return f"has shape {tuple(found.shape)}, the network {tuple(expected.shape)}"
    if found.dtype != expected.dtype:
        return f"is {found.dtype}, the network {expected.dtype}"
    if found.device != expected.device:
        return f"is on {found.device}, the network on {expected.device}"
    return infinite(found, expected)


def oddity(tensor: Tensor) -> str | None:
    """Why a tensor holds no plain numbers of a weight."""
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is quantised ({tensor.dtype}); {PLAIN}"
    if tensor.is_meta:
        return f"is on the meta device, which keeps no numbers; {PLAIN}"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"is {'nested' if tensor.is_nested else 'sparse'}; {PLAIN}"
    return None


def infinite(found: Tensor, expected: Tensor) -> str | None:
    """Whether it has numbers that are not finite where the network's own are, as those of a mask need not be."""
    wrong = ~torch.isfinite(found)
    if not wrong.any() or torch.equal(found[wrong], expected.to(found)[wrong]):
        return None
    return "has values that are not finite"


def fitted(where: str, network: nn.Module, found: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state of the network from a state or a state_dict, and {name in `found`: name in the state}.

    Buffers that a state_dict does not hold, and counts of batches that are missing, are the network's. Raises
    StateError unless all else fits.
    """
    if not isinstance(found, Mapping):
        raise StateError(f"{where}: found {_type(found)}; named tensors are wanted, such as network.state_dict()")
    if odd := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise StateError(f"{where}: {some([str(odd[0])])} is {_type(found[odd[0]])}; tensors are wanted")
    own = {**parameters(network), **buffers(network)}
    _, aliases = named(network)
    names = {n: n for n in own} | aliases
    given = {n: t.detach() for n, t in found.items() if n in names or not n.endswith(EXTRA)}
    state: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if not same(state.setdefault(names.get(name, name), tensor), tensor):
            shared = some([n for n in given if names.get(n) == names[name]])
            raise StateError(f"{where}: {shared} are one tensor in the network, but differ here")
    persistent = set(aliases.values())
    optional = {n: t for n, t in buffers(network).items() if n.endswith(OPTIONAL) or n not in persistent}
    check(where, optional | state, own)
    return {n: (optional | state)[n] for n in own}, {n: names[n] for n in given}


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are alike to the bit, type and device included."""
    return one is other or (one.dtype == other.dtype and one.device == other.device and torch.equal(one, other))


def _type(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:60] if isinstance(value, int | float | str) else type(value).__name__
