"""The published numbers beside ours: the difference of the means and its interval, never just "matches"."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuralign.report.summary import SETTING

PUBLISHED_N = 3  # pairs behind a published mean and deviation
MARGINS = {"mean": 0.5, "min": 1.0}  # points: closer than this counts as within, whatever the interval says
COLUMNS = [*SETTING, "method", "measure", "published", "published_std", "ours", "ours_std", "n", "difference"]
COLUMNS += ["ci_low", "ci_high", "margin", "verdict", "reason"]


def against_published(
    accuracy: pd.DataFrame, published: pd.DataFrame, compared: Sequence[str] = ("standard",)
) -> pd.DataFrame:
    """A row for each published cell (percent): `difference` is ours minus published, with Welch's 95 % interval.

    `accuracy` is the main table of the study and `published` that of the paper, by dataset, network and method; a cell
    is repeated for each of the `compared` regimes that the study has of it. `verdict`: "within" if the difference is at
    most the margin or its interval includes zero, "apart" otherwise, "not run". The published numbers are rounded to
    0.1, which the interval does not know.
    """
    places = ["dataset", "network", "method"]
    ours = accuracy[accuracy["regime"].isin(list(compared))]
    ours = ours[["regime", *places, "n_pairs", "n_endpoints", *(f"accuracy_{c}" for c in _names())]]
    rows = []
    for row in published.merge(ours, how="left", on=places, sort=False).to_dict("records"):
        for measure, margin in MARGINS.items():
            if pd.isna(row[f"published_{measure}"]):
                continue
            n = row["n_pairs"] if pd.isna(row["n_endpoints"]) else row["n_endpoints"]
            told = row[f"published_{measure}"], row[f"published_{measure}_std"]
            mean, std = row[f"accuracy_{measure}"], row[f"accuracy_{measure}_std"]
            cell = {k: row[k] for k in (*SETTING, "method")} | {"measure": measure, "margin": margin, "n": n}
            cell |= {"published": told[0], "published_std": told[1], "ours": mean, "ours_std": std}
            cell |= welch((mean, std, n), (*told, PUBLISHED_N))
            rows.append(cell | {"verdict": _verdict(cell)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _names() -> list[str]:
    return [name for measure in MARGINS for name in (measure, f"{measure}_std")]


def _verdict(cell: dict[str, Any]) -> str:
    if pd.isna(cell["difference"]):
        return "not run"
    close = abs(cell["difference"]) <= cell["margin"] + 1e-9
    return "within" if close or cell["ci_low"] <= 0 <= cell["ci_high"] else "apart"


def welch(ours: tuple[float, float, float], theirs: tuple[float, float, float]) -> dict[str, Any]:
    """Difference of two means and its 95 % interval without equal variances, from (mean, sample deviation, n) each.

    Welch's t with Satterthwaite's degrees of freedom; no interval, but a `reason`, where a side has no deviation.
    """
    found: dict[str, Any] = {"difference": ours[0] - theirs[0], "ci_low": np.nan, "ci_high": np.nan, "reason": ""}
    if pd.isna(found["difference"]):
        return found | {"reason": "not run"}
    if pd.isna(ours[1]) or pd.isna(theirs[1]) or min(ours[2], theirs[2]) < 2:
        return found | {"reason": "no interval: no spread is known"}
    parts = [std**2 / n for _, std, n in (ours, theirs)]
    if sum(parts) == 0:
        return found | {"reason": "no interval: both deviations are zero"}
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, (_, _, n) in zip(parts, (ours, theirs), strict=True))
    from scipy.special import stdtrit  # here, for it takes a third of a second to import

    half = stdtrit(freedom, 0.975) * np.sqrt(sum(parts))
    return found | {"ci_low": found["difference"] - half, "ci_high": found["difference"] + half}
