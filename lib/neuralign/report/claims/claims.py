"""The claims of the paper as data: a sentence, its source, and a measurement that can contradict it.

In each setting a claim is judged by the 95 % t-interval of a paired difference over pairs. Over all settings it is
judged by that of the settings' mean differences. It is "supported" or "contradicted" if the interval lies on one side
of the claim's bound, else "not decided"; one pair has no interval, so it decides nothing. Sources are the abstract, the
published table (in the README of the official code) and predictions that follow from the paper's theory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from neuralign.common.quantities import Quantity
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.claims import measurements
from neuralign.report.claims.evidence import Evidence, Measurement
from neuralign.report.labels import SETTING
from neuralign.report.statistics import paired_interval

COLUMNS = ["claim", "sentence", "source", "scope", *SETTING, "attack", "measure", "unit", "decimals", "first", "second"]
COLUMNS += ["difference", "ci_low", "ci_high", "n", "n_of", "wanted", "bound", "verdict", "reason"]


@dataclass(frozen=True)
class Claim:
    """A claim that a measured difference is more, or less, than a bound."""

    id: str
    sentence: str
    source: str
    direction: str  # "more" or "less" than the bound; the other one for a score of which less is better
    measure: Callable[[Evidence], Iterator[Measurement]]
    bound: float = 0.0  # in the unit of the measurement
    # the same for another score than accuracy, whose label replaces {}; "" if the sentence holds for every score, None
    # if the claim makes sense for accuracies alone
    general: str | None = ""

    def sentence_on(self, score: Quantity) -> str | None:
        """The claim for a study with this headline; None if it makes no sense there."""
        if score.name == CLASSIFICATION.headline.name or self.general == "":
            return self.sentence
        return self.general and self.general.format(score.label)


SEVERAL = 3  # settings from which on a claim is also judged over all of them together
TABLE, ABSTRACT, THEORY = "published table", "abstract", "follows from the theory"
NOT_MEASURED = "not measured"  # the verdict on a claim of which a study has no data
CLAIMS = [
    Claim(
        "average",
        "Alignment raises the average accuracy on the trained curve.",
        TABLE,
        "more",
        measurements.contrast("aligned", "unaligned", "mean"),
        general="Alignment improves the average {} on the trained curve.",
    ),
    Claim(
        "worst",
        "Alignment raises the worst accuracy on the trained curve.",
        TABLE,
        "more",
        measurements.contrast("aligned", "unaligned", "worst"),
        general="Alignment improves the worst {} on the trained curve.",
    ),
    Claim(
        "worst_most",
        "The worst accuracy gains more than the average.",
        TABLE,
        "more",
        measurements.worst_gains_more,
        general="The worst {} improves more than the average.",
    ),
    Claim(
        "width",
        "The average gains less in the largest than in the smallest of the networks that were run.",
        TABLE,
        "less",
        measurements.gain_of_largest,
    ),
    Claim(
        "above_ends",
        "The aligned curve is on average more accurate than its endpoints (the paper: on CIFAR-100).",
        TABLE,
        "more",
        measurements.above_ends,
        general="The aligned curve has on average a better {} than its endpoints.",
    ),
    Claim(
        "line",
        "Alignment lowers the loss at the middle of the straight line.",
        THEORY,
        "less",
        measurements.line_midpoint,
    ),
    Claim(
        "faster",
        "Curves between aligned networks train faster: the loss is lower early on.",
        ABSTRACT,
        "less",
        measurements.early_loss,
    ),
    Claim(
        "sooner",
        "They reach the final training loss of the unaligned curve in fewer epochs.",
        ABSTRACT,
        "less",
        measurements.epochs_needed,
    ),
    Claim(
        "pam_helps",
        "PAM from the unaligned pair is better than no alignment.",
        TABLE,
        "more",
        measurements.contrast("pam_unaligned", "unaligned", "mean", "worst"),
    ),
    Claim(
        "pam_start",
        "PAM from the aligned pair is better than PAM from the unaligned one.",
        TABLE,
        "more",
        measurements.contrast("pam_aligned", "pam_unaligned", "mean", "worst"),
    ),
    Claim(
        "local_accuracy",
        "Alignment is locally optimal: PAM from it adds less than half a point of average accuracy.",
        ABSTRACT,
        "less",
        measurements.contrast("pam_aligned", "aligned", "mean"),
        0.5,
        general=None,
    ),
    Claim(
        "local_units",
        "Alignment is locally optimal: PAM moves fewer than one unit in ten of an aligned pair.",
        ABSTRACT,
        "less",
        measurements.units_moved,
        10.0,
    ),
    Claim(
        "local_objective",
        "Alignment is locally optimal: PAM finds less to gain in its objective from it than from the unaligned pair.",
        ABSTRACT,
        "less",
        measurements.objective_gained,
    ),
    Claim(
        "layers",
        "Matched units correlate more after alignment, in every layer.",
        ABSTRACT,
        "more",
        measurements.least_gain,
    ),
    Claim(
        "midpoint",
        "The middle of an aligned curve is more like both ends, unit by unit.",
        THEORY,
        "more",
        measurements.midpoint_alike,
    ),
    Claim(
        "settled",
        "Aligning the middle of an aligned curve to its ends once more changes less than on an unaligned curve.",
        THEORY,
        "less",
        measurements.midpoint_realigned,
    ),
    Claim(
        "bound", "The bound on the curve's loss is lower for aligned ends.", THEORY, "less", measurements.bound_lower
    ),
    Claim(
        "ranks",
        "The bound ranks the permutations as the trained curves' losses do.",
        THEORY,
        "more",
        measurements.bound_ranks,
    ),
    Claim(
        "robust_barrier",
        "Between adversarially trained networks, alignment lowers the barrier in the robust loss.",
        ABSTRACT,
        "less",
        measurements.robust_barrier,
    ),
    Claim(
        "robust_best",
        "The most robust network on the aligned path is more robust, and more accurate on clean images.",
        ABSTRACT,
        "more",
        measurements.contrast("aligned", "unaligned", "best", "best_clean", attacked=True),
    ),
]


def judge(interval: dict[str, Any], direction: str, bound: float = 0.0) -> str:
    """The verdict by where the interval from ci_low to ci_high lies; without an interval "not decided"."""
    low, high = interval["ci_low"], interval["ci_high"]
    if pd.isna(low):
        return "not decided"
    above, below = low > bound, high < bound
    supported, contradicted = (above, below) if direction == "more" else (below, above)
    return "supported" if supported else "contradicted" if contradicted else "not decided"


def judged(evidence: Evidence, claims: list[Claim] = CLAIMS) -> pd.DataFrame:
    """The verdicts on the claims, in the columns COLUMNS.

    Rows of scope "setting" are for one claim, setting, attack and measure. Rows of scope "all settings" are for one
    claim and measure over all settings, if there are at least SEVERAL. A claim that the evidence does not cover has one
    row of scope "none" with the verdict NOT_MEASURED.
    """
    rows: list[dict[str, Any]] = []
    for claim in claims:
        sentence = claim.sentence_on(evidence.metrics.headline)
        if sentence is None:
            continue
        columns: dict[str, Any] = {"claim": claim.id, "sentence": sentence, "source": claim.source}
        columns |= {"wanted": claim.direction, "bound": claim.bound}
        measured = [m for m in claim.measure(evidence) if m.interval["n"]]
        rows += [columns | _row(m, claim) for m in measured]
        rows += [columns | _row(m, claim, "all settings") for m in _over_settings(measured)]
        if not measured:
            rows.append(columns | {"scope": "none", "n": 0, "verdict": NOT_MEASURED, "reason": ""})
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(m: Measurement, claim: Claim, scope: str = "setting") -> dict[str, Any]:
    setting = dict(zip(SETTING, m.setting, strict=True)) if scope == "setting" else {}
    row: dict[str, Any] = {"scope": scope, **setting, "attack": m.attack, "measure": m.measure, "unit": m.unit}
    row |= {"decimals": m.digits, "first": m.first, "second": m.second, **m.interval}
    direction = {"more": "less", "less": "more"}[claim.direction] if m.lower_is_better else claim.direction
    return row | {"wanted": direction, "verdict": judge(m.interval, direction, claim.bound)}


def _over_settings(measured: list[Measurement]) -> Iterator[Measurement]:
    """One measurement per measure over all settings: each counts once, with the mean over its attacks."""
    for measure in dict.fromkeys(m.measure for m in measured):
        same = [m for m in measured if m.measure == measure]
        columns = ["setting", "difference", "first", "second"]
        values = pd.DataFrame([(m.setting, m.interval["difference"], m.first, m.second) for m in same], columns=columns)
        means = values.groupby("setting").mean()
        if len(means) >= SEVERAL:
            attacks = list(dict.fromkeys(m.attack for m in same))
            attack = attacks[0] if len(attacks) == 1 else "all attacks"
            interval = paired_interval(means["difference"]) | {"n": len(means), "n_of": "settings"}
            first, second = means["first"].mean(), means["second"].mean()
            yield replace(same[0], attack=attack, first=first, second=second, interval=interval)
