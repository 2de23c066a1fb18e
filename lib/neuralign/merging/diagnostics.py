"""Layerwise linear feature connectivity (Zhou et al. 2023): does a merged network mix the features of its ends?"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from neuralign.datasets.batches import Examples, count_examples
from neuralign.merging.layers import layers_of, outputs_of
from neuralign.merging.merge import BATCH_SIZE, Merge
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State

ZERO = 1e-16  # products of norms below this are those of a vector that is zero


def llfc(merge: Merge, state: State, examples: Examples) -> Iterator[dict[str, Any]]:
    """One row for each layer: how the outputs of the merged network compare with the weighted mean of the ends'.

    Columns: layer; order; distance, one minus the cosine of the two, for each example; coefficient, by which the mean
    has to be multiplied to be closest to the merged network's: below 1 the activations have shrunk; ends, one minus the
    cosine of the outputs of two ends, against which a distance is small or not. All three are means over the examples,
    with their standard deviations as `..._sd`.

    Args:
        merge: whose ends are compared.
        state: of the merged network, repaired or not.
        examples: on which the networks are compared.
    """
    layers = layers_of(merge.model, merge.trace.spec, state, next(examples.batches(IMAGES))[0])
    values: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}  # (3, examples) of each batch
    for inputs, _ in examples.batches(BATCH_SIZE):
        merged, *ends = (outputs_of(merge.model, s, layers, inputs)[0] for s in (state, *merge.ends))
        for name in values:
            calls = zip(merged[name], *(end[name] for end in ends), strict=True)
            values[name] += [_compare(merge, call) for call in calls if len(call[0]) == count_examples(inputs)]
    for order, (name, parts) in enumerate((name, parts) for name, parts in values.items() if parts):
        mean, sd = torch.cat(parts, 1).mean(1).tolist(), torch.cat(parts, 1).std(1).tolist()
        row: dict[str, Any] = {"layer": name, "order": order}
        for i, column in enumerate(("distance", "coefficient", "ends")):
            row |= {column: mean[i], f"{column}_sd": sd[i]}
        yield row


def _compare(merge: Merge, outputs: tuple[Tensor, ...]) -> Tensor:
    """(3, examples): distance, coefficient and distance of the ends, of the outputs of the merge and of all ends.

    All follow from the inner products of the outputs with each other, so the outputs are read once.
    """
    vectors = torch.stack([output.double().flatten(1) for output in outputs], 1)
    inner = vectors @ vectors.mT  # (examples, 1 + ends, 1 + ends)
    norms = inner.diagonal(dim1=1, dim2=2).sqrt()
    weights = inner.new_tensor(merge.weights)
    # of the mean with the merge, and with itself, which rounding may make negative where the ends cancel
    products, squares = inner[:, 0, 1:] @ weights, (inner[:, 1:, 1:] @ weights @ weights).clamp(min=0)
    pairs = combinations(range(1, len(outputs)), 2)
    between = torch.stack([_distance(inner[:, i, j], norms[:, i] * norms[:, j]) for i, j in pairs]).mean(0)
    return torch.stack([_distance(products, norms[:, 0] * squares.sqrt()), products / squares, between])


def _distance(products: Tensor, norms: Tensor) -> Tensor:
    """One minus the cosine, from inner products and products of norms; 1 where a vector is zero."""
    return 1 - products / norms.clamp(min=ZERO)
