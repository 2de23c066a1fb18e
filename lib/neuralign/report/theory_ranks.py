"""Rank correlations of quantities that are known before a curve is trained with the loss of the trained curve."""

import numpy as np
import pandas as pd

from neuralign.report.labels import SETTING

PREDICTORS = {  # column -> label
    "bound": "bound on the line's mean loss",
    "estimate": "estimate of the line's mean loss",
    "distance": "relative distance of activations",
    "line_loss": "mean loss of the line",
}
COLUMNS = [*SETTING, "predictor", "n_paths", "n_pairs", "spearman", "ci_low", "ci_high", "p"]
COLUMNS += ["spearman_within", "p_within", "reason"]


def paths(bounds: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """One row per trained curve: PREDICTORS, computed on the straight line between its ends, and `loss`, its own loss.

    Args:
        bounds: one row per curve, of `evaluation.bound.bound_along_line`, with dataset, network, regime, pair, method
            and curve_seed.
        measured: the table `summary.paths`, from which the mean clean test loss of the curve is taken.
    """
    keys = [*SETTING, "pair", "method", "curve_seed"]
    clean = measured[measured["attack"] == "clean"][[*keys, "loss_mean"]].rename(columns={"loss_mean": "loss"})
    lines = bounds.rename(columns={"loss": "line_loss", "loss_max": "line_loss_max"})
    table = lines.merge(clean, how="left", on=keys, validate="one_to_one")
    front = [*keys, *PREDICTORS, "loss"]
    return table[front + [name for name in table if name not in front]]


def ranks(table: pd.DataFrame, *, draws: int = 9999) -> pd.DataFrame:
    """One row per setting and predictor: Spearman's rank correlation with the loss, over the curves of the setting.

    Columns: SETTING, predictor, n_paths, n_pairs, spearman; ci_low and ci_high, a 95 % interval by Fisher's z with the
    variance 1.06 / (n - 3) of Fieller, Hartley & Pearson (1957), as if curves were independent, and `reason` where
    there is none; p, two-sided, from `draws` random permutations of the losses. spearman_within and p_within are the
    same for ranks within each pair, permuted within it, so that differences between pairs have no effect.

    Args:
        table: of `paths`.
    """
    rows = []
    for setting, curves in table.groupby(SETTING, sort=False):
        pairs = curves["pair"].to_numpy()
        counts = len(pairs), len(set(pairs))
        for predictor in PREDICTORS:
            values, losses = curves[predictor], curves["loss"]
            rho, p = _permutation_test(values, losses, np.zeros(len(pairs)), draws)
            within = _permutation_test(values, losses, pairs, draws)
            low, high, reason = _interval(rho, len(pairs))
            rows.append([*setting, predictor, *counts, rho, low, high, p, *within, reason])
    return pd.DataFrame(rows, columns=COLUMNS)


def spearman(first: pd.Series, second: pd.Series) -> float:
    """Spearman's rank correlation; NaN if all values of a series are equal."""
    return float(_ranks(first, np.zeros(len(first))) @ _ranks(second, np.zeros(len(second))))


def _ranks(values: pd.Series, strata: np.ndarray) -> np.ndarray:
    """Ranks within each stratum (ties get their mean rank), centred within it; the vector of all has norm one."""
    ranks = values.reset_index(drop=True).groupby(strata).rank()
    centred = (ranks - ranks.groupby(strata).transform("mean")).to_numpy()
    return centred / (np.linalg.norm(centred) or np.nan)


def _permutation_test(first: pd.Series, second: pd.Series, strata: np.ndarray, draws: int) -> tuple[float, float]:
    """Spearman's rho of ranks within strata, and its two-sided p-value by random permutations within strata."""
    first_ranks, second_ranks = _ranks(first, strata), _ranks(second, strata)
    rho = float(first_ranks @ second_ranks)
    if np.isnan(rho):
        return np.nan, np.nan
    generator, permuted = np.random.default_rng(0), np.tile(second_ranks, (draws, 1))
    for stratum in np.unique(strata):
        block = np.flatnonzero(strata == stratum)
        permuted[:, block] = generator.permuted(permuted[:, block], axis=1)
    at_least_as_large = np.abs(permuted @ first_ranks) >= abs(rho) - 1e-9
    return rho, float((1 + at_least_as_large.sum()) / (1 + draws))


def _interval(rho: float, n: int) -> tuple[float, float, str]:
    """The 95 % interval of rho over n curves, and the reason where there is none; see `ranks`."""
    if np.isnan(rho):
        return np.nan, np.nan, "nothing to rank"
    if n < 4 or abs(rho) > 1 - 1e-9:
        return np.nan, np.nan, "too few curves" if n < 4 else "all ranks agree"
    half = 1.96 * np.sqrt(1.06 / (n - 3))
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half)), ""
