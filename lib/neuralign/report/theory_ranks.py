"""Does what theory can compute before a curve is trained rank the curves? Pure functions on data frames."""

import numpy as np
import pandas as pd

from neuralign.report.labels import SETTING

PREDICTORS = {  # column -> what it is
    "bound": "bound on the line's mean loss",
    "estimate": "estimate of the line's mean loss",
    "distance": "relative distance of activations",
    "line_loss": "mean loss of the line",
}
COLUMNS = [*SETTING, "predictor", "n_paths", "n_pairs", "spearman", "ci_low", "ci_high", "p"]
COLUMNS += ["spearman_within", "p_within", "reason"]


def paths(bounds: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """One row per trained curve: the predictors of its straight line, and `loss`, its own mean clean test loss.

    `bounds` has one row per curve, with dataset, network, regime, pair, method, curve_seed; `measured` is the table
    `paths` of `neuralign.report.summary`.
    """
    keys = [*SETTING, "pair", "method", "curve_seed"]
    clean = measured[measured["attack"] == "clean"][[*keys, "loss_mean"]].rename(columns={"loss_mean": "loss"})
    lines = bounds.rename(columns={"loss": "line_loss", "loss_max": "line_loss_max"})
    table = lines.merge(clean, how="left", on=keys, validate="one_to_one")
    front = [*keys, *PREDICTORS, "loss"]
    return table[front + [name for name in table if name not in front]]


def ranks(table: pd.DataFrame, *, draws: int = 9999) -> pd.DataFrame:
    """Spearman's rank correlation of each predictor with the curve's loss, per setting, over all its curves.

    ci_low, ci_high: 95 % by Fisher's z with the variance 1.06 / (n - 3) of Fieller et al. (1957), as if curves were
    independent; empty, with the reason, where there is none. p: two-sided, by permuting the losses. `_within`: the same
    of ranks within each pair, permuted within it, so that differences between pairs count for nothing.
    """
    rows = []
    for place, group in table.groupby(SETTING, sort=False):
        pairs = group["pair"].to_numpy()
        for predictor in PREDICTORS:
            one, other = group[predictor], group["loss"]
            whole, within = (_tested(one, other, strata, draws) for strata in (np.zeros(len(pairs)), pairs))
            low, high, reason = _interval(whole[0], len(pairs))
            rows.append(
                [*place, predictor, len(pairs), len(set(pairs)), whole[0], low, high, whole[1], *within, reason]
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def spearman(one: pd.Series, other: pd.Series) -> float:
    """Spearman's rank correlation; nan where there is nothing to rank."""
    return float(_ranks(one, np.zeros(len(one))) @ _ranks(other, np.zeros(len(other))))


def _ranks(values: pd.Series, strata: np.ndarray) -> np.ndarray:
    """Ranks within strata, ties at their mean, centred there, and of length one as a vector."""
    found = values.reset_index(drop=True).groupby(strata).rank()
    centred = (found - found.groupby(strata).transform("mean")).to_numpy()
    return centred / (np.linalg.norm(centred) or np.nan)


def _tested(one: pd.Series, other: pd.Series, strata: np.ndarray, draws: int) -> tuple[float, float]:
    """Spearman's rho, pooled over strata, and how often an order drawn at random within them correlates as much."""
    first, second = _ranks(one, strata), _ranks(other, strata)
    rho = float(first @ second)
    if np.isnan(rho):
        return np.nan, np.nan
    generator, drawn = np.random.default_rng(0), np.tile(second, (draws, 1))
    for stratum in np.unique(strata):
        block = np.flatnonzero(strata == stratum)
        drawn[:, block] = generator.permuted(drawn[:, block], axis=1)
    as_much = np.abs(drawn @ first) >= abs(rho) - 1e-9
    return rho, float((1 + as_much.sum()) / (1 + draws))


def _interval(rho: float, n: int) -> tuple[float, float, str]:
    if np.isnan(rho):
        return np.nan, np.nan, "nothing to rank"
    if n < 4 or abs(rho) > 1 - 1e-9:
        return np.nan, np.nan, "too few curves" if n < 4 else "all ranks agree"
    half = 1.96 * np.sqrt(1.06 / (n - 3))
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half)), ""
