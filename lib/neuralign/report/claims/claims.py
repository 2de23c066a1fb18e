"""What the paper claims, as data: a sentence, where it stands, and a measurement that could contradict it.

A claim is judged in every setting by the 95 % t-interval of a paired difference over pairs, and over settings by that
of the settings' means. "supported" and "contradicted" need an interval on one side of the bound; else it is
"not decided". Nothing is ever supported by one pair. Sources: the abstract, the published table (the README of the
official code), and predictions that follow from the paper's theory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from neuralign.report.claims import measurements as of
from neuralign.report.claims.evidence import Evidence, Measurement
from neuralign.report.labels import SETTING
from neuralign.report.statistics import paired_interval

COLUMNS = ["claim", "sentence", "source", "scope", *SETTING, "attack", "measure", "unit", "decimals", "first", "second"]
COLUMNS += ["difference", "ci_low", "ci_high", "n", "n_of", "wanted", "bound", "verdict", "reason"]


@dataclass(frozen=True)
class Claim:
    """The difference is `wanted` "more" or "less" than `bound`."""

    id: str
    sentence: str
    source: str
    wanted: str
    measure: Callable[[Evidence], Iterator[Measurement]]
    bound: float = 0.0


SEVERAL = 3  # settings that are summed up; of fewer, each is better read by itself
TABLE, ABSTRACT, THEORY = "published table", "abstract", "follows from the theory"
CLAIMS = [
    Claim(
        "average",
        "Alignment raises the average accuracy on the trained curve.",
        TABLE,
        "more",
        of.contrast("aligned", "unaligned", "accuracy_mean"),
    ),
    Claim(
        "worst",
        "Alignment raises the worst accuracy on the trained curve.",
        TABLE,
        "more",
        of.contrast("aligned", "unaligned", "accuracy_min"),
    ),
    Claim("worst_most", "The worst accuracy gains more than the average.", TABLE, "more", of.worst_gains_more),
    Claim(
        "width",
        "The average gains less in the largest network than in the smallest.",
        TABLE,
        "less",
        of.gain_of_largest,
    ),
    Claim(
        "above_ends",
        "The aligned curve is on average more accurate than its endpoints (the paper: on CIFAR-100).",
        TABLE,
        "more",
        of.above_ends,
    ),
    Claim("line", "Alignment lowers the loss at the middle of the straight line.", THEORY, "less", of.line_midpoint),
    Claim(
        "faster",
        "Curves between aligned networks train faster: the loss is lower early on.",
        ABSTRACT,
        "less",
        of.early_loss,
    ),
    Claim(
        "sooner",
        "They reach the final training loss of the unaligned curve in fewer epochs.",
        ABSTRACT,
        "less",
        of.epochs_needed,
    ),
    Claim(
        "pam_helps",
        "PAM from the unaligned pair is better than no alignment.",
        TABLE,
        "more",
        of.contrast("pam_unaligned", "unaligned", "accuracy_mean", "accuracy_min"),
    ),
    Claim(
        "pam_start",
        "PAM from the aligned pair is better than PAM from the unaligned one.",
        TABLE,
        "more",
        of.contrast("pam_aligned", "pam_unaligned", "accuracy_mean", "accuracy_min"),
    ),
    Claim(
        "local_accuracy",
        "Alignment is locally optimal: PAM from it adds less than half a point of average accuracy.",
        ABSTRACT,
        "less",
        of.contrast("pam_aligned", "aligned", "accuracy_mean"),
        0.5,
    ),
    Claim(
        "local_units",
        "Alignment is locally optimal: PAM moves fewer than one unit in ten of an aligned pair.",
        ABSTRACT,
        "less",
        of.units_moved,
        10.0,
    ),
    Claim(
        "local_objective",
        "Alignment is locally optimal: PAM finds less to gain in its objective from it than from the unaligned pair.",
        ABSTRACT,
        "less",
        of.objective_gained,
    ),
    Claim("layers", "Matched units correlate more after alignment, in every layer.", ABSTRACT, "more", of.least_gain),
    Claim(
        "midpoint",
        "The middle of an aligned curve is more like both ends, unit by unit.",
        THEORY,
        "more",
        of.midpoint_alike,
    ),
    Claim(
        "settled",
        "Aligning the middle of an aligned curve to its ends once more changes less than on an unaligned curve.",
        THEORY,
        "less",
        of.midpoint_realigned,
    ),
    Claim("bound", "The bound on the curve's loss is lower for aligned ends.", THEORY, "less", of.bound_lower),
    Claim(
        "ranks", "The bound ranks the permutations as the trained curves' losses do.", THEORY, "more", of.bound_ranks
    ),
    Claim(
        "robust_barrier",
        "Between adversarially trained networks, alignment lowers the barrier in the robust loss.",
        ABSTRACT,
        "less",
        of.contrast("aligned", "unaligned", "loss_barrier", attacked=True),
    ),
    Claim(
        "robust_best",
        "The most robust network on the aligned path is more robust, and more accurate on clean images.",
        ABSTRACT,
        "more",
        of.contrast("aligned", "unaligned", "accuracy_max", "accuracy_max_clean", attacked=True),
    ),
]


def judge(found: dict[str, Any], wanted: str, bound: float = 0.0) -> str:
    """The verdict on one interval; without an interval nothing is decided."""
    low, high = found["ci_low"], found["ci_high"]
    if pd.isna(low):
        return "not decided"
    above, below = low > bound, high < bound
    supported, contradicted = (above, below) if wanted == "more" else (below, above)
    return "supported" if supported else "contradicted" if contradicted else "not decided"


def judged(evidence: Evidence, claims: list[Claim] = CLAIMS) -> pd.DataFrame:
    """A row per claim, setting, attack and measure, `scope` "setting"; one over all where there are three or more;
    a row with `verdict` "not measured" for a claim that the evidence says nothing about.
    """
    rows: list[dict[str, Any]] = []
    for claim in claims:
        told: dict[str, Any] = {"claim": claim.id, "sentence": claim.sentence, "source": claim.source}
        told |= {"wanted": claim.wanted, "bound": claim.bound}
        found = [m for m in claim.measure(evidence) if m.found["n"]]
        rows += [told | _row(m, claim) for m in found]
        rows += [told | _row(m, claim, "all settings") for m in _pooled(found)]
        if not found:
            rows.append(told | {"scope": "none", "n": 0, "verdict": "not measured", "reason": ""})
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(m: Measurement, claim: Claim, scope: str = "setting") -> dict[str, Any]:
    place = dict(zip(SETTING, m.setting, strict=True)) if scope == "setting" else {}
    values: dict[str, Any] = {
        "measure": m.measure,
        "unit": m.unit,
        "decimals": m.digits,
        "first": m.first,
        "second": m.second,
    }
    verdict = {"verdict": judge(m.found, claim.wanted, claim.bound)}
    return {"scope": scope, **place, "attack": m.attack, **values, **m.found, **verdict}


def _pooled(found: list[Measurement]) -> Iterator[Measurement]:
    """Over the means of settings, each counting once (its attacks together); measures apart."""
    for measure in dict.fromkeys(m.measure for m in found):
        same = [m for m in found if m.measure == measure]
        values = pd.DataFrame([(m.setting, m.found["difference"], m.first, m.second) for m in same])
        means = values.groupby(0)[[1, 2, 3]].mean()
        if len(means) >= SEVERAL:
            attacks = list(dict.fromkeys(m.attack for m in same))
            over = paired_interval(means[1]) | {"n": len(means), "n_of": "settings"}
            attack = attacks[0] if len(attacks) == 1 else "all attacks"
            yield replace(same[0], attack=attack, first=means[2].mean(), second=means[3].mean(), found=over)
