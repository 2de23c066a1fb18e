"""Layerwise linear feature connectivity (Zhou et al. 2023): does a merged network mix the features of its ends?"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.datasets.batches import Examples, count_examples
from neuralign.merging.layers import layers_of, outputs_of
from neuralign.merging.merge import BATCH_SIZE, Merge
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State


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
    """(3, examples): distance, coefficient and distance of the ends, of the outputs of the merge and of all ends."""
    merged, *ends = (output.double().flatten(1) for output in outputs)
    mixture = torch.stack([weight * end for weight, end in zip(merge.weights, ends, strict=True)]).sum(0)
    products = (merged * mixture).sum(1)
    between = torch.stack([1 - F.cosine_similarity(a, b) for a, b in combinations(ends, 2)]).mean(0)
    sizes = mixture.square().sum(1)
    return torch.stack([1 - F.cosine_similarity(merged, mixture), products / sizes, between])
