"""REPAIR: each unit gets the mean and deviation that it has on average in the merged networks (Jordan et al. 2023)."""

from typing import Literal

from torch import Tensor

from neuralign.config.options import Count
from neuralign.datasets.batches import Examples
from neuralign.merging.layers import (
    Goal,
    Layer,
    Moments,
    corrected,
    correction,
    forward,
    goals_and_mixtures,
    layers_of,
    observed,
    repair_facts,
)
from neuralign.merging.merge import BATCH_SIZE, Merge, with_fresh_statistics
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State


class _Reached(BaseException):
    """Ends a forward pass at the layer of interest; no `except Exception` in a network's code catches it."""


def repair(
    merge: Merge,
    *,
    images: Count = 5000,
    match: Literal["both", "scale"] = "both",
    passes: Literal["exact", "single"] = "exact",
) -> dict[str, Tensor]:
    """The merged network with corrected weights and biases of its hidden layers, and running statistics of its own.

    A layer whose outputs a batch norm takes stays as it is: the statistics do its work. So do heads. Facts: `layers`,
    `dead` (constant outputs, which stay), `unshifted` (outputs of layers without bias, which are only scaled).

    Args:
        images: Number of training images; a study draws them at random.
        match: Whether means and deviations are matched (`both`), or outputs are only multiplied, so that their
            deviations match (`scale`).
        passes: Whether every layer is measured after all before it are repaired (`exact`), or all in one pass, in which
            the moments of each batch are matched (`single`), as in the paper.
    """
    examples = merge.examples.first(images)
    called = layers_of(merge.model, merge.trace.spec, merge.state, next(examples.batches(IMAGES))[0])
    layers = [layer for layer in called if layer.hidden and not layer.before_batch_norm]
    goals, _ = goals_and_mixtures(merge, layers, examples)
    state, moments = dict(merge.state), {layer.name: Moments() for layer in layers}
    if passes == "single":
        _measure_matched(merge, layers, moments, goals, match, examples)
    for layer in layers:
        if passes == "exact":
            _measure(merge, state, layer, moments[layer.name], examples)
        state = corrected(state, layer, *correction(layer, moments[layer.name], goals[layer.name], match))
    merge.facts.update(repair_facts(layers, moments, match))
    return with_fresh_statistics(merge.model, state, examples)


def _measure(merge: Merge, state: State, layer: Layer, moments: Moments, examples: Examples) -> None:
    """Add the outputs of one layer to its moments; the pass ends there if the layer is called once."""

    def observe(layer: Layer, outputs: Tensor) -> None:
        moments.add(outputs, layer.output_dim)
        if layer.calls == 1:
            raise _Reached

    with observed([layer], observe):
        for inputs, _ in examples.batches(examples.even_size(BATCH_SIZE)):
            try:
                forward(merge.model, state, inputs, batch_statistics=True)
            except _Reached:
                continue


def _measure_matched(
    merge: Merge,
    layers: list[Layer],
    moments: dict[str, Moments],
    goals: dict[str, Goal],
    match: str,
    examples: Examples,
) -> None:
    """Add the outputs of all layers to their moments, in a pass that goes on with outputs matched in each batch."""

    def observe(layer: Layer, outputs: Tensor) -> Tensor:
        batch, dim = Moments(), layer.output_dim
        for sums in (batch, moments[layer.name]):
            sums.add(outputs, dim)
        gain, shift = correction(layer, batch, goals[layer.name], match)
        return (outputs.movedim(dim, -1) * gain + shift).movedim(-1, dim).to(outputs.dtype)

    with observed(layers, observe):
        for inputs, _ in examples.batches(examples.even_size(BATCH_SIZE)):
            forward(merge.model, merge.state, inputs, batch_statistics=True)
