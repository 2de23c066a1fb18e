"""The main finding in sentences: whether alignment changes the worst score along the path, and by how much.

A change is stated only where the 95 % interval of the paired difference excludes zero. The average of the score and the
barrier of the loss follow as numbers, with their intervals.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics, Quantity
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.labels import SETTING
from neuralign.report.page.formatting import capital, measured, number, title

KINDS = {  # (method, baseline) -> what is compared
    ("aligned", "unaligned"): "the trained curve",
    ("linear_aligned", "linear_unaligned"): "the straight line",
}
COMPARISON = [*SETTING, "attack", "method", "baseline"]  # the columns that say what is compared where


def sentences(contrasts: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> list[str]:
    """One finding per setting and attack, first on the trained curves, then on the straight lines."""
    return [
        " ".join([_sentence(row, kind, metrics.headline), *_further(contrasts, row, metrics)])
        for row, kind in _comparisons(contrasts, metrics.headline)
    ]


def overview(contrasts: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> list[str]:
    """A sentence per kind of path that counts its comparisons by what was found; none for a single comparison."""
    counts: dict[str, Counter[str]] = {}
    for row, kind in _comparisons(contrasts, metrics.headline):
        counts.setdefault(kind, Counter())[_effect(row, metrics.headline)] += 1
    return [_counted(kind, effects, metrics.headline) for kind, effects in counts.items() if effects.total() > 1]


def _counted(kind: str, effects: Counter[str], score: Quantity) -> str:
    texts = {
        "raises": "alignment raises it in {}",
        "lowers": "alignment lowers it in {}",
        "hardly changes": "alignment hardly changes it in {}",
        "none": "no difference was found in {}",
        "one pair": "one pair does not decide in {}",
    }
    parts = [text.format(effects[effect]) for effect, text in texts.items() if effects[effect]]
    direction = "" if score.higher_is_better else " (lower is better)"
    return f"Worst {score.label}{direction} on {kind}, in {effects.total()} comparisons: {', '.join(parts)}."


def _comparisons(contrasts: pd.DataFrame, score: Quantity) -> list[tuple[dict[str, Any], str]]:
    """(row of the table of contrasts, what is compared)."""
    rows = contrasts[(contrasts["metric"] == score.worst) & (contrasts["n_pairs"] > 0)]
    return [
        (row, kind)
        for (method, baseline), kind in KINDS.items()
        for row in rows[(rows["method"] == method) & (rows["baseline"] == baseline)].to_dict("records")
    ]


def _effect(row: Mapping[str, Any], score: Quantity) -> str:
    if pd.isna(row["ci_low"]):
        return "one pair"
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return "none"
    if abs(row["difference"]) < 0.5 * 10**-score.decimals:  # this reads as 0.00
        return "hardly changes"
    return "raises" if row["difference"] > 0 else "lowers"


def _further(contrasts: pd.DataFrame, finding: Mapping[str, Any], metrics: Metrics) -> list[str]:
    """The average of the score and the barrier of the loss, of the same comparison as a finding about the worst score.

    What the table lacks is left out.
    """
    score, loss = metrics.headline, metrics.loss
    measures = {score.mean: (f"average {score.label}", score), loss.barrier: (f"{loss.label} barrier", loss)}
    is_same = (contrasts[COMPARISON] == pd.Series(finding)[COMPARISON]).all(axis=1)
    rows = contrasts[is_same].set_index("metric").to_dict("index")
    return [_numbers(rows[column], name, q) for column, (name, q) in measures.items() if column in rows]


def _numbers(row: Mapping[str, Any], name: str, quantity: Quantity) -> str:
    """A measure of both methods, its difference and the interval."""
    before, after = (measured(row[f"{which}_mean"], quantity) for which in ("baseline", "method"))
    text = f"{capital(name)}: {before} unaligned, {after} aligned (difference {_difference(row, quantity)}"
    if pd.isna(row["ci_low"]):
        return f"{text})."
    zero = ", which includes zero" if row["ci_low"] <= 0 <= row["ci_high"] else ""
    return f"{text}; interval {_interval(row, quantity)}{zero})."


def _difference(row: Mapping[str, Any], quantity: Quantity) -> str:
    unit = f" {quantity.difference_unit}" if quantity.difference_unit else ""
    return f"{number(row['difference'], quantity.decimals, sign=True)}{unit}"


def _interval(row: Mapping[str, Any], quantity: Quantity) -> str:
    return " to ".join(number(row[end], quantity.decimals, sign=True) for end in ("ci_low", "ci_high"))


def _sentence(row: Mapping[str, Any], kind: str, score: Quantity) -> str:
    place = title(SETTING, [row[key] for key in SETTING])
    under = "" if row["attack"] == "clean" else f" under the attack {row['attack']}"
    what = f"the worst {score.label} on {kind}{under}"
    before, after = (measured(row[f"{which}_mean"], score) for which in ("baseline", "method"))
    values = f"{before} unaligned, {after} aligned"
    difference, interval = f"paired difference {_difference(row, score)}", _interval(row, score)
    effect = _effect(row, score)
    if effect == "one pair":
        return (
            f"{place}: one pair does not decide whether alignment changes {what}: {values} ({difference}, n = 1 pair)."
        )
    if effect == "none":
        reason = f"95 % interval {interval}, which includes zero; n = {row['n_pairs']} pairs"
        return f"{place}: no difference was found in {what}: {values} ({difference}; {reason})."
    reason = f"95 % interval {interval}, n = {row['n_pairs']} pairs"
    return f"{place}: alignment {effect} {what} from {before} to {after} ({difference}; {reason})."
