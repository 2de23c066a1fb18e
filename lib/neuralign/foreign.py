"""Checkpoints that others wrote: read without executing anything in them, fitted to a network by name and shape.

A file is a mapping of tensors, or mappings of mappings (`state_dict`, `model`, `optimizer`, ...), and its names may
have something in front (`module.`, `_orig_mod.`, `net.`). No such habit is assumed: the network's own names are looked
for in every mapping and behind every prefix, and exactly one place must fit as a whole.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from neuralign.networks import Model, State, buffers, parameters
from neuralign.refusals import Refused

OPTIONAL = "num_batches_tracked"  # counts batches; evaluation and cumulative averages with a momentum do not use it
STATE = "_extra_state"  # what a module keeps besides tensors of its own
SHOWN = 4  # names in a message
DEEP = 50  # mappings within mappings that are looked through


class CheckpointError(Refused):
    """A file that is no checkpoint of the network; the message says what was found and how near it is."""


@dataclass(frozen=True)
class Foreign:
    state: dict[str, Tensor]  # parameters and buffers by the network's names, on its device and of its types
    names: dict[str, str]  # name in the file's mapping -> name in the network
    kinds: dict[str, torch.dtype]  # name in the file's mapping -> its type there
    inside: str  # where in the file: the mapping and the prefix
    beside: list[str]  # names in the same mapping that the network has no part in

    def renamed(self, state: State) -> dict[str, Tensor]:
        """A state of the network by the names, and of the types, of the file."""
        return {name: state[own].to(self.kinds[name]).clone() for name, own in self.names.items()}


@dataclass(frozen=True)
class _Place:
    """One mapping of the file and one prefix of its names, and how well the network fits in there."""

    level: str
    prefix: str
    tensors: dict[str, Tensor]  # all under the prefix, by the names behind it
    wanted: dict[str, Tensor]
    aliases: dict[str, str]  # every name of a tensor of the network -> its first

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.level, self.prefix.rstrip("."))))

    @property
    def missing(self) -> list[str]:
        found = {self.aliases[n] for n in self.tensors if n in self.aliases}
        return [n for n in self.wanted if self.aliases[n] == n not in found and not n.endswith(OPTIONAL)]

    @property
    def extra(self) -> list[str]:
        return [n for n in self.tensors if n not in self.wanted and not n.endswith(STATE)]

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """{name: (shape in the file, in the network)} where they differ."""
        both = {n: (tuple(self.tensors[n].shape), tuple(t.shape)) for n, t in self.wanted.items() if n in self.tensors}
        return {n: (found, wanted) for n, (found, wanted) in both.items() if found != wanted}

    @property
    def fits(self) -> bool:
        return not (self.missing or self.extra or self.shapes)

    @property
    def hits(self) -> int:
        return sum(n in self.wanted for n in self.tensors) - len(self.shapes)


def read(path: str | Path, model: Model, inside: str | None = None) -> Foreign:
    """The checkpoint at `path` as a state of the model; `inside` says where in the file, if several places fit.

    Raises CheckpointError if not everything fits: missing, further or differently shaped tensors, numbers that are not
    finite. Only `num_batches_tracked` may be missing.
    """
    found = tensors(path)
    wanted, aliases = _wanted(model.network)
    places = list(_places(found, wanted, aliases, inside))
    fitting = [p for p in places if p.fits]
    if len(fitting) > 1:
        where = ", ".join(repr(p.label) for p in fitting)
        raise CheckpointError(
            f"{path}: {len(fitting)} checkpoints of the network are in it: say inside which of {where}"
        )
    if not fitting:
        raise CheckpointError(f"{path}: {_near(found, places, wanted, inside)}")
    place = fitting[0]
    state = _values(path, place, model)
    names = {f"{place.prefix}{n}": place.aliases[n] for n in place.tensors if n in place.aliases}
    kinds = {name: found[place.level][name].dtype for name in names}
    return Foreign(state, names, kinds, place.label, sorted(found[place.level].keys() - names.keys()))


def tensors(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """{where: {name: tensor}}: every mapping of a safetensors file or a torch.save file that has tensors in it."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    found = {where: held for where, held in _mappings(_load(path), "") if held}
    if not found:
        raise CheckpointError(f"{path}: no named tensors in it; a state_dict is wanted")
    return found


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {error}") from error
    except Exception as error:  # a damaged file may raise anything
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = f"holds a Python object ({named[1]}), and to load that could run anything; save model.state_dict()"
        else:
            why = f"neither .safetensors nor a file of torch.save, or damaged ({_first_line(error)})"
        raise CheckpointError(f"{path}: {why}") from error


def _first_line(error: Exception) -> str:
    said = str(error).partition("\n")[0][:120]
    return said if isinstance(error, pickle.UnpicklingError | RuntimeError) else f"{type(error).__name__}: {said}"


def _mappings(held: Any, where: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if isinstance(held, Mapping) and id(held) not in above and len(above) < DEEP:  # one may hold itself
        yield where, {str(n): t for n, t in held.items() if isinstance(t, Tensor) and _is_plain(t)}
        for name, inner in held.items():
            yield from _mappings(inner, f"{where}.{name}" if where else str(name), (*above, id(held)))


def _is_plain(tensor: Tensor) -> bool:
    return not (tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized)


def _wanted(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a state_dict of the network holds, and of each name the first of the same tensor."""
    tensors = (network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))
    named = {name for found in tensors for name, _ in found}
    held = {n: t for n, t in network.state_dict(keep_vars=True).items() if n in named}
    first: dict[int, str] = {}
    for name, tensor in held.items():
        first.setdefault(id(tensor), name)
    own = {id(t): n for n, t in (*network.named_parameters(), *network.named_buffers())}
    return held, {n: own.get(id(t), first[id(t)]) for n, t in held.items()}


def _places(
    found: dict[str, dict[str, Tensor]], wanted: dict[str, Tensor], aliases: dict[str, str], inside: str | None
) -> Iterator[_Place]:
    for level, held in found.items():
        prefixes: dict[str, None] = {}
        for name in held:
            parts = name.split(".")
            ends = [(".".join(parts[:i]) + "." if i else "", ".".join(parts[i:])) for i in range(len(parts))]
            prefixes |= {prefix: None for prefix, end in ends if end in wanted}
        for prefix in prefixes:
            under = {n.removeprefix(prefix): t for n, t in held.items() if n.startswith(prefix)}
            place = _Place(level, prefix, under, wanted, aliases)
            if inside in (None, place.label):
                yield place


def _values(path: str | Path, place: _Place, model: Model) -> dict[str, Tensor]:
    state = {**parameters(model.network), **buffers(model.network)}  # what is missing is optional: as it is when fresh
    seen: dict[str, Tensor] = {}
    for name, tensor in place.tensors.items():
        if name not in place.aliases:
            continue
        own = place.aliases[name]
        like = state[own]
        if _kind(tensor) != _kind(like):
            raise CheckpointError(f"{path}: {name} is {tensor.dtype}, the network's is {like.dtype}")
        value = tensor.to(like)
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} has values that are not finite")
        if own in seen and not torch.equal(seen[own], value):
            raise CheckpointError(f"{path}: {name} and {own} are one tensor in the network, but differ in the file")
        seen[own] = value.contiguous()
    return state | seen


def _kind(tensor: Tensor) -> str:
    """What sort of numbers a tensor holds, of whatever precision."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _near(
    found: dict[str, dict[str, Tensor]], places: list[_Place], wanted: dict[str, Tensor], inside: str | None
) -> str:
    """Why nothing fits: the place that comes nearest, and what is wrong there."""
    if not places:
        where = f"inside {inside!r}" if inside else "in it"
        names = [".".join(filter(None, (level, n))) for level, held in found.items() for n in held]
        return f"no tensor of the network is {where}; found {_some(names)}; wanted {_some(list(wanted))}"
    best = max(places, key=lambda p: p.hits)
    parts = [f"{best.hits} of the network's {len(wanted)} tensors fit" + (f" inside {best.label!r}" * bool(best.label))]
    parts += [f"missing: {_some(best.missing)}"] if best.missing else []
    parts += [f"the network has no: {_some(best.extra)}"] if best.extra else []
    if shapes := best.shapes:
        told = [f"{n} is {list(there)}, in the network {list(here)}" for n, (there, here) in shapes.items()]
        parts.append(f"of another shape: {_some(told)}")
    return "not a checkpoint of this network: " + "; ".join(parts) + _head(best)


def _head(place: _Place) -> str:
    """Whether all that differs is the number of classes: the first axis of one last layer."""
    shapes = place.shapes.values()
    pairs = {(there[0], here[0]) for there, here in shapes if there and here and there[1:] == here[1:]}
    only = len(pairs) == 1 and all(there[1:] == here[1:] for there, here in shapes)
    if place.missing or place.extra or not only or len(shapes) > 2:
        return ""
    there, here = pairs.pop()
    return f": a head of {there} classes, {here} are wanted"


def _some(names: list[str]) -> str:
    shown = (n if n.isprintable() and len(n) < 80 else f"{ascii(n)[:80]}..." for n in names[:SHOWN])
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
