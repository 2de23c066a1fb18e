"""Loads paths from files: two endpoints, the permutation of the second, and the bends of the curve between them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import join_names
from neuralign.common.tensors import load_tensors
from neuralign.config.plugins import plugin
from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.endpoints import Endpoints, endpoints_of
from neuralign.datasets.batches import Examples
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import load_state, tensor_problem
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.storage import load_permutation, uses_attention
from neuralign.symmetry.tracing.trace import trace_model

Ends = tuple[dict[str, Tensor], dict[str, Tensor]]  # the states of target and source


@dataclass(frozen=True)
class Path:
    """A curve between two states of a network, before and after its training."""

    states: Ends  # the second one permuted if there is a permutation
    endpoints: Endpoints  # the same states, each divided into what is interpolated and what is stored
    line: Curve  # the straight line between them: the curve before its training
    curve: Curve  # the curve with its trained bends; `line` if there is no file of bends


def open_path(
    model: Model,
    images: Examples,
    target: str,
    source: str,
    *,
    curve: dict[str, Any],
    permutation: str | None = None,
    bends: str | None = None,
) -> Path:
    """The path from the network in the file `target` to the one in `source`.

    Raises StateError, ValueError or UserError, which name the file, if a file does not fit the model or the symmetry.

    Args:
        model: the network, on the device where the path is to be.
        images: of the dataset; the network is run on a few of them to trace it and to see how it updates its buffers.
        target, source: files of the two states.
        curve: the config entry of a family of curves.
        permutation: file of a permutation, which is applied to `source`. None: it stays as it is.
        bends: file of trained bends. None: the path is the straight line.
    """
    states = load_ends(model, images, target, source, permutation)
    endpoints = endpoints_on_images(model, images, *states)
    line = straight_line(plugin("curves", curve), *endpoints.vectors)
    trained = line if bends is None else line.with_bends(load_bends(bends, endpoints.layout, line.bends))
    return Path(states, endpoints, line, trained)


def load_ends(model: Model, images: Examples, target: str, source: str, permutation: str | None) -> Ends:
    """The states in the files `target` and `source`, the second one permuted if there is a `permutation`."""
    start, end = (load_state(path, model) for path in (target, source))
    if permutation is not None:
        spec = trace_model(model, images, attention=uses_attention(permutation)).spec
        end = permute(spec, load_permutation(permutation, spec), end)
    return start, end


def endpoints_on_images(model: Model, images: Examples, *states: State) -> Endpoints:
    """`endpoints_of` these states, with a few of these images."""
    return endpoints_of(model, states, next(images.batches(IMAGES))[0])


def name_bends(layout: FlatLayout, bends: Tensor) -> dict[str, Tensor]:
    """The bends (k, d) of a curve as named tensors to save: `fc.weight` of the first bend is `1.fc.weight`.

    Tensors that are interpolated but not trained are among them.
    """
    return {f"{i}.{n}": t for i, bend in enumerate(bends, 1) for n, t in layout.views(bend).items()}


def load_bends(path: str, layout: FlatLayout, like: Tensor) -> Tensor:
    """The bends (k, d) in a file of tensors that `name_bends` named.

    Raises ValueError unless they have this layout, the number and dtype of `like` (k, d), and finite values.
    """
    tensors = load_tensors(path, like.device)
    names = [{n: f"{i}.{n}" for n in layout.shapes} for i in range(1, len(like) + 1)]  # for each bend
    if (needed := {full for bend in names for full in bend.values()}) != tensors.keys():
        missing, extra = (join_names(sorted(n)) or "none" for n in (needed - tensors.keys(), tensors.keys() - needed))
        differences = f"missing: {missing}; not in these: {extra}"
        raise ValueError(f"{path}: holds other tensors than {len(like)} bends of this network; {differences}")
    for bend, expected in zip(names, like, strict=True):
        for name, tensor in layout.views(expected).items():
            if problem := tensor_problem(tensors[bend[name]], tensor):
                raise ValueError(f"{path}: {bend[name]} {problem}")
    if not names:
        return like
    return torch.stack([layout.flatten({n: tensors[full] for n, full in bend.items()}) for bend in names])
