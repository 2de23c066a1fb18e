"""The measurements behind the claims: from the tables of a study to paired differences.

Each function yields one `Measurement` per setting (and attack, and measure) that the tables can speak of, and nothing
where they cannot: a table that is empty, or lacks the methods, is evidence of nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from neuralign.report.claims.evidence import Evidence, Measurement, both, clean, paired, parts, using, where
from neuralign.report.labels import SETTING
from neuralign.report.published import published_table
from neuralign.report.statistics import welch_interval

UNITS = {"accuracy": ("points", 2), "loss": ("nats", 3)}
NAMES = {
    "accuracy_mean": "average accuracy",
    "accuracy_min": "worst accuracy",
    "accuracy_max": "best accuracy on the path",
    "accuracy_max_clean": "clean accuracy there",
    "loss_barrier": "loss barrier",
}


Measures = Callable[[Evidence], Iterator[Measurement]]


def contrast(method: str, baseline: str, *metrics: str, attacked: bool = False) -> Measures:
    """The difference of two methods in metrics of `summary.paths`, on clean images or under every attack."""

    def measure(e: Evidence) -> Iterator[Measurement]:
        for (*setting, attack), pair in both(e.paths, [*SETTING, "attack"], method, baseline):
            for metric in metrics if (attack != "clean") == attacked else ():
                unit = UNITS[metric.split("_")[0]]
                yield paired(pair[method][metric], pair[baseline][metric], setting, NAMES[metric], *unit, attack)

    return measure


def worst_gains_more(e: Evidence) -> Iterator[Measurement]:
    """Gain of the worst accuracy minus gain of the average, aligned over unaligned."""
    for setting, pair in both(clean(e.paths), SETTING, "aligned", "unaligned"):
        worst, average = (pair["aligned"][m] - pair["unaligned"][m] for m in ("accuracy_min", "accuracy_mean"))
        yield paired(worst, average, setting, "gain of the worst minus gain of the average", "points", 2)


def gain_of_largest(e: Evidence) -> Iterator[Measurement]:
    """Gain in average accuracy of the largest published network minus that of the smallest, unpaired (Welch)."""
    order = list(dict.fromkeys(published_table()["network"]))  # from small to large
    gains: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for (dataset, network, regime), pair in both(clean(e.paths), SETTING, "aligned", "unaligned"):
        if network in order:
            gain = pair["aligned"]["accuracy_mean"] - pair["unaligned"]["accuracy_mean"]
            gains.setdefault((dataset, regime), {})[network] = gain
    for (dataset, regime), of in gains.items():
        small, *_, large = sorted(of, key=order.index) if len(of) > 1 else (None, None)
        if small and large:
            sides = [(of[n].mean(), of[n].std(ddof=1), len(of[n])) for n in (large, small)]
            found = welch_interval(*sides) | {"n": min(len(of[n]) for n in (large, small)), "n_of": "pairs of each"}
            text = "gain of the largest minus gain of the smallest network"
            yield Measurement((dataset, large, regime), "", text, "points", 2, sides[0][0], sides[1][0], found)


def above_ends(e: Evidence) -> Iterator[Measurement]:
    """Average accuracy on the aligned curve minus the mean of its two ends."""
    for setting, rows in parts(clean(e.paths) if len(e.points) else e.points, SETTING):
        of = rows[rows["method"] == "aligned"]
        ends = e.points[e.points["t"].isin([0.0, 1.0]) & (e.points["method"] == "aligned")]
        ends = where(clean(ends[ends["statistics"] == "reestimated"]), setting)
        if len(of) and len(ends):
            means = ends.groupby("pair")["accuracy"].mean()
            text = "average on the curve minus mean of its ends"
            yield paired(of.groupby("pair")["accuracy_mean"].mean(), means, setting, text, "points", 2)


def line_midpoint(e: Evidence) -> Iterator[Measurement]:
    """Clean test loss at t = 1/2 of the straight line."""
    if e.points.empty:
        return
    middle = e.points[(e.points["t"] == 0.5) & (e.points["statistics"] == "reestimated")]
    for setting, pair in both(clean(middle), SETTING, "linear_aligned", "linear_unaligned"):
        first, second = (pair[m]["loss"] for m in ("linear_aligned", "linear_unaligned"))
        yield paired(first, second, setting, "loss at t = 1/2 of the line", "nats", 3)


def early_loss(e: Evidence) -> Iterator[Measurement]:
    """Training loss of the curve after a quarter and after half of its epochs."""
    for setting, rows in parts(e.histories, SETTING):
        last = int(rows["epoch"].max())
        for part, name in ((4, "a quarter"), (2, "half")):
            at = rows[rows["epoch"] == max(1, last // part)]
            for _, pair in both(at, SETTING, "aligned", "unaligned"):
                text = f"training loss after {name} of the epochs"
                yield paired(pair["aligned"]["loss"], pair["unaligned"]["loss"], setting, text, "nats", 4)


def epochs_needed(e: Evidence) -> Iterator[Measurement]:
    """Epochs until the training loss is at most the last of the unaligned curve; one more than all if never."""
    for setting, rows in parts(e.histories, SETTING):
        runs = {
            m: rows[rows["method"] == m].groupby(["epoch", "pair"])["loss"].mean().unstack()
            for m in ("aligned", "unaligned")
        }
        pairs = runs["aligned"].columns.intersection(runs["unaligned"].columns)
        if len(pairs):
            level = runs["unaligned"][pairs].iloc[-1]
            first, second = (_reached(runs[m][pairs], level) for m in ("aligned", "unaligned"))
            yield paired(first, second, setting, "epochs to the unaligned curve's last training loss", "epochs", 1)


def _reached(losses: pd.DataFrame, level: pd.Series) -> pd.Series:
    below = losses.le(level)
    return below.idxmax().where(below.any(), losses.index.max() + 1).astype(float)


def units_moved(e: Evidence) -> Iterator[Measurement]:
    """Share of all units that a search from an alignment put elsewhere than the alignment had (percent)."""
    for setting, rows in parts(using(e.moved, "pam_aligned"), SETTING):
        sums = rows.groupby("pair")[["moved_from_start", "units"]].sum()
        share = 100 * sums["moved_from_start"] / sums["units"]
        yield paired(share, 0.0, setting, "units moved from where they started", "%", 2)


def objective_gained(e: Evidence) -> Iterator[Measurement]:
    """Relative decrease of the search objective (percent), from the aligned minus from the unaligned pair."""
    if "objective_after" not in e.moved:
        return
    parts = [using(e.moved, name).dropna(subset="objective_after") for name in ("pam_aligned", "pam_unaligned")]
    starts = pd.concat([p.assign(method=n) for p, n in zip(parts, ("pam_aligned", "pam_unaligned"), strict=True)])
    for setting, pair in both(starts, SETTING, "pam_aligned", "pam_unaligned"):
        first, second = (
            100 * (1 - pair[n]["objective_after"] / pair[n]["objective_before"])
            for n in ("pam_aligned", "pam_unaligned")
        )
        yield paired(first, second, setting, "decrease of the objective", "%", 2)


def least_gain(e: Evidence) -> Iterator[Measurement]:
    """After minus before, in the layer that gains least of each pair."""
    for setting, rows in parts(using(e.signatures, "aligned"), SETTING):
        gains = (rows["after"] - rows["before"]).groupby([rows["pair"], rows["layer"]]).mean().unstack()
        layer = rows.set_index(["pair", "layer"])[["before", "after"]].groupby(level=[0, 1]).mean()
        worst = layer.loc[[(pair, gains.loc[pair].idxmin()) for pair in gains.index]].droplevel(1)
        text = "correlation in the layer that gains least, after minus before"
        yield paired(worst["after"], worst["before"], setting, text, "", 3)


def midpoint_alike(e: Evidence) -> Iterator[Measurement]:
    """Correlation of the curve's middle with the end it is less like, mean over layers."""
    for setting, of in _midpoints(e):
        ends = {m: of[m]["before"].unstack("end").min(axis=1) for m in of}
        yield paired(ends["aligned"], ends["unaligned"], setting, "correlation with the less alike end", "", 3)


def midpoint_realigned(e: Evidence) -> Iterator[Measurement]:
    """What aligning the middle to an end adds to their correlation, mean over layers and ends."""
    for setting, of in _midpoints(e):
        gain = {m: (of[m]["re-aligned"] - of[m]["before"]).groupby("pair").mean() for m in of}
        yield paired(gain["aligned"], gain["unaligned"], setting, "correlation gained by aligning once more", "", 3)


def _midpoints(e: Evidence) -> Iterator[tuple[Any, dict[str, pd.DataFrame]]]:
    for setting, rows in parts(e.midpoints, SETTING):
        means = rows.groupby(["method", "pair", "end", "series"])["correlation"].mean().unstack("series")
        if {"aligned", "unaligned"} <= set(means.index.get_level_values(0)) and {"before", "re-aligned"} <= set(means):
            yield setting, {m: means.loc[m] for m in ("aligned", "unaligned")}


def bound_lower(e: Evidence) -> Iterator[Measurement]:
    """The bound, aligned minus unaligned."""
    for setting, pair in both(e.theory, SETTING, "aligned", "unaligned"):
        yield paired(pair["aligned"]["bound"], pair["unaligned"]["bound"], setting, "bound on the loss", "nats", 3)


def bound_ranks(e: Evidence) -> Iterator[Measurement]:
    """Spearman's correlation of bound and average loss over the methods of a pair (three at least)."""
    for setting, rows in parts(e.theory if len(e.paths) else e.paths, SETTING):
        losses = where(clean(e.paths), setting).groupby(["pair", "method"])["loss_mean"].mean()
        known = pd.concat([rows.groupby(["pair", "method"])["bound"].mean(), losses], axis=1).dropna()
        ranks = {
            pair: np.corrcoef(of.rank()["bound"], of.rank()["loss_mean"])[0, 1]
            for pair, of in known.groupby(level=0)
            if (of.nunique() > 1).all() and len(of) > 2
        }
        if ranks:
            yield paired(pd.Series(ranks), 0.0, setting, "rank correlation of bound and average loss", "", 2)
