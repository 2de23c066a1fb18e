"""Correction of biases without data: what comes through the layers before them is smaller in a mean."""

from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.datasets.batches import select
from neuralign.merging.layers import Layer, layers_of, observed
from neuralign.merging.merge import Merge, changed
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State, parameters, preserved_modes


def bias(merge: Merge, *, shrink: Literal["similarity", "full"] = "similarity") -> State:
    """The merged network with smaller biases in deeper layers.

    Where networks with weights lambda are merged, a signal is multiplied by about lambda in each layer, so that the
    biases b of a layer at depth h are merged as the sum of lambda^h b; h = 1 is the plain mean. The depth counts layers
    on the longest way from the inputs, or from the last norm. Layers before a batch norm stay as they are. The facts
    are `layers`, how many biases were merged so, and `depth`, the largest h.

    Args:
        shrink: Whether a layer counts in full, as for networks that have nothing in common (`full`), or as one minus
            the cosine of its weights in the networks (`similarity`), so that equal networks stay as they are.
    """
    inputs, _ = next(merge.examples.batches(IMAGES))
    layers = layers_of(merge.model, merge.trace.spec, merge.state, inputs)
    depths = _depths(merge, layers, inputs, shrink)
    biases: dict[str, Tensor] = {}
    scaled = [layer for layer in layers if layer.bias is not None and not layer.before_batch_norm]
    for layer in scaled:
        assert layer.bias is not None
        terms = zip(merge.weights, merge.ends, strict=True)
        total = torch.stack([weight ** depths[layer.name] * end[layer.bias].double() for weight, end in terms]).sum(0)
        biases[layer.bias] = total.to(merge.state[layer.bias].dtype)
    merge.facts.update(layers=len(scaled), depth=max((depths[x.name] for x in scaled), default=1.0))
    return changed(merge.state, biases)


def _depths(merge: Merge, layers: list[Layer], inputs: Any, shrink: str) -> dict[str, float]:
    """{layer: 1 plus what the layers before it count for, on the longest way}, from the graph of autograd."""
    counts = {layer.name: 1.0 if shrink == "full" else 1 - _cosine(merge, layer) for layer in layers}
    nodes: dict[Any, str] = {}  # node that computes the outputs of a layer -> the layer

    def observe(layer: Layer, outputs: Tensor) -> None:
        if outputs.grad_fn is not None:  # it is None where the network's code runs without gradients
            nodes[outputs.grad_fn] = layer.name

    trained = parameters(merge.model.network)
    state = {
        name: tensor.detach().clone().requires_grad_(name in trained and tensor.is_floating_point())
        for name, tensor in merge.state.items()
    }
    with observed(layers, observe), preserved_modes(merge.model.network), torch.enable_grad():
        merge.model.network.eval()
        with merge.model.holding(state) as network:
            network(select(inputs, slice(2)))
    depths = {layer.name: 1.0 for layer in layers}
    before: dict[Any, float] = {}  # node -> what the layers up to it count for
    pending = list(nodes)
    while pending:
        node = pending[-1]
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        if unknown := [parent for parent in parents if parent not in before]:
            pending += unknown
            continue
        pending.pop()
        reached = 0.0 if "Norm" in node.name() else max((before[parent] for parent in parents), default=0.0)
        if node in nodes:
            depths[nodes[node]] = max(depths[nodes[node]], 1 + reached)
            reached += counts[nodes[node]]
        before[node] = reached
    return depths


def _cosine(merge: Merge, layer: Layer) -> float:
    """The mean cosine of the weights of a layer in pairs of the merged networks, at least zero; 1 for one network."""
    flat = [end[layer.weight].double().flatten() for end in merge.ends_with_weight]
    cosines = [F.cosine_similarity(a, b, dim=0).item() for a, b in combinations(flat, 2)] or [1.0]
    return max(0.0, sum(cosines) / len(cosines))
