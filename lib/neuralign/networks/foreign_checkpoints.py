"""Reads checkpoints that other programs wrote, by matching their tensors to a network by name and shape.

Programs save weights inside mappings (`state_dict`, `model`, ...), behind prefixes (`net.`), and with names of wrappers
anywhere in the names (`module.`, `_orig_mod.`). So every tensor of a file has a *path*: the keys that lead to its
mapping and its name there, split at dots, such as (state_dict, net, fc, bias). A *reading* of the file takes one prefix
and a set of wrapper names out of the paths. All possible readings are tried; exactly one must give all tensors of the
network.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from os.path import commonprefix
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import join_names
from neuralign.common.shards import CheckpointError, checkpoint_files
from neuralign.common.tensors import ComputedState, TensorFile
from neuralign.config.references import is_hub
from neuralign.networks.foreign_files import Location, read_mappings, shard_hint
from neuralign.networks.foreign_networks import hub_networks
from neuralign.networks.model import Model, State, buffers, parameters
from neuralign.networks.states import (
    EXTRA,
    OPTIONAL,
    are_equal,
    finiteness_problem,
    state_dict_tensors,
    storage_problem,
)

__all__ = ["CheckpointError", "ForeignCheckpoint", "read"]

# what wrappers call the module that they wrap: torch.compile; data parallel and averages of weights; fully sharded data
# parallel, of torch and of FairScale; activation checkpointing; Lightning Fabric
WRAPPERS: tuple[str, ...] = ("_orig_mod", "module", "_fsdp_wrapped_module", "_fpw_module")
WRAPPERS += ("_checkpoint_wrapped_module", "_forward_module")
# last parts of the names of tensors that only quantised checkpoints have
QUANTISED = {"zero_point", "_packed_params", "qweight", "qzeros", "scales", "g_idx", "SCB", "absmax", "quant_map"}
QUANTISED |= {"weight_scale", "weight_scale_inv", "weight_format", "weight_packed"}
TOP = "."  # the value of `inside` that means the top of the file
Key = tuple[Location, str]  # the mapping of a tensor in the file, and its name there


@dataclass(frozen=True)
class ForeignCheckpoint:
    state: State  # all parameters and buffers by the network's names, with its dtypes, on its device
    stored: State  # those of them that the file has, by the network's names, as the file has them
    names: dict[str, str]  # {name in the file: name in the network}; the names in the file begin below its mapping
    inside: str  # what the paths of the network's tensors begin with in the file
    unused: list[str]  # names of further tensors in the same mappings

    @property
    def prefix(self) -> str | None:
        """What every name in the file begins with before the network's name; None if names differ otherwise."""
        in_file_of: dict[str, list[str]] = {}
        for in_file, name in self.names.items():
            in_file_of.setdefault(name, []).append(in_file)
        single = {name: in_file for name, (in_file, *others) in in_file_of.items() if not others}  # not tied
        prefixes = {f.removesuffix(name) if f.endswith(name) else None for name, f in single.items()} or {""}
        return prefixes.pop() if len(prefixes) == 1 else None

    def renamed(self, state: State) -> ComputedState:
        """A state of the network by the names, and with the dtypes, of the file; each tensor is computed when read."""
        rounded, names = self.rounded(state), self.names
        return ComputedState(names, lambda in_file: rounded[names[in_file]])

    def rounded(self, state: State) -> ComputedState:
        """A state of the network with the dtypes of the file, each tensor computed when read; what the file lacks is
        left as it is.

        Raises CheckpointError, when it is read, for a tensor with finite values that its dtype cannot hold.
        """
        dtypes = {name: tensor.dtype for name, tensor in self.stored.items()}

        def rounded(name: str) -> Tensor:
            tensor = state[name]
            result = tensor.to(dtypes.get(name, tensor.dtype))
            if result.dtype == tensor.dtype or result.to(tensor.dtype).isfinite().all() or not tensor.isfinite().all():
                return result
            raise CheckpointError(
                f"{name}: found values up to {tensor.abs().max():.3g}, too large for {result.dtype}, its type in the "
                "first checkpoint, which the result has too; give that one in float32"
            )

        return ComputedState(state, rounded)


@dataclass(frozen=True)
class _Expected:
    """The tensors of the network, and what a file may call them if some wrapper names are ignored.

    A *bare name* is a name in the state_dict without the ignored wrapper names.
    """

    tensors: dict[str, Tensor]  # by their names in the network's state_dict
    aliases: dict[str, str]  # {name in the state_dict: name in a state}; tied tensors have several of the former
    ignored: frozenset[str] = frozenset()  # names of wrappers
    state_names: dict[str, str] = field(default_factory=dict)  # {bare name: name in a state}


@dataclass(frozen=True)
class _Reading:
    """A prefix and a set of wrapper names that are taken out of the paths of a file, and what does not fit then."""

    prefix: tuple[str, ...]
    expected: _Expected
    tensors: dict[Key, Tensor]  # all behind the prefix, in mappings with at least one tensor of the network
    bare_names: dict[Key, str]  # of those of them that are the network's

    @property
    def label(self) -> str:
        """The value of `inside` that chooses this reading."""
        return ".".join(self.prefix) or TOP

    @cached_property
    def names(self) -> dict[Key, str]:
        """{key in the file: name in a state of the network}."""
        return {key: self.expected.state_names[bare] for key, bare in self.bare_names.items()}

    @cached_property
    def missing(self) -> list[str]:
        present = {*self.names.values()}
        expected = dict.fromkeys(self.expected.aliases.values())
        return [name for name in expected if name not in present and not name.endswith(OPTIONAL)]

    @cached_property
    def extra(self) -> list[Key]:
        return [key for key in self.tensors if key not in self.bare_names and not key[1].endswith(EXTRA)]

    @cached_property
    def duplicates(self) -> list[Key]:
        """Several keys of the file with the same bare name, the first such case; [] if there is none."""
        keys_of: dict[str, list[Key]] = {}
        for key, bare in self.bare_names.items():
            keys_of.setdefault(bare, []).append(key)
        return next((keys for keys in keys_of.values() if len(keys) > 1), [])

    @cached_property
    def differing_shapes(self) -> dict[str, tuple[list[int], list[int]]]:
        """{name in a state: (shape in the file, shape in the network)} where they differ."""
        stored = {name: self.tensors[key] for key, name in self.names.items()}
        pairs = {name: (stored[name], t) for name, t in self.expected.tensors.items() if name in stored}
        return {
            name: (list(in_file.shape), list(in_network.shape))
            for name, (in_file, in_network) in pairs.items()
            if not storage_problem(in_file) and in_file.shape != in_network.shape
        }

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.differing_shapes or self.duplicates)

    @property
    def n_fitting(self) -> int:
        return len({*self.names.values()}) - len(self.differing_shapes)


def read(path: str | Path, model: Model, inside: str | None = None) -> ForeignCheckpoint:
    """The checkpoint at `path` as a state of the model.

    Floating-point numbers are rounded to the network's dtype; integers must be representable in it. Raises
    CheckpointError unless everything fits: missing or additional tensors, other shapes, quantised weights and values
    that are not finite are refused. Only `num_batches_tracked` may be missing.

    Args:
        path: A checkpoint file, an index of shards, or a folder with one of these; or a name of a hub.
        model: The model, whose network's names, shapes and dtypes the file must have.
        inside: The keys and prefixes, joined by dots, behind which the network's names begin; "." is the top of the
            file. None: wherever they are, if that is only one place.
    """
    path, _ = locate(path)
    stored = {(location, name): t for location, tensors in read_mappings(path).items() for name, t in tensors.items()}
    expected = _Expected(*state_dict_tensors(model.network))
    readings = list(_find_readings(stored, expected))
    fitting = _drop_equivalents(r for r in _select_fitting(readings) if inside in (None, r.label))
    if len(fitting) > 1:
        labels = join_names([repr(r.label) for r in fitting])
        raise CheckpointError(
            f"{path}: contains {len(fitting)} checkpoints of the network; "
            f"choose one with --inside, in a config `inside`: {labels}"
        )
    if not fitting:
        reason = _why_none_fits(stored, [r for r in readings if inside in (None, r.label)], expected, inside)
        raise CheckpointError(f"{path}: {reason}{shard_hint(path)}")
    return _convert(path, stored, fitting[0], model)


def locate(path: str | Path) -> tuple[str | Path, dict[str, Any]]:
    """(the file of a checkpoint, what is known of where it is from): that of a hub's name is downloaded if need be.

    Of a file of the user nothing is known.
    """
    if not is_hub(str(path)):
        return path, {}
    file = hub_networks().fetch(str(path))
    return file.path, file.record


def read_mapped(path: str | Path, model: Model, inside: str | None = None) -> ForeignCheckpoint:
    """As `read`; the tensors of safetensors files are mapped from them whenever they are read, and take no memory else.

    So the files must not change. Those of torch.save are in memory.
    """
    path, _ = locate(path)
    checkpoint, files = read(path, model, inside), checkpoint_files(path)
    try:
        tensors = {n: file for file in map(TensorFile, files.files[bool(files.shard_of) :]) for n in file}
    except ValueError:  # a file of torch.save
        return checkpoint
    in_file = {name: stored for stored, name in checkpoint.names.items()}
    dtypes = {name: tensor.dtype for name, tensor in checkpoint.state.items()}
    others = {name: tensor for name, tensor in checkpoint.state.items() if name not in in_file}

    def stored(name: str) -> Tensor:
        return tensors[in_file[name]][in_file[name]]

    def converted(name: str) -> Tensor:
        return others[name] if name in others else stored(name).to(model.device, dtypes[name]).contiguous()

    return replace(
        checkpoint, state=ComputedState(checkpoint.state, converted), stored=ComputedState(checkpoint.stored, stored)
    )


def _find_readings(stored: dict[Key, Tensor], expected: _Expected) -> Iterator[_Reading]:
    """Every reading that gives at least one tensor of the network; those that ignore fewer wrapper names first."""
    paths = {key: _split_path(key) for key in stored}
    all_paths = [*paths.values(), *(tuple(name.split(".")) for name in expected.aliases)]
    wrappers = [wrapper for wrapper in WRAPPERS if any(wrapper in path[:-1] for path in all_paths)]
    for count in range(len(wrappers) + 1):
        for ignored in map(frozenset, combinations(wrappers, count)):
            bare_of = {name: _drop_wrappers(tuple(name.split(".")), ignored) for name in expected.aliases}
            state_names = {bare: expected.aliases[name] for name, bare in bare_of.items()}
            # otherwise two tensors of the network have the same bare name
            if all(state_names[bare_of[name]] == state_name for name, state_name in expected.aliases.items()):
                yield from _find_prefixes(replace(expected, ignored=ignored, state_names=state_names), stored, paths)


def _find_prefixes(
    expected: _Expected, stored: dict[Key, Tensor], paths: dict[Key, tuple[str, ...]]
) -> Iterator[_Reading]:
    """One reading for each prefix behind which there is a tensor of the network."""
    bare_names: dict[tuple[str, ...], dict[Key, str]] = {}  # prefix -> key -> bare name
    for key, path in paths.items():
        for i in range(len(path)):
            if (bare := _drop_wrappers(path[i:], expected.ignored)) in expected.state_names:
                bare_names.setdefault(path[:i], {})[key] = bare
    behind: dict[tuple[str, ...], list[Key]] = {prefix: [] for prefix in bare_names}  # prefix -> all keys behind it
    for key, path in paths.items():
        for i in range(len(path)):
            if path[:i] in behind:
                behind[path[:i]].append(key)
    for prefix, network_keys in bare_names.items():
        locations = {location for location, _ in network_keys}
        yield _Reading(prefix, expected, {k: stored[k] for k in behind[prefix] if k[0] in locations}, network_keys)


def _split_path(key: Key) -> tuple[str, ...]:
    location, name = key
    return tuple(".".join((*location, name)).split("."))


def _drop_wrappers(path: tuple[str, ...], ignored: frozenset[str]) -> str:
    """The name without ignored wrapper names; its last part, the name of the tensor itself, is always kept."""
    return ".".join((*(part for part in path[:-1] if part not in ignored), path[-1]))


def _select_fitting(readings: list[_Reading]) -> Iterator[_Reading]:
    """The complete readings whose extra tensors all belong to other complete readings."""
    complete = [r for r in readings if r.is_complete]
    for reading in complete:
        unexplained = set(reading.extra)
        for other in complete if unexplained else ():
            if not other.names.keys() & reading.names.keys():
                unexplained -= other.names.keys()
        if not unexplained:
            yield reading


def _drop_equivalents(readings: Iterable[_Reading]) -> list[_Reading]:
    """The first of all readings that give the same tensors of the file the same names in the network."""
    distinct: dict[frozenset[tuple[Key, str]], _Reading] = {}
    for reading in readings:
        distinct.setdefault(frozenset(reading.names.items()), reading)
    return list(distinct.values())


def _convert(path: str | Path, stored: dict[Key, Tensor], reading: _Reading, model: Model) -> ForeignCheckpoint:
    """The checkpoint of a reading that fits; refused where values cannot be converted to the network's dtypes."""
    network_state = {**parameters(model.network), **buffers(model.network)}
    in_file: dict[str, Tensor] = {}  # by the network's names
    for key, name in reading.names.items():
        tensor = reading.tensors[key].detach()
        if problem := storage_problem(tensor) or _conversion_problem(tensor, network_state[name]):
            raise CheckpointError(f"{path}: {name} {problem}")
        if name in in_file and not are_equal(in_file[name], tensor):
            bare = reading.bare_names[key]
            raise CheckpointError(f"{path}: {bare} and {name} are one tensor in the network, but differ in the file")
        in_file[name] = tensor
    converted = {name: tensor.to(network_state[name]).contiguous() for name, tensor in in_file.items()}
    locations = {location for location, _ in reading.names}
    common = len(commonprefix(list(locations)))
    file_names = {key: ".".join((*key[0][common:], key[1])) for key in stored if key[0] in locations}
    return ForeignCheckpoint(
        network_state | converted,  # optional tensors that the file lacks keep the values of the fresh network
        in_file,
        {file_names[key]: name for key, name in reading.names.items()},
        ".".join(reading.prefix),
        sorted(file_name for key, file_name in file_names.items() if key not in reading.names),
    )


def _conversion_problem(tensor: Tensor, expected: Tensor) -> str | None:
    """Why a tensor cannot be converted to the dtype of `expected`, as a predicate to follow its name; None if it can.

    `expected` is the tensor that it would replace in the network.
    """
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_complex() != expected.is_complex():
        is_quantised = tensor.element_size() == 1 and expected.is_floating_point()
        advice = "; quantised weights cannot be read" if is_quantised else ""
        return f"is {tensor.dtype}, the network's is {expected.dtype}{advice}"
    converted = tensor.to(expected)
    if not (expected.is_floating_point() or expected.is_complex()):
        is_exact = torch.equal(converted.to(tensor.dtype), tensor)
        return None if is_exact else f"is {tensor.dtype}, with values that the network's {expected.dtype} does not have"
    if problem := finiteness_problem(converted, expected):
        if finiteness_problem(tensor, expected):
            return problem
        return f"has values that are too large for the network's {expected.dtype}"
    return None


def _why_none_fits(stored: dict[Key, Tensor], readings: list[_Reading], expected: _Expected, inside: str | None) -> str:
    """What is wrong in the reading in which most tensors fit, for a message."""
    file_names = {key: ".".join(_split_path(key)) for key in stored}
    quantised_endings = QUANTISED - {name.rpartition(".")[2] for name in expected.aliases}
    if quantised := [
        name
        for key, name in file_names.items()
        if stored[key].is_quantized or name.rpartition(".")[2] in quantised_endings
    ]:
        return f"found quantised weights ({join_names(quantised)}), which cannot be read; save unquantised weights"
    if not readings:
        where = f" inside {inside!r}" if inside else ""
        names = f"found {join_names(list(file_names.values()))}; the network has {join_names(list(expected.tensors))}"
        return f"contains no tensor of the network{where}; {names}"
    best = max(readings, key=lambda r: r.n_fitting)
    total = len({*expected.aliases.values()})
    parts = [f"{best.n_fitting} of the network's {total} tensors fit" + (f" inside {best.label!r}" * bool(best.prefix))]
    parts += [f"missing: {join_names(best.missing)}"] if best.missing else []
    if best.duplicates:
        duplicates = join_names([file_names[key] for key in best.duplicates])
        parts.append(f"{duplicates} would all become {best.names[best.duplicates[0]]}")
    extra = [".".join(_split_path(key)[len(best.prefix) :]) for key in best.extra]
    parts += [f"not in the network: {join_names(extra)}"] if extra else []
    if best.differing_shapes:
        shapes = [f"{name} is {a}, in the network {b}" for name, (a, b) in best.differing_shapes.items()]
        parts.append(f"different shape: {join_names(shapes)}")
    return "not a checkpoint of this network: " + "; ".join(parts) + _class_hint(best)


def _class_hint(reading: _Reading) -> str:
    """For a message: that only the number of classes differs, the first axis of one last layer; "" if more differs."""
    shapes = reading.differing_shapes.values()
    first_axes = {(a[0], b[0]) for a, b in shapes if a and b and a[1:] == b[1:]}
    only_first_axis = len(first_axes) == 1 and all(a[1:] == b[1:] for a, b in shapes)
    if reading.missing or reading.extra or reading.duplicates or not only_first_axis or len(shapes) > 2:
        return ""
    in_file, in_network = first_axes.pop()
    return f"; the file has {in_file} classes, the network {in_network}"
