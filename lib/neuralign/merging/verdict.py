"""Is a merged network worth having? Its metrics beside those of the networks it was made of, and one sentence."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

import torch

from neuralign.datasets.batches import Examples
from neuralign.evaluation.along_curve import measure
from neuralign.evaluation.barrier import interval_of_mean, values_of
from neuralign.evaluation.calibration import calibration, ensemble, predictions, temperature
from neuralign.networks.model import Model, State
from neuralign.training.objective import LOSS, Objective

AVERAGED = "its running statistics are means of the inputs' statistics, not its own: re-estimate them on training data"
UNMEASURED = "no labelled data were given, so nothing was measured: compare the merge with its inputs before you use it"


def judge(
    model: Model,
    inputs: Sequence[State],
    merged: State,
    examples: Examples,
    objective: Objective,
    names: Sequence[str],
    training: Examples | None,
) -> dict[str, Any]:
    """Facts about a merged network and its inputs, measured on `examples`.

    They are: metric, the one that decides, a metric in percent or else the loss; inputs and merged, {metric: value} of
    each; n; best, the name of the best input; gain, how much better the merge is (negative: worse), in points or in
    loss; interval of the gain of 95 %, by bootstrap over the examples; sentence. The best input is the best on the same
    examples, which favours it where several are nearly as good. For classifiers also ensemble, of the
    inputs' probabilities, and the calibration of each.

    Args:
        inputs: the networks that were merged, named by `names`.
        training: examples for the temperatures of classifiers; None if the network is none.
    """
    metric = next((name for name in objective.others if name in objective.percent), LOSS)
    sign = -1.0 if metric == LOSS else 1.0
    values = [sign * values_of(model, state, examples, objective.metrics[metric]) for state in (*inputs, merged)]
    best = max(range(len(inputs)), key=lambda i: values[i].mean().nan_to_num(nan=-inf).item())
    gains = values[-1] - values[best]
    facts: dict[str, Any] = {
        "metric": metric,
        "n": len(examples),
        "inputs": [_measure(model, state, examples, objective, training) for state in inputs],
        "merged": _measure(model, merged, examples, objective, training),
        "best": names[best],
        "gain": gains.mean().item(),
        "interval": list(interval_of_mean(gains)),
    }
    if training is not None:
        heads, (labels, *_) = zip(*(predictions(model, state, examples) for state in inputs), strict=True)
        facts["ensemble"] = calibration(ensemble(heads), labels)
        facts["ensemble"]["accuracy"] = 100 - facts["ensemble"]["error"]
    return facts | {"sentence": _sentence(facts)}


def _measure(
    model: Model, state: State, examples: Examples, objective: Objective, training: Examples | None
) -> dict[str, float]:
    """The metrics of the objective; for classifiers also error, nll, brier, ece, and nll with a temperature."""
    generator = torch.Generator()  # there is no attack that draws from it
    facts = measure(model, state, examples, batch_size=512, attack=None, generator=generator, objective=objective)
    if training is None:
        return facts
    heads, labels = predictions(model, state, examples)
    chosen = temperature(*predictions(model, state, training))
    calibrated = calibration(heads / chosen, labels)
    return facts | calibration(heads, labels) | {"temperature": chosen, "calibrated_nll": calibrated["nll"]}


def _sentence(facts: dict[str, Any]) -> str:
    """One honest sentence on the gain."""
    best, gain, (low, high) = facts["best"], facts["gain"], facts["interval"]
    if not isfinite(gain):
        return f"the {facts['metric']} of the merge or of all inputs is not a finite number: do not use the merge"
    in_points = facts["metric"] != LOSS
    amount = f"{abs(gain):.1f} points" if in_points else f"{abs(gain):.3g} of loss"
    shown = [f"{value:+.1f}" if in_points else f"{value:+.3g}" for value in (low, high)]
    certainty = f" (95 % interval {shown[0]} to {shown[1]}, n = {facts['n']})"
    if float(amount.split()[0]) == 0:
        return f"the merge is as good as {best}, the best input{certainty}"
    if low <= 0 <= high:
        certainty = certainty.replace(", n", ", which may be chance, n")
    if gain < 0:
        place = "below" if in_points else "worse than"
        place = f"{amount} {place} {best}" if in_points else f"worse than {best} by {amount}"
        return f"the merge is {place}: keep {best}{certainty}"
    place = f"{amount} above {best}" if in_points else f"better than {best} by {amount}"
    return f"the merge is {place}, the best input: keep the merge{certainty}"
