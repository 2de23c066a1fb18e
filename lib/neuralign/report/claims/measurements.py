"""The measurements by which the claims are judged: differences computed from the tables of a study.

Each function yields one `Measurement` per setting (and attack, and measure) for which the tables have the needed rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neuralign.common.quantities import Quantity
from neuralign.report.claims.evidence import (
    Evidence,
    Measurement,
    clean,
    groups_of,
    in_setting,
    paired,
    pairs_of_methods,
    using,
)
from neuralign.report.labels import SETTING
from neuralign.report.published import published_table
from neuralign.report.statistics import welch_interval

TEXTS = {  # statistic of the headline along a path -> what is measured, in words
    "mean": "average {}",
    "worst": "worst {}",
    "best": "best {} on the path",
    "best_clean": "clean {} there",
}


Measures = Callable[[Evidence], Iterator[Measurement]]


def contrast(method: str, baseline: str, *statistics: str, attacked: bool = False) -> Measures:
    """`method` minus `baseline` in statistics of the headline along a path (TEXTS), on clean data or under attacks."""

    def measure(e: Evidence) -> Iterator[Measurement]:
        score = e.metrics.headline
        columns = {"mean": score.mean, "worst": score.worst, "best": score.best, "best_clean": f"{score.best}_clean"}
        for (*setting, attack), means in pairs_of_methods(e.paths, [*SETTING, "attack"], method, baseline):
            for name in statistics if (attack != "clean") == attacked else ():
                first, second = (means[m][columns[name]] for m in (method, baseline))
                yield paired(first, second, setting, TEXTS[name].format(score.label), *_unit(score), attack, score)

    return measure


def robust_barrier(e: Evidence) -> Iterator[Measurement]:
    """The barrier in the loss under attack, aligned minus unaligned."""
    loss = e.metrics.loss
    for (*setting, attack), means in pairs_of_methods(e.paths, [*SETTING, "attack"], "aligned", "unaligned"):
        if attack != "clean":
            first, second = (means[m][loss.barrier] for m in ("aligned", "unaligned"))
            yield paired(first, second, setting, f"{loss.label} barrier", *_unit(loss), attack)


def _unit(quantity: Quantity) -> tuple[str, int]:
    """The unit of differences of a quantity, and the decimals to show."""
    return quantity.difference_unit, quantity.decimals


def worst_gains_more(e: Evidence) -> Iterator[Measurement]:
    """Gain of the worst score minus gain of the average, aligned over unaligned."""
    score = e.metrics.headline
    for setting, means in pairs_of_methods(clean(e.paths), SETTING, "aligned", "unaligned"):
        worst, average = (means["aligned"][m] - means["unaligned"][m] for m in (score.worst, score.mean))
        text = "gain of the worst minus gain of the average"
        yield paired(worst, average, setting, text, *_unit(score), score=score)


def gain_of_largest(e: Evidence) -> Iterator[Measurement]:
    """Gain in the average score of the largest network minus that of the smallest, unpaired (Welch).

    These are the largest and the smallest of the published networks that were run in a dataset and regime.
    """
    score = e.metrics.headline
    order = list(dict.fromkeys(published_table()["network"]))  # from small to large
    gains: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for (dataset, network, regime), means in pairs_of_methods(clean(e.paths), SETTING, "aligned", "unaligned"):
        if network in order:
            gain = (means["aligned"][score.mean] - means["unaligned"][score.mean]).dropna()  # of pairs with both
            if len(gain):
                gains.setdefault((dataset, regime), {})[network] = gain
    for (dataset, regime), by_network in gains.items():
        if len(by_network) < 2:
            continue
        small, *_, large = sorted(by_network, key=order.index)
        large_gain, small_gain = ((g.mean(), g.std(ddof=1), len(g)) for g in (by_network[large], by_network[small]))
        interval = welch_interval(large_gain, small_gain) | {"n": min(large_gain[2], small_gain[2])}
        interval["n_of"] = "pairs of each"
        text = "gain of the largest minus gain of the smallest network"
        means_of_gains, is_reversed = (large_gain[0], small_gain[0]), not score.higher_is_better
        yield Measurement(
            (dataset, large, regime), "", text, *_unit(score), *means_of_gains, interval, lower_is_better=is_reversed
        )


def above_ends(e: Evidence) -> Iterator[Measurement]:
    """The average score on the aligned curve minus the mean of its two ends."""
    score = e.metrics.headline
    if e.points.empty:
        return
    at_ends = e.points[e.points["t"].isin([0.0, 1.0]) & (e.points["method"] == "aligned")]
    at_ends = clean(at_ends[at_ends["statistics"] == "reestimated"])
    for setting, rows in groups_of(clean(e.paths), SETTING):
        aligned, ends = rows[rows["method"] == "aligned"], in_setting(at_ends, setting)
        if len(aligned) and len(ends):
            first = aligned.groupby("pair")[score.mean].mean()
            second = ends.groupby("pair")[score.name].mean()
            text = "average on the curve minus mean of its ends"
            yield paired(first, second, setting, text, *_unit(score), score=score)


def line_midpoint(e: Evidence) -> Iterator[Measurement]:
    """Clean test loss at t = 1/2 of the straight line, aligned minus unaligned."""
    if e.points.empty:
        return
    middle = e.points[(e.points["t"] == 0.5) & (e.points["statistics"] == "reestimated")]
    for setting, means in pairs_of_methods(clean(middle), SETTING, "linear_aligned", "linear_unaligned"):
        first, second = (means[m]["loss"] for m in ("linear_aligned", "linear_unaligned"))
        yield paired(first, second, setting, "loss at t = 1/2 of the line", *_unit(e.metrics.loss))


def early_loss(e: Evidence) -> Iterator[Measurement]:
    """Training loss of the curve after a quarter and after half of its epochs, aligned minus unaligned.

    A part shorter than an epoch is left out, as the history of a training has one loss an epoch.
    """
    for setting, rows in groups_of(e.histories, SETTING):
        compared = rows[rows["method"].isin(["aligned", "unaligned"])]  # other methods may have other numbers of epochs
        for part, name in ((4, "a quarter"), (2, "half")):
            rows_then = compared[compared["epoch"] == compared["epoch"].max() // part]
            for _, means in pairs_of_methods(rows_then, SETTING, "aligned", "unaligned"):
                text = f"training loss after {name} of the epochs"
                first, second = (means[m]["loss"] for m in ("aligned", "unaligned"))
                yield paired(first, second, setting, text, e.metrics.loss.unit, e.metrics.loss.decimals + 1)


def epochs_needed(e: Evidence) -> Iterator[Measurement]:
    """Epochs until the training loss is at most the final one of the unaligned curve, aligned minus unaligned.

    A curve that never gets there counts as one epoch more than it was trained. Of trainings of a single epoch nothing
    is said.
    """
    for setting, rows in groups_of(e.histories, SETTING):
        runs = {
            m: rows[rows["method"] == m].groupby(["epoch", "pair"])["loss"].mean().unstack()
            for m in ("aligned", "unaligned")
        }
        pairs = runs["aligned"].columns.intersection(runs["unaligned"].columns)
        if len(pairs) and len(runs["unaligned"]) > 1:
            level = runs["unaligned"][pairs].iloc[-1]
            first, second = (_first_epochs(runs[m][pairs], level) for m in ("aligned", "unaligned"))
            yield paired(first, second, setting, "epochs to the unaligned curve's last training loss", "epochs", 1)


def _first_epochs(losses: pd.DataFrame, level: pd.Series) -> pd.Series:
    """The first epoch of each pair (column) whose loss is at most its level; if there is none, the last plus one."""
    below = losses.le(level)
    return below.idxmax().where(below.any(), losses.index.max() + 1).astype(float)


def units_moved(e: Evidence) -> Iterator[Measurement]:
    """The share of units (percent) that PAM, started from the alignment, moves from where the alignment put them."""
    for setting, rows in groups_of(using(e.moved, "pam_aligned"), SETTING):
        sums = rows.groupby("pair")[["moved_from_start", "units"]].sum()
        share = 100 * sums["moved_from_start"] / sums["units"]
        yield paired(share, 0.0, setting, "units moved from where they started", "%", 2)


def objective_gained(e: Evidence) -> Iterator[Measurement]:
    """Relative decrease of PAM's objective (percent): started from the aligned minus from the unaligned pair."""
    if "objective_after" not in e.moved:
        return
    parts = [using(e.moved, name).dropna(subset="objective_after") for name in ("pam_aligned", "pam_unaligned")]
    starts = pd.concat([p.assign(method=n) for p, n in zip(parts, ("pam_aligned", "pam_unaligned"), strict=True)])
    for setting, means in pairs_of_methods(starts, SETTING, "pam_aligned", "pam_unaligned"):
        first, second = (
            100 * (1 - means[n]["objective_after"] / means[n]["objective_before"])
            for n in ("pam_aligned", "pam_unaligned")
        )
        yield paired(first, second, setting, "decrease of the objective", "%", 2)


def least_gain(e: Evidence) -> Iterator[Measurement]:
    """Correlation of matched units after minus before alignment, in the layer of each pair that gains least."""
    for setting, rows in groups_of(using(e.signatures, "aligned"), SETTING):
        gains = (rows["after"] - rows["before"]).groupby([rows["pair"], rows["layer"]]).mean().unstack()
        layer = rows.set_index(["pair", "layer"])[["before", "after"]].groupby(level=[0, 1]).mean()
        worst = layer.loc[[(pair, gains.loc[pair].idxmin()) for pair in gains.index]].droplevel(1)
        text = "correlation in the layer that gains least, after minus before"
        yield paired(worst["after"], worst["before"], setting, text, "", 3)


def midpoint_alike(e: Evidence) -> Iterator[Measurement]:
    """Correlation of the curve's midpoint with the less similar of its ends, aligned minus unaligned."""
    for setting, means in _midpoints(e):
        lower = {m: table["before"].unstack("end").min(axis=1) for m, table in means.items()}
        yield paired(lower["aligned"], lower["unaligned"], setting, "correlation with the less alike end", "", 3)


def midpoint_realigned(e: Evidence) -> Iterator[Measurement]:
    """Gain in correlation when the midpoint is aligned to an end, mean over both ends, aligned minus unaligned."""
    for setting, means in _midpoints(e):
        gain = {m: (table["re-aligned"] - table["before"]).groupby("pair").mean() for m, table in means.items()}
        yield paired(gain["aligned"], gain["unaligned"], setting, "correlation gained by aligning once more", "", 3)


def _midpoints(e: Evidence) -> Iterator[tuple[Any, dict[str, pd.DataFrame]]]:
    """(setting, {method: correlations, mean over layers, by (pair, end), a column per series})."""
    for setting, rows in groups_of(e.midpoints, SETTING):
        means = rows.groupby(["method", "pair", "end", "series"])["correlation"].mean().unstack("series")
        if {"aligned", "unaligned"} <= set(means.index.get_level_values(0)) and {"before", "re-aligned"} <= set(means):
            yield setting, {m: means.loc[m] for m in ("aligned", "unaligned")}


def bound_lower(e: Evidence) -> Iterator[Measurement]:
    """The bound on the loss of the straight line, aligned minus unaligned."""
    for setting, means in pairs_of_methods(e.theory, SETTING, "aligned", "unaligned"):
        yield paired(
            means["aligned"]["bound"], means["unaligned"]["bound"], setting, "bound on the loss", *_unit(e.metrics.loss)
        )


def bound_ranks(e: Evidence) -> Iterator[Measurement]:
    """Spearman's correlation of the bound with the average loss, over the methods of a pair (at least three)."""
    if e.paths.empty:
        return
    for setting, rows in groups_of(e.theory, SETTING):
        losses = in_setting(clean(e.paths), setting).groupby(["pair", "method"])["loss_mean"].mean()
        both = pd.concat([rows.groupby(["pair", "method"])["bound"].mean(), losses], axis=1).dropna()
        correlations = {
            pair: np.corrcoef(methods.rank()["bound"], methods.rank()["loss_mean"])[0, 1]
            for pair, methods in both.groupby(level=0)
            if (methods.nunique() > 1).all() and len(methods) > 2
        }
        if correlations:
            text = "rank correlation of bound and average loss"
            yield paired(pd.Series(correlations), 0.0, setting, text, "", 2)
