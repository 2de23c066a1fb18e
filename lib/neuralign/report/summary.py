"""Summary tables of evaluated paths: pure functions on data frames, without torch.

Accuracies are in percent, losses in nats, lengths in weight space (L2). A "mean" along a path is by arc length: the
trapezoid rule over the chord lengths, divided by their sum. Every `_std` is a sample standard deviation (ddof 1)
over pairs and is empty for one pair. The metrics are those of the evaluation code published with Tatro et al. (2020).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SETTING = ["dataset", "network", "regime"]
KEYS = [*SETTING, "pair", "method", "curve_seed"]
NUMBERS = ["t", "distance", "loss", "accuracy", "images"]
METRICS = ["accuracy_mean", "accuracy_min", "loss_mean", "loss_max", "loss_barrier", "accuracy_barrier", "length"]
ROBUST_METRICS = ["accuracy_mean", "loss_mean", "clean_mean", "worst_accuracy", "worst_t", "worst_clean"]
ROBUST_METRICS += ["best_accuracy", "best_t", "best_clean", "loss_barrier", "accuracy_barrier"]
METHODS = {  # in the order of every table; any other name follows alphabetically
    "endpoints": "Endpoints",
    "linear_unaligned": "Line, unaligned",
    "linear_aligned": "Line, aligned",
    "unaligned": "Curve, unaligned",
    "pam_unaligned": "PAM curve, from unaligned",
    "pam_aligned": "PAM curve, from aligned",
    "aligned": "Curve, aligned",
}
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tinyimagenet": "Tiny ImageNet"}
NAMES |= {"tinyten": "TinyTen", "resnet32": "ResNet32", "googlenet": "GoogLeNet"}
CONTRASTS = [  # (method, baseline): the paired difference is method - baseline
    ("aligned", "unaligned"),
    ("linear_aligned", "linear_unaligned"),
    ("pam_unaligned", "unaligned"),
    ("pam_aligned", "pam_unaligned"),
    ("aligned", "pam_aligned"),
]
CONTRASTED = ["accuracy_mean", "accuracy_min", "loss_mean", "loss_barrier"]


def rank(method: str) -> tuple[int, str]:
    """The place of a method in every table and legend."""
    return (list(METHODS).index(method) if method in METHODS else len(METHODS), method)


def label(word: str) -> str:
    """A method, dataset or network as a reader is to see it."""
    return (METHODS | NAMES).get(word, word.replace("_", " "))


def tidy(frame: pd.DataFrame, run: Mapping[str, Any], *, source: str) -> pd.DataFrame:
    """One evaluation with the columns that say which path it is in front; `source` names the file in error messages."""
    if missing := [key for key in KEYS if key not in run]:
        raise ValueError(f"{source}: its run does not say {missing}; it says {sorted(run)}")
    _check(frame, source)
    return frame.reset_index(drop=True).assign(**{key: run[key] for key in KEYS})[[*KEYS, *frame]]


def _check(frame: pd.DataFrame, source: str) -> None:
    for column in [*NUMBERS, "attack", "statistics"]:
        if column not in frame:
            raise ValueError(f"{source}: column '{column}' is missing; it has {list(frame)}")
        values = frame[column]
        if column in NUMBERS and not pd.api.types.is_numeric_dtype(values):
            raise ValueError(f"{source}: column '{column}' holds text where numbers are wanted")
        bad = values.isna() | (np.isinf(values) if column in NUMBERS else False)
        if bad.any():
            raise ValueError(f"{source}: column '{column}' is empty or infinite in data row {int(bad.argmax()) + 1}")
    if not frame["accuracy"].between(0, 100).all():
        raise ValueError(f"{source}: column 'accuracy' leaves 0 .. 100 percent")
    if unknown := set(frame["statistics"]) - {"reestimated", "stored"}:
        raise ValueError(f"{source}: column 'statistics' says {sorted(unknown)}; allowed are 'reestimated', 'stored'")
    if not ((frame["attack"] == "clean") & (frame["statistics"] == "reestimated")).any():
        raise ValueError(f"{source}: column 'attack' has no 'clean' row with re-estimated statistics")
    for (attack, statistics), rows in frame.groupby(["attack", "statistics"], sort=False):
        where = f"{source}, attack '{attack}', {statistics} statistics"
        if rows["t"].duplicated().any():
            raise ValueError(f"{where}: column 't' repeats {rows['t'][rows['t'].duplicated()].iloc[0]:g}")
        for column in ("t", "distance"):
            if not rows[column].is_monotonic_increasing:
                raise ValueError(f"{where}: column '{column}' is not sorted in increasing order")
        if rows["t"].iloc[0] != 0 or rows["t"].iloc[-1] != 1:
            raise ValueError(f"{where}: column 't' must run from 0 to 1, so that barriers have both ends")


def paths(points: pd.DataFrame) -> pd.DataFrame:
    """One row per path and attack: averages by arc length, extremes with their t, barriers, length.

    A barrier is how much worse the path gets than its worse end: max_t L(t) - max(L(0), L(1)) for the loss,
    min(A(0), A(1)) - min_t A(t) for the accuracy. `accuracy_min_clean` is the clean accuracy where the accuracy is
    smallest, `clean_mean` the clean average of the same path.
    """
    rows = []
    along = points[points["statistics"] == "reestimated"]
    if (twice := along.duplicated([*KEYS, "attack", "t"])).any():
        raise ValueError(f"two evaluations of the same path: {' '.join(map(str, along.loc[twice, KEYS].iloc[0]))}")
    for keys, path in along.groupby(KEYS, sort=False, dropna=False):
        clean = path[path["attack"] == "clean"].set_index("t")
        for attack, curve in path.groupby("attack", sort=False):
            row = dict(zip(KEYS, keys, strict=True)) | {"attack": attack} | _measures(curve.set_index("t"))
            for end in ("accuracy_min", "accuracy_max"):
                row[f"{end}_clean"] = clean["accuracy"].get(row[f"{end}_t"], np.nan)
            rows.append(row | {"clean_mean": _mean(clean["accuracy"], clean["distance"])})
    return pd.DataFrame(rows)


def _measures(curve: pd.DataFrame) -> dict[str, float]:
    accuracy, loss, distance = curve["accuracy"], curve["loss"], curve["distance"]
    return {
        "accuracy_mean": _mean(accuracy, distance),
        "accuracy_min": accuracy.min(),
        "accuracy_min_t": accuracy.idxmin(),
        "accuracy_max": accuracy.max(),
        "accuracy_max_t": accuracy.idxmax(),
        "loss_mean": _mean(loss, distance),
        "loss_max": loss.max(),
        "loss_max_t": loss.idxmax(),
        "loss_barrier": loss.max() - max(loss.iloc[0], loss.iloc[-1]),
        "accuracy_barrier": min(accuracy.iloc[0], accuracy.iloc[-1]) - accuracy.min(),
        "length": distance.iloc[-1] - distance.iloc[0],
        "n_points": len(curve),
        "images": _same(curve["images"]),
    }


def _mean(values: pd.Series, distance: pd.Series) -> float:
    """The average by arc length; a path of length zero has no arc to weigh by, so the plain average."""
    length = distance.iloc[-1] - distance.iloc[0]
    return float(np.trapezoid(values, distance) / length) if length > 0 else float(values.mean())


def _same(images: pd.Series) -> int:
    if images.nunique() > 1:
        raise ValueError(f"column 'images': numbers from {sorted(images.unique())} test images do not compare")
    return int(images.iloc[0])


def over_pairs(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Each metric and its `_std` over pairs, with `n_pairs` and `images`; several curve seeds of a pair count once."""
    groups = table.groupby([*by, "pair"], sort=False)[list(metrics)].mean().groupby(list(by), sort=False)
    mean, std = groups.mean(), groups.std(ddof=1)
    columns = {name: s for m in metrics for name, s in ((m, mean[m]), (f"{m}_std", std[m]))}
    columns |= {"n_pairs": groups.size(), "images": table.groupby(list(by), sort=False)["images"].agg(_same)}
    return pd.DataFrame(columns).reset_index()


def ends(points: pd.DataFrame) -> pd.DataFrame:
    """One row per pair, end (t of 0 or 1), statistics and attack, of the first method listed.

    A permutation leaves the function alone, so the other methods must agree with it on clean images.
    """
    by = [*SETTING, "pair", "t", "statistics", "attack"]
    rows = points[points["t"].isin([0.0, 1.0])].copy()
    first = rows.groupby(by, sort=False)[["method", "accuracy", "loss"]].transform("first")
    # what other batches, other kernels and a few borderline images may change
    apart = (rows["accuracy"] - first["accuracy"]).abs() > np.maximum(0.25, 300 / rows["images"]) + 1e-9
    apart |= (rows["loss"] - first["loss"]).abs() > 0.02 + 0.05 * first["loss"].abs()
    apart &= rows["attack"] == "clean"
    if apart.any():
        told = ["method", "accuracy", "loss"]
        row, other = (" ".join(map(str, part.loc[apart, told].iloc[0])) for part in (rows, first))
        place = ", ".join(f"{key} {rows[apart].iloc[0][key]}" for key in by)
        raise ValueError(f"{place}: one function, but method, accuracy and loss are {row}; {other}")
    return rows.drop_duplicates(by)


def endpoint_rows(points: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The `endpoints` rows, over the two ends of all pairs.

    The ± is the plain sample deviation over the `n_endpoints` = 2 n_pairs networks. (The published rows have
    sqrt(s0^2 + s1^2) / 2, the deviation of a mean of two, smaller by about sqrt 2: it does not say how networks vary.)
    """
    rows = ends(points)
    table = rows[rows["statistics"] == "reestimated"].groupby(list(by), sort=False)
    stored = rows[rows["statistics"] == "stored"].groupby(list(by), sort=False)["accuracy"]
    columns = {"method": table["method"].agg(lambda _: "endpoints")}
    for name, group in (("accuracy", table["accuracy"]), ("loss", table["loss"]), ("stored_accuracy", stored)):
        columns |= {f"{name}_mean": group.mean(), f"{name}_mean_std": group.std(ddof=1)}
    columns |= {"n_pairs": table["pair"].nunique(), "n_endpoints": table.size(), "images": table["images"].agg(_same)}
    return pd.DataFrame(columns).rename(columns={"stored_accuracy_mean_std": "stored_accuracy_std"}).reset_index()


def published() -> pd.DataFrame:
    """The published main table, by dataset, network and method."""
    table = pd.read_csv(Path(__file__).with_name("published.csv"))
    table = table.rename(columns={"model": "network", "source": "published_source"})
    return table.rename(columns=lambda name: name.replace("accuracy", "published"))


def accuracy(points: pd.DataFrame, paths: pd.DataFrame, *, compared: Sequence[str] = ("standard",)) -> pd.DataFrame:
    """The main table: clean images, a row per setting and method; published values beside the `compared` regimes."""
    methods = over_pairs(paths[paths["attack"] == "clean"], [*SETTING, "method"], METRICS)
    endpoints = endpoint_rows(points[points["attack"] == "clean"], SETTING)
    table = _ordered([methods, endpoints]).merge(published(), how="left", on=["dataset", "network", "method"])
    said = [name for name in table if name.startswith("published_")]
    table[said] = table[said].where(table["regime"].isin(list(compared)))
    front = [*SETTING, "method", "accuracy_mean", "accuracy_mean_std", "accuracy_min", "accuracy_min_std", "n_pairs"]
    front += ["n_endpoints", *said, "stored_accuracy_mean", "stored_accuracy_std"]
    return table[front + [name for name in table if name not in front]]


def robust(points: pd.DataFrame, paths: pd.DataFrame) -> pd.DataFrame:
    """Under attack: a row per setting, attack and method; `_clean` is the clean accuracy at the worst or best point."""
    names = {f"accuracy_{end}": f"{name}_accuracy" for end, name in (("min", "worst"), ("max", "best"))}
    names |= {f"{old}_{x}": new.replace("accuracy", x) for old, new in names.items() for x in ("t", "clean")}
    attacked = paths[paths["attack"] != "clean"].rename(columns=names)
    methods = over_pairs(attacked, [*SETTING, "attack", "method"], ROBUST_METRICS)
    endpoints = endpoint_rows(points[points["attack"] != "clean"], [*SETTING, "attack"])
    clean = endpoint_rows(points[points["attack"] == "clean"], SETTING).set_index(SETTING)
    clean = clean[["accuracy_mean", "accuracy_mean_std"]].set_axis(["clean_mean", "clean_mean_std"], axis=1)
    table = _ordered([methods, endpoints.join(clean, on=SETTING)])
    return table.drop(columns=[name for name in table if name.startswith("stored_")])


def _ordered(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The parts in one table: settings (and attacks) as they came, methods by rank within each."""
    table = pd.concat([part for part in parts if len(part)] or list(parts), ignore_index=True)
    places = table.groupby([name for name in (*SETTING, "attack") if name in table], sort=False).ngroup()
    order = sorted(table.index, key=lambda i: (places[i], rank(table["method"][i])))
    return table.loc[order].reset_index(drop=True)


def contrasts(paths: pd.DataFrame) -> pd.DataFrame:
    """Paired differences: a row per setting, attack, contrast and metric, over the pairs that have both methods."""
    rows = []
    for keys, group in paths.groupby([*SETTING, "attack"], sort=False):
        values = group.groupby(["method", "pair"], sort=False)[CONTRASTED].mean()
        for method, baseline in (c for c in CONTRASTS if set(c) <= set(group["method"])):
            ours, theirs = values.loc[method].align(values.loc[baseline], join="inner")
            for metric in CONTRASTED:
                means = ours[metric].mean(), theirs[metric].mean()
                found = interval(ours[metric] - theirs[metric])
                rows.append([*keys, method, baseline, metric, *means, *found.values()])
    columns = [*SETTING, "attack", "method", "baseline", "metric", "method_mean", "baseline_mean", *interval([])]
    return pd.DataFrame(rows, columns=columns)


def interval(differences: Sequence[float] | pd.Series) -> dict[str, Any]:
    """The mean difference with its 95 % t-interval; empty, with the reason, where it cannot be computed."""
    d = np.asarray(differences, dtype=float)
    mean, std, half = d.mean() if d.size else np.nan, d.std(ddof=1) if d.size > 1 else np.nan, np.nan
    reason = "" if d.size > 1 else "one pair: no spread to estimate" if d.size else "no pair has both methods"
    if d.size > 1:
        from scipy.special import stdtrit  # here, for it takes a third of a second to import; scipy.stats takes more

        half = stdtrit(d.size - 1, 0.975) * std / np.sqrt(d.size)
    found = {"difference": mean, "difference_std": std, "ci_low": mean - half, "ci_high": mean + half}
    return found | {"n_pairs": d.size, "reason": reason}
