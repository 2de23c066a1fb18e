"""The published accuracies, and how far this study's lie from them: differences of means with their intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.labels import SETTING
from neuralign.report.statistics import welch_interval

PUBLISHED_N = 3  # pairs behind each published mean and standard deviation
# percentage points: a mean or a worst accuracy that differs by no more counts as "within", whatever its interval
MARGINS = {"mean": 0.5, "min": 1.0}
COLUMNS = [*SETTING, "method", "measure", "published", "published_std", "ours", "ours_std", "n", "difference"]
COLUMNS += ["ci_low", "ci_high", "margin", "verdict", "reason"]


def published_table() -> pd.DataFrame:
    """The published main table, one row per dataset, network and method.

    Other columns: published_mean, published_min (percent) and their `_std`; published_source.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    table = table.rename(columns={"model": "network", "source": "published_source"})
    return table.rename(columns=lambda name: name.replace("accuracy", "published"))


def is_published(metrics: Metrics) -> bool:
    """Whether the published numbers are of the headline: they are accuracies of classifiers."""
    return metrics.headline == CLASSIFICATION.headline


def against_published(
    accuracy: pd.DataFrame,
    published: pd.DataFrame,
    compared: Sequence[str] = ("standard",),
    metrics: Metrics = CLASSIFICATION,
) -> pd.DataFrame:
    """One row for each published number and each regime that it is compared with: ours beside it, and a verdict.

    Columns: dataset, network, regime, method; measure ("mean" or "min", along the path); published, ours and their
    `_std` (percent); n (pairs of ours; for endpoints, networks); difference (ours - published) and its 95 % interval
    by Welch's t, ci_low and ci_high; margin; verdict; reason (why there is no interval). The verdict is "within" if the
    difference is at most the margin or the interval includes zero, "not decided" if it is larger and there is no
    interval, else "apart"; "not run" if we have no such number.
    The interval does not take into account that the published numbers are rounded to 0.1. Without rows where the
    headline of `metrics` is another than theirs.

    Args:
        accuracy: the main table of the study, `summary.accuracy`.
        published: `published_table`.
        compared: the regimes of the study that are compared with the published numbers.
    """
    if not is_published(metrics):
        return pd.DataFrame(columns=COLUMNS)
    keys = ["dataset", "network", "method"]
    ours = accuracy[accuracy["regime"].isin(list(compared))]
    numbers = [f"accuracy_{measure}{suffix}" for measure in MARGINS for suffix in ("", "_std")]
    ours = ours[["regime", *keys, "n_pairs", "n_endpoints", *numbers]]
    rows = []
    for row in published.merge(ours, how="left", on=keys, sort=False).to_dict("records"):
        for measure, margin in MARGINS.items():
            if pd.isna(row[f"published_{measure}"]):
                continue
            n = row["n_pairs"] if pd.isna(row["n_endpoints"]) else row["n_endpoints"]
            published_mean, published_std = row[f"published_{measure}"], row[f"published_{measure}_std"]
            mean, std = row[f"accuracy_{measure}"], row[f"accuracy_{measure}_std"]
            cell = {k: row[k] for k in (*SETTING, "method")} | {"measure": measure, "margin": margin, "n": n}
            cell |= {"published": published_mean, "published_std": published_std, "ours": mean, "ours_std": std}
            cell |= welch_interval((mean, std, n), (published_mean, published_std, PUBLISHED_N))
            rows.append(cell | {"verdict": _verdict(cell)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _verdict(cell: dict[str, Any]) -> str:
    if pd.isna(cell["difference"]):
        return "not run"
    is_close = abs(cell["difference"]) <= cell["margin"] + 1e-9
    if is_close or cell["ci_low"] <= 0 <= cell["ci_high"]:
        return "within"
    return "not decided" if pd.isna(cell["ci_low"]) else "apart"
