"""The main finding in sentences: whether alignment changes the worst accuracy along the path, and by how much.

A change is stated only where the 95 % interval of the paired difference excludes zero.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuralign.report.labels import SETTING
from neuralign.report.page.formatting import number, title

KINDS = {  # (method, baseline) -> what is compared
    ("aligned", "unaligned"): "the trained curve",
    ("linear_aligned", "linear_unaligned"): "the straight line",
}
SMALLEST = 0.005  # percentage points; what is smaller reads as 0.00


def sentences(contrasts: pd.DataFrame) -> list[str]:
    """One sentence per setting and attack, first on the trained curves, then on the straight lines."""
    return [_sentence(row, kind) for row, kind in _comparisons(contrasts)]


def overview(contrasts: pd.DataFrame) -> list[str]:
    """A sentence per kind of path that counts its comparisons by what was found; none for a single comparison."""
    counts: dict[str, Counter[str]] = {}
    for row, kind in _comparisons(contrasts):
        counts.setdefault(kind, Counter())[_effect(row)] += 1
    return [_counted(kind, effects) for kind, effects in counts.items() if effects.total() > 1]


def _counted(kind: str, effects: Counter[str]) -> str:
    texts = {
        "raises": "alignment raises it in {}",
        "lowers": "alignment lowers it in {}",
        "hardly changes": "alignment hardly changes it in {}",
        "none": "no difference was found in {}",
        "one pair": "one pair does not decide in {}",
    }
    parts = [text.format(effects[effect]) for effect, text in texts.items() if effects[effect]]
    return f"Worst accuracy on {kind}, in {effects.total()} comparisons: {', '.join(parts)}."


def _comparisons(contrasts: pd.DataFrame) -> list[tuple[dict[str, Any], str]]:
    """(row of the table of contrasts, what is compared)."""
    rows = contrasts[(contrasts["metric"] == "accuracy_min") & (contrasts["n_pairs"] > 0)]
    return [
        (row, kind)
        for (method, baseline), kind in KINDS.items()
        for row in rows[(rows["method"] == method) & (rows["baseline"] == baseline)].to_dict("records")
    ]


def _effect(row: Mapping[str, Any]) -> str:
    if pd.isna(row["ci_low"]):
        return "one pair"
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return "none"
    if abs(row["difference"]) < SMALLEST:
        return "hardly changes"
    return "raises" if row["difference"] > 0 else "lowers"


def _sentence(row: Mapping[str, Any], kind: str) -> str:
    place = title(SETTING, [row[key] for key in SETTING])
    what = f"the worst accuracy on {kind}" + ("" if row["attack"] == "clean" else f" under the attack {row['attack']}")
    before, after = (f"{number(row[f'{which}_mean'])} %" for which in ("baseline", "method"))
    values = f"{before} unaligned, {after} aligned"
    difference = f"paired difference {number(row['difference'], sign=True)} points"
    interval = " to ".join(number(row[end], sign=True) for end in ("ci_low", "ci_high"))
    effect = _effect(row)
    if effect == "one pair":
        return (
            f"{place}: one pair does not decide whether alignment changes {what}: {values} ({difference}, n = 1 pair)."
        )
    if effect == "none":
        reason = f"95 % interval {interval}, which includes zero; n = {row['n_pairs']} pairs"
        return f"{place}: no difference was found in {what}: {values} ({difference}; {reason})."
    reason = f"95 % interval {interval}, n = {row['n_pairs']} pairs"
    return f"{place}: alignment {effect} {what} from {before} to {after} ({difference}; {reason})."
