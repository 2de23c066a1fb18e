"""Checkpoints that others wrote, fitted to a network by name and shape.

The names of a file's tensors, and of the mappings that they lie in, are read as paths: `state_dict.net.fc.bias`. No
habit of writing them is assumed: the network's own names are looked for behind every beginning of such a path, with and
without the names that wrappers put between (`WRAPPERS`), and exactly one reading must fit as a whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from os.path import commonprefix
from pathlib import Path

import torch
from torch import Tensor

from neuralign.common.errors import some
from neuralign.common.shards import CheckpointError
from neuralign.networks.foreign_files import Where, hint, tensors
from neuralign.networks.model import Model, State, buffers, parameters
from neuralign.networks.states import (
    EXTRA,
    OPTIONAL,
    are_equal,
    finiteness_problem,
    state_dict_tensors,
    storage_problem,
)

__all__ = ["CheckpointError", "Foreign", "read", "tensors"]

# what wrappers call the module that they wrap: torch.compile; data parallel and averages of weights; fully sharded data
# parallel, of torch and of FairScale; activation checkpointing; Lightning Fabric
WRAPPERS: tuple[str, ...] = ("_orig_mod", "module", "_fsdp_wrapped_module", "_fpw_module")
WRAPPERS += ("_checkpoint_wrapped_module", "_forward_module")
# what the names of tensors end in that quantised weights are kept as, or need beside them
QUANTISED = {"zero_point", "_packed_params", "qweight", "qzeros", "scales", "g_idx", "SCB", "absmax", "quant_map"}
QUANTISED |= {"weight_scale", "weight_scale_inv", "weight_format", "weight_packed"}
TOP = "."  # what `inside` calls the file as a whole
Place = tuple[Where, str]  # the mappings that a tensor lies in, and its name there


@dataclass(frozen=True)
class Foreign:
    state: dict[str, Tensor]  # parameters and buffers by the network's names, on its device and of its types
    held: dict[str, Tensor]  # the same, as far as they are in the file, to the bit as they are there
    names: dict[str, str]  # name in the file's mapping -> name in the network
    inside: str  # where in the file: the mapping and what the names there begin with
    beside: list[str]  # names in the same mapping that the network has no part in

    def renamed(self, state: State) -> dict[str, Tensor]:
        """A state of the network by the names, and of the types, of the file."""
        return {name: state[own].to(self.held[own].dtype).clone() for name, own in self.names.items()}


@dataclass(frozen=True)
class _Wanted:
    """The network's tensors by the names that a state_dict has for them."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]  # every name of a tensor -> the network's own
    dropped: frozenset[str] = frozenset()  # wrappers whose names are left out of account
    stems: dict[str, str] = field(default_factory=dict)  # every name without those -> the network's own


@dataclass(frozen=True)
class _Reading:
    """One way to read the names of a file: what begins alike are the network's tensors. And how well that fits."""

    begin: tuple[str, ...]
    wanted: _Wanted
    held: dict[Place, Tensor]  # of the mappings that hold any of the network's, what begins so
    stems: dict[Place, str]  # of the network's among them, the names without beginning and wrappers

    @property
    def label(self) -> str:
        return ".".join(self.begin) or TOP

    @cached_property
    def names(self) -> dict[Place, str]:
        """{place: the network's own name}."""
        return {place: self.wanted.stems[stem] for place, stem in self.stems.items()}

    @cached_property
    def missing(self) -> list[str]:
        found = {*self.names.values()}
        wanted = dict.fromkeys(self.wanted.aliases.values())
        return [own for own in wanted if own not in found and not own.endswith(OPTIONAL)]

    @cached_property
    def extra(self) -> list[Place]:
        return [p for p in self.held if p not in self.stems and not p[1].endswith(EXTRA)]

    @cached_property
    def doubled(self) -> list[Place]:
        """The first places that all stand for one name of the network."""
        places: dict[str, list[Place]] = {}
        for place, stem in self.stems.items():
            places.setdefault(stem, []).append(place)
        return next((found for found in places.values() if len(found) > 1), [])

    @cached_property
    def shapes(self) -> dict[str, tuple[list[int], list[int]]]:
        """{the network's own name: (shape in the file, in the network)} where they differ."""
        found = {own: self.held[place] for place, own in self.names.items()}
        pairs = ((own, found[own], like) for own, like in self.wanted.tensors.items() if own in found)
        pairs = (
            (own, there, like) for own, there, like in pairs if not storage_problem(there) and there.shape != like.shape
        )
        return {own: (list(there.shape), list(like.shape)) for own, there, like in pairs}

    @property
    def complete(self) -> bool:
        return not (self.missing or self.shapes or self.doubled)

    @property
    def hits(self) -> int:
        return len({*self.names.values()}) - len(self.shapes)


def read(path: str | Path, model: Model, inside: str | None = None) -> Foreign:
    """The checkpoint at `path` as a state of the model; `inside` says where in the file, if several places fit.

    Floating point numbers are rounded to the network's type, whole numbers must fit into it. Raises CheckpointError if
    not everything fits: missing, further or differently shaped tensors, quantised ones, numbers that are not finite.
    Only `num_batches_tracked` may be missing.
    """
    found = {(where, name): tensor for where, held in tensors(path).items() for name, tensor in held.items()}
    wanted = _Wanted(*state_dict_tensors(model.network))
    readings = list(_readings(found, wanted))
    fitting = _distinct(r for r in _fitting(readings) if inside in (None, r.label))
    if len(fitting) > 1:
        where = some([repr(r.label) for r in fitting])
        raise CheckpointError(
            f"{path}: {len(fitting)} checkpoints of the network are in it: say inside which of {where}"
        )
    if not fitting:
        near = _near(found, [r for r in readings if inside in (None, r.label)], wanted, inside)
        raise CheckpointError(f"{path}: {near}{hint(path)}")
    return _fitted(path, found, fitting[0], model)


def _readings(found: dict[Place, Tensor], wanted: _Wanted) -> Iterator[_Reading]:
    """Every reading in which there is any tensor of the network, those that leave out few wrappers first."""
    paths = {place: _path(place) for place in found}
    names = [*paths.values(), *(tuple(name.split(".")) for name in wanted.aliases)]
    there = [wrapper for wrapper in WRAPPERS if any(wrapper in path[:-1] for path in names)]
    for count in range(len(there) + 1):
        for dropped in map(frozenset, combinations(there, count)):
            stems = {name: _stem(tuple(name.split(".")), dropped) for name in wanted.aliases}
            meant = {stem: wanted.aliases[name] for name, stem in stems.items()}
            if all(meant[stems[name]] == own for name, own in wanted.aliases.items()):  # else two are called alike
                yield from _read_without(replace(wanted, dropped=dropped, stems=meant), found, paths)


def _read_without(
    wanted: _Wanted, found: dict[Place, Tensor], paths: dict[Place, tuple[str, ...]]
) -> Iterator[_Reading]:
    stems: dict[tuple[str, ...], dict[Place, str]] = {}
    for place, path in paths.items():
        for i in range(len(path)):
            if (stem := _stem(path[i:], wanted.dropped)) in wanted.stems:
                stems.setdefault(path[:i], {})[place] = stem
    begun: dict[tuple[str, ...], list[Place]] = {begin: [] for begin in stems}
    for place, path in paths.items():
        for i in range(len(path)):
            if path[:i] in begun:
                begun[path[:i]].append(place)
    for begin, ours in stems.items():
        mappings = {where for where, _ in ours}
        yield _Reading(begin, wanted, {p: found[p] for p in begun[begin] if p[0] in mappings}, ours)


def _path(place: Place) -> tuple[str, ...]:
    where, name = place
    return tuple(".".join((*where, name)).split("."))


def _stem(path: tuple[str, ...], dropped: frozenset[str]) -> str:
    """The name without wrappers. What a tensor itself is called stays."""
    return ".".join((*(part for part in path[:-1] if part not in dropped), path[-1]))


def _fitting(readings: list[_Reading]) -> Iterator[_Reading]:
    """The complete readings that leave over nothing but other complete checkpoints."""
    complete = [r for r in readings if r.complete]
    for reading in complete:
        left = set(reading.extra)
        for other in complete if left else ():
            if not other.names.keys() & reading.names.keys():
                left -= other.names.keys()
        if not left:
            yield reading


def _distinct(readings: Iterable[_Reading]) -> list[_Reading]:
    """Without those that read the same tensors as the same parts of the network as an earlier one."""
    seen: dict[frozenset[tuple[Place, str]], _Reading] = {}
    for reading in readings:
        seen.setdefault(frozenset(reading.names.items()), reading)
    return list(seen.values())


def _fitted(path: str | Path, found: dict[Place, Tensor], reading: _Reading, model: Model) -> Foreign:
    state = {**parameters(model.network), **buffers(model.network)}  # what is missing is optional: as it is when fresh
    held: dict[str, Tensor] = {}
    for place, own in reading.names.items():
        tensor = reading.held[place].detach()
        if problem := storage_problem(tensor) or _mistaken(tensor, state[own]):
            raise CheckpointError(f"{path}: {own} {problem}")
        if own in held and not are_equal(held[own], tensor):
            stem = reading.stems[place]
            raise CheckpointError(f"{path}: {stem} and {own} are one tensor in the network, but differ in the file")
        held[own] = tensor
    values = {own: tensor.to(state[own]).contiguous() for own, tensor in held.items()}
    mappings = {where for where, _ in reading.names}
    above = commonprefix(list(mappings))
    names = {place: ".".join((*place[0][len(above) :], place[1])) for place in found if place[0] in mappings}
    return Foreign(
        state | values,
        held,
        {names[place]: own for place, own in reading.names.items()},
        ".".join(reading.begin),
        sorted(name for place, name in names.items() if place not in reading.names),
    )


def _mistaken(found: Tensor, like: Tensor) -> str | None:
    """Why a tensor of plain numbers cannot become one like the network's; None where it can."""
    if found.is_floating_point() != like.is_floating_point() or found.is_complex() != like.is_complex():
        more = "; quantised weights are not read" if found.element_size() == 1 and like.is_floating_point() else ""
        return f"is {found.dtype}, the network's is {like.dtype}{more}"
    value = found.to(like)
    if not (like.is_floating_point() or like.is_complex()):
        exact = torch.equal(value.to(found.dtype), found)
        return None if exact else f"is {found.dtype} with numbers that the network's {like.dtype} does not have"
    if problem := finiteness_problem(value, like):
        return (
            problem
            if finiteness_problem(found, like)
            else f"has numbers that are too large for the network's {like.dtype}"
        )
    return None


def _near(found: dict[Place, Tensor], readings: list[_Reading], wanted: _Wanted, inside: str | None) -> str:
    """Why nothing fits: the reading that comes nearest, and what is wrong there."""
    names = {place: ".".join(_path(place)) for place in found}
    marks = QUANTISED - {name.rpartition(".")[2] for name in wanted.aliases}
    if quantised := [n for place, n in names.items() if found[place].is_quantized or n.rpartition(".")[2] in marks]:
        return f"quantised weights, which are not read (found {some(quantised)}); save them before they are quantised"
    if not readings:
        searched = f"inside {inside!r}" if inside else "in it"
        told = f"found {some(list(names.values()))}; wanted {some(list(wanted.tensors))}"
        return f"no tensor of the network is {searched}; {told}"
    best = max(readings, key=lambda r: r.hits)
    total = len({*wanted.aliases.values()})
    parts = [f"{best.hits} of the network's {total} tensors fit" + (f" inside {best.label!r}" * bool(best.begin))]
    parts += [f"missing: {some(best.missing)}"] if best.missing else []
    if best.doubled:
        double = some([names[place] for place in best.doubled])
        parts.append(f"{double} both stand for {best.names[best.doubled[0]]}")
    extra = [".".join(_path(place)[len(best.begin) :]) for place in best.extra]
    parts += [f"the network has no: {some(extra)}"] if extra else []
    if shapes := best.shapes:
        differing = [f"{n} is {there}, in the network {here}" for n, (there, here) in shapes.items()]
        parts.append(f"of another shape: {some(differing)}")
    return "not a checkpoint of this network: " + "; ".join(parts) + _head(best)


def _head(reading: _Reading) -> str:
    """Whether all that differs is the number of classes: the first axis of one last layer."""
    shapes = reading.shapes.values()
    pairs = {(there[0], here[0]) for there, here in shapes if there and here and there[1:] == here[1:]}
    only = len(pairs) == 1 and all(there[1:] == here[1:] for there, here in shapes)
    if reading.missing or reading.extra or reading.doubled or not only or len(shapes) > 2:
        return ""
    there, here = pairs.pop()
    return f": a head of {there} classes, {here} are wanted"
