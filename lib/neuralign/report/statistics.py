"""95 % confidence intervals of a difference of two means: of paired values, and of two independent samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def paired_interval(differences: Sequence[float] | pd.Series) -> dict[str, Any]:
    """The mean of paired differences with its 95 % t-interval.

    Keys: difference (the mean), difference_std (ddof 1), ci_low, ci_high, n_pairs, reason. With fewer than two pairs
    the interval is NaN, and `reason` says why; else it is empty.
    """
    values = np.asarray(differences, dtype=float)
    n = values.size
    mean, std, half = values.mean() if n else np.nan, values.std(ddof=1) if n > 1 else np.nan, np.nan
    reason = "" if n > 1 else "one pair: no spread to estimate" if n else "no pair has both methods"
    if n > 1:
        half = _t_quantile(n - 1) * std / np.sqrt(n)
    interval = {"difference": mean, "difference_std": std, "ci_low": mean - half, "ci_high": mean + half}
    return interval | {"n_pairs": n, "reason": reason}


def welch_interval(first: tuple[float, float, float], second: tuple[float, float, float]) -> dict[str, Any]:
    """The difference of two independent means with its 95 % interval by Welch's t, for samples of unequal variance.

    Keys: difference, ci_low, ci_high, reason. The interval is NaN, and `reason` says why, if a sample has no standard
    deviation or both are zero. The degrees of freedom are those of Welch and Satterthwaite.

    Args:
        first, second: (mean, sample standard deviation, number of values) of a sample.
    """
    no_interval: dict[str, Any] = {"difference": first[0] - second[0], "ci_low": np.nan, "ci_high": np.nan}
    if pd.isna(no_interval["difference"]):
        return no_interval | {"reason": "not run"}
    if pd.isna(first[1]) or pd.isna(second[1]) or min(first[2], second[2]) < 2:
        return no_interval | {"reason": "no interval: no spread is known"}
    variances = [std**2 / n for _, std, n in (first, second)]  # of the two means
    variance = sum(variances)
    if variance == 0:
        return no_interval | {"reason": "no interval: both deviations are zero"}
    freedom = variance**2 / sum(v**2 / (n - 1) for v, (_, _, n) in zip(variances, (first, second), strict=True))
    difference, half = no_interval["difference"], _t_quantile(freedom) * np.sqrt(variance)
    return {"difference": difference, "ci_low": difference - half, "ci_high": difference + half, "reason": ""}


def _t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, with which a 95 % interval is built."""
    from scipy.special import stdtrit  # imported here because it takes a third of a second; scipy.stats takes more

    return stdtrit(freedom, 0.975)
