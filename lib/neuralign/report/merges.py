"""Tables of merged pairs: barriers between both networks, and the accuracy of their mean, by alignment.

The measurements are those of `neuralign.merging.measurement`. Losses and barriers are in nats, accuracies in percent.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from neuralign.report.costs import undisturbed_seconds
from neuralign.report.labels import SETTING
from neuralign.report.statistics import paired_interval

ALIGNED = [*SETTING, "pair", "alignment"]  # name a merge
GROUP = [*SETTING, "attack"]
BARRIERS = ("barrier", "calibrated_barrier")
OF_ENDS = ["agreement", "moved", "distance"]
OF_LINE = [f"{barrier}{end}" for barrier in BARRIERS for end in ("", "_t", "_low", "_high")]  # on clean images
OF_MODELS = ["accuracy", "loss", "calibrated_loss", "ece", "brier"]
ENDS = ("first", "second")
READS = ("nothing", "images", "labels")  # what an alignment looks at beside the weights; each with those before it


def by_pair(
    run: Mapping[str, Any], models: pd.DataFrame, barrier: pd.DataFrame, layers: pd.DataFrame
) -> list[dict[str, Any]]:
    """One row per attack on the networks of one merge.

    Columns: ALIGNED; attack; images, the number of test examples; reads ("nothing", "images" or "labels"), what the
    alignment looked at beside the weights; certificate; OF_ENDS; OF_LINE; llfc, one minus the cosine of the
    features of the middle of the line and of the mean of both ends' features, averaged over layers; and for each
    network NAME the columns NAME_accuracy, NAME_loss, NAME_calibrated_loss, NAME_ece and NAME_brier, where NAME is
    ends (the mean of both), ensemble, mean, or a repair. Under attack a network is measured on images attacked against
    itself, and all but its accuracy and loss is NaN: OF_LINE, llfc, and the ensemble, which is not attacked.

    Args:
        run: the values of ALIGNED.
        models, barrier, layers: the three tables of the merge.
    """
    rows = []
    line = barrier.iloc[0]
    for attack, part in models.groupby("attack", sort=False):
        row: dict[str, Any] = {key: run[key] for key in ALIGNED} | {"attack": attack}
        row |= {"images": int(part["images"].iloc[0]), "reads": line["reads"], "certificate": line["certificate"]}
        clean = attack == "clean"
        row |= {name: line[name] for name in OF_ENDS} | {name: line[name] if clean else np.nan for name in OF_LINE}
        row["llfc"] = layers["distance"].mean() if clean else np.nan
        measured = part.set_index("model")[OF_MODELS]
        ends = measured.loc[list(ENDS)].mean()
        for name, values in [("ends", ends), *measured.drop(index=list(ENDS)).iterrows()]:
            row |= {f"{name}_{metric}": values[metric] for metric in OF_MODELS}
        rows.append(row)
    return rows


def over_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """One row per setting, attack and alignment: the mean of every number of `by_pair`, with its `_std` over pairs.

    Columns beside those: n_pairs; barrier_ci_low and barrier_ci_high, the 95 % t-interval of the mean over pairs, and
    the same of calibrated_barrier; gap_closed, how much of the way from the accuracy of the unaligned mean to that of
    the ends the mean has come, in percent, with its `_std`: 100 (a - u) / (e - u) in each pair. Means of networks with
    batch norm count with statistics of their own, if there is a repair `reset`. The intervals of single pairs are in
    `by_pair` only; certificate and reads are the largest.
    """
    table = with_gap_closed(table)
    single = [f"{b}_{end}" for b in BARRIERS for end in ("low", "high")]
    numbers = [c for c in table.select_dtypes("number") if c not in ("images", "certificate", *single)]
    rows = []
    for keys, part in table.groupby([*GROUP, "alignment"], sort=False):
        row = dict(zip([*GROUP, "alignment"], keys, strict=True)) | {"reads": max(part["reads"], key=READS.index)}
        row |= {"n_pairs": part["pair"].nunique(), "images": int(part["images"].iloc[0])}
        row["certificate"] = part["certificate"].max()
        for name in numbers:
            row |= {name: part[name].mean(), f"{name}_std": part[name].std(ddof=1)}
        for name in BARRIERS:
            interval = paired_interval(part[name].dropna())
            row |= {f"{name}_{end}": interval[end] for end in ("ci_low", "ci_high")}
        rows.append(row)
    return pd.DataFrame(rows)


def with_gap_closed(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `by_pair` with the column gap_closed; NaN where there is no gap, or no mean that is not aligned."""
    accuracy = plain_accuracy(table)
    unaligned = table.assign(plain=accuracy)[table["moved"] == 0].drop_duplicates([*GROUP, "pair"])
    start = table.merge(unaligned[[*GROUP, "pair", "plain"]], how="left", on=[*GROUP, "pair"])["plain"].to_numpy()
    gap = table["ends_accuracy"] - start
    return table.assign(gap_closed=100 * (accuracy - start) / gap.where(gap != 0))


def plain_accuracy(table: pd.DataFrame) -> pd.Series:
    """The accuracy of the mean without a repair but new statistics of batch norm."""
    accuracy = table["mean_accuracy"]
    return table["reset_accuracy"].fillna(accuracy) if "reset_accuracy" in table else accuracy


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of any two alignments, first minus second, one row for each metric.

    The metrics are both barriers, which are of clean images, and the accuracies of the means. Columns beside the keys:
    first_mean, second_mean, and those of `statistics.paired_interval`. Only pairs that have both alignments count.
    """
    metrics = [
        *BARRIERS,
        *(c for c in table if c.endswith("_accuracy") and c not in ("ends_accuracy", "ensemble_accuracy")),
    ]
    rows = []
    for keys, part in table.groupby(GROUP, sort=False):
        values = part.set_index(["alignment", "pair"])[metrics].dropna(axis="columns", how="all")
        for first, second in combinations(part["alignment"].unique(), 2):
            a, b = values.loc[first].align(values.loc[second], join="inner", axis=0)
            for metric in values:
                differences = (a[metric] - b[metric]).dropna()
                means = a[metric].mean(), b[metric].mean()
                rows.append([*keys, first, second, metric, *means, *paired_interval(differences).values()])
    columns = [*GROUP, "first", "second", "metric", "first_mean", "second_mean", *paired_interval([])]
    return pd.DataFrame(rows, columns=columns)


def agreement_and_barrier(table: pd.DataFrame) -> pd.DataFrame:
    """Do alignments with a larger agreement have a lower barrier? One row per setting.

    Columns: SETTING, and those of `statistics.paired_interval` for the rank correlation (Spearman) of agreement and
    barrier over the alignments that move units, in each pair; -1 if the agreement orders the barriers. No correlation
    is outside of [-1, 1], to which the interval is cut.
    """
    moving = table[(table["attack"] == "clean") & (table["moved"] > 0)]
    rows = []
    for keys, part in moving.groupby(SETTING, sort=False):
        ranks = part.groupby("pair", sort=False)[["agreement", "barrier"]].rank()
        pairs = [group["agreement"].corr(group["barrier"]) for _, group in ranks.groupby(part["pair"], sort=False)]
        rows.append(
            dict(zip(SETTING, keys, strict=True)) | paired_interval([value for value in pairs if value == value])
        )
    result = pd.DataFrame(rows, columns=[*SETTING, *paired_interval([])])
    return result.assign(**{end: result[end].astype(float).clip(-1, 1) for end in ("ci_low", "ci_high")})


def costs(notes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Seconds and peak memory of every alignment: SETTING, alignment, seconds, memory (MB); means over pairs.

    From the notes of origin. They are of whole jobs: they read the data, trace the network and certify the result. Of
    jobs of one thread the seconds are those in which they had a processor.
    """
    jobs = {
        tuple(note["wildcards"][key] for key in ALIGNED): (
            undisturbed_seconds(note) if "seconds" in note else None,
            note.get("peak_memory"),
        )
        for note in notes
        if note.get("rule") == "align" and note.get("wildcards")
    }
    rows = [[*key, *values] for key, values in jobs.items()]
    table = pd.DataFrame(rows, columns=[*ALIGNED, "seconds", "memory"]).astype({"seconds": float, "memory": float})
    return table.groupby([*SETTING, "alignment"], sort=False)[["seconds", "memory"]].mean().reset_index()
