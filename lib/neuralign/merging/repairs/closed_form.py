"""Repair from the networks that are merged alone: the moments of the merged network are predicted, not measured."""

from torch import Tensor

from neuralign.config.options import Count
from neuralign.merging.layers import corrected, correction, goals_and_mixtures, layers_of, repair_facts
from neuralign.merging.merge import Merge, with_fresh_statistics
from neuralign.networks.buffer_updates import IMAGES


def closed_form(merge: Merge, *, images: Count = 5000) -> dict[str, Tensor]:
    """The merged network, its hidden layers corrected as by `repair`, for the outputs that they are predicted to have.

    The prediction is the weighted sum of the outputs of the merged networks. It is exact for layers that read the
    inputs, and a heuristic below them (Jordan et al. 2023). Facts are those of `repair`.

    Args:
        images: Number of training images; a study draws them at random.
    """
    examples = merge.examples.first(images)
    called = layers_of(merge.model, merge.trace.spec, merge.state, next(examples.batches(IMAGES))[0])
    layers = [layer for layer in called if layer.hidden and not layer.before_batch_norm]
    goals, mixtures = goals_and_mixtures(merge, layers, examples)
    state = dict(merge.state)
    for layer in layers:
        state = corrected(state, layer, *correction(layer, mixtures[layer.name], goals[layer.name], "both"))
    merge.facts.update(repair_facts(layers, mixtures, "both"))
    return with_fresh_statistics(merge.model, state, examples)
