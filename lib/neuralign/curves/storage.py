"""Opening a path from the files of a job: its two ends, and the curve between them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralign.common.tensors import load_tensors
from neuralign.config.plugins import plugin
from neuralign.curves.curve import Curve, straight
from neuralign.curves.endpoints import Endpoints, divide
from neuralign.datasets.images import Images, as_float
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import load_state, tensor_problem
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.storage import load_permutation, uses_attention
from neuralign.symmetry.tracing.trace import trace_model

Ends = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Path:
    """A path between two states of a network."""

    states: Ends
    endpoints: Endpoints
    line: Curve  # the curve before any training: its bends lie evenly on the segment
    curve: Curve  # with the trained bends; the line where there are none


def open_path(
    model: Model,
    images: Images,
    target: str,
    source: str,
    *,
    curve: dict[str, Any],
    permutation: str | None = None,
    bends: str | None = None,
) -> Path:
    """The path from the network at `target` to the one at `source`.

    Args:
        images: of which a few show what the network does with its buffers.
        target, source: files of the two states.
        curve: the config entry of a family of curves.
        permutation: a file; the neurons of `source` are permuted by it first. None: they stay.
        bends: a file of trained bends. None: the path is the straight line.
    """
    states = load_ends(model, images, target, source, permutation)
    endpoints = divided(model, images, *states)
    line = straight(plugin("curves", curve), *endpoints.vectors)
    trained = line if bends is None else line.bent(load_bends(bends, endpoints.layout, line.bends))
    return Path(states, endpoints, line, trained)


def load_ends(model: Model, images: Images, target: str, source: str, permutation: str | None) -> Ends:
    """The states at `target` and `source`, the second with its neurons permuted where there is a permutation."""
    start, end = (load_state(path, model) for path in (target, source))
    if permutation is not None:
        spec = trace_model(model, images, attention=uses_attention(permutation)).spec
        end = permute(spec, load_permutation(permutation, spec), end)
    return start, end


def divided(model: Model, images: Images, *states: State) -> Endpoints:
    """These states as ends of a path; refused where the network at one of them would not be that function."""
    return divide(model, states, as_float(images.pixels[:IMAGES]))


def name_bends(layout: FlatLayout, bends: Tensor) -> dict[str, Tensor]:
    """The control points (k, d) between the ends as named tensors: `fc.weight` of the first is `1.fc.weight`.

    Tensors that do not train but are interpolated are among them.
    """
    return {f"{i}.{n}": t for i, bend in enumerate(bends, 1) for n, t in layout.views(bend).items()}


def load_bends(path: str, layout: FlatLayout, like: Tensor) -> Tensor:
    """The control points (k, d) that `name_bends` named, of the shape, type and device of `like`."""
    named = load_tensors(path, like.device)
    names = [{n: f"{i}.{n}" for n in layout.shapes} for i in range(1, len(like) + 1)]
    if {full for bend in names for full in bend.values()} != named.keys():
        raise ValueError(f"{path}: holds other tensors than {len(like)} bends of this network")
    for bend, expected in zip(names, like, strict=True):
        for name, tensor in layout.views(expected).items():
            if problem := tensor_problem(named[bend[name]], tensor):
                raise ValueError(f"{path}: {bend[name]} {problem}")
    return torch.stack([layout.flatten({n: named[full] for n, full in bend.items()}) for bend in names])
