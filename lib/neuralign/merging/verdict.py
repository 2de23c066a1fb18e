"""Is a merged network worth having? Its metrics beside those of the networks it was made of, and one sentence."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from neuralign.datasets.batches import Examples
from neuralign.evaluation.barrier import interval_of_mean, values_of_all
from neuralign.evaluation.calibration import calibrated_metrics, calibration, ensemble, predictions
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
    has_classes: bool,
    what: str = "merge",
) -> dict[str, Any]:
    """Facts about a merged network, or another that was made of several, and its inputs, measured on `examples`.

    They are: what it is; metric, the one that decides, a metric in percent or else the loss; inputs and merged,
    {metric: value} of each; n; best, the name of the best input; gain, how much better the network is (negative:
    worse), in points or in loss; interval of the gain of 95 %, by bootstrap over the examples, None for a single one;
    sentence. The best input is the best on the same examples, which favours it where several are nearly as good. For
    classifiers also ensemble, of the inputs' probabilities, and of each network its error, nll, brier, ece, and nll
    with a temperature, which is fitted on the other half of the examples.

    Args:
        inputs: the networks that were merged, named by `names`.
        has_classes: whether the network is a classifier.
        what: the network is called in the sentence.
    """
    networks = (*inputs, merged)
    predicted = [predictions(model, state, examples) for state in networks] if has_classes else []
    metric = deciding_metric(objective)
    sign = -1.0 if metric == LOSS else 1.0
    all_values = [values_of_all(model, state, examples, objective.metrics) for state in networks]
    values = [sign * objective.metrics[metric].scale * of_network[metric] for of_network in all_values]
    best = max(range(len(inputs)), key=lambda i: values[i].mean().nan_to_num(nan=-inf).item())
    gains = values[-1] - values[best]
    totals = [{name: v.sum().item() for name, v in of_network.items()} for of_network in all_values]
    measured = [objective.report(total, len(examples)) for total in totals]
    facts: dict[str, Any] = {
        "what": what,
        "metric": metric,
        "n": len(examples),
        "inputs": measured[:-1],
        "merged": measured[-1],
        "best": names[best],
        "gain": gains.mean().item(),
        "interval": list(interval_of_mean(gains)) if len(gains) > 1 else None,
    }
    if has_classes:
        for metrics, (logits, labels) in zip(measured, predicted, strict=True):
            metrics |= calibration(logits, labels) | calibrated_metrics(logits, labels)
        heads, (labels, *_) = zip(*predicted[:-1], strict=True)
        facts["ensemble"] = calibration(ensemble(heads), labels)
        facts["ensemble"]["accuracy"] = 100 - facts["ensemble"]["error"]
    return facts | {"sentence": _sentence(facts)}


def deciding_metric(objective: Objective) -> str:
    """The metric by which networks are judged: one in percent, or else the loss."""
    return next((name for name in objective.others if name in objective.percent), LOSS)


def _sentence(facts: dict[str, Any]) -> str:
    """One honest sentence on the gain."""
    what, best, gain, interval, n = (facts[key] for key in ("what", "best", "gain", "interval", "n"))
    if not isfinite(gain):
        return f"the {facts['metric']} of the {what} or of all inputs is not a finite number: do not use it"
    in_points = facts["metric"] != LOSS
    amount = f"{abs(gain):.1f} points" if in_points else f"{abs(gain):.3g} of loss"
    is_as_good = float(amount.split()[0]) == 0
    if interval:
        low, high = (f"{value:+.1f}" if in_points else f"{value:+.3g}" for value in interval)
        chance = ", which may be chance" if interval[0] <= 0 <= interval[1] and not is_as_good else ""
        certainty = f" (95 % interval {low} to {high}{chance}, n = {n})"
    else:
        certainty = f" (n = {n}, so this may be chance)"
    if is_as_good:
        return f"the {what} is as good as {best}, the best input{certainty}"
    if gain < 0:
        place = "below" if in_points else "worse than"
        place = f"{amount} {place} {best}" if in_points else f"worse than {best} by {amount}"
        return f"the {what} is {place}: keep {best}{certainty}"
    place = f"{amount} above {best}" if in_points else f"better than {best} by {amount}"
    return f"the {what} is {place}, the best input: keep the {what}{certainty}"
