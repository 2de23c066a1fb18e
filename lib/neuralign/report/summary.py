"""Summary tables of a study, from the rows that were measured at the points of its paths.

Which quantities there are, and in which units, is said by the study's `Metrics`: of classifiers, the accuracy in
percent and the loss in nats. Lengths are L2 distances in weight space. A "mean" along a path is by arc length: the
trapezoid rule over the chord lengths, divided by their sum. Every `_std` is a sample standard deviation (ddof 1) over
pairs, NaN for one pair. The statistics are those of the evaluation code published with Tatro et al. (2020).

Column names say which mean is meant: `accuracy_mean` is the mean along a path, `accuracy_min` the smallest value on it;
in tables over pairs they are averages of these over the pairs. Below, columns are named as for classifiers. Other
scores have columns of the same kind: `r2_mean`, `r2_min`; `perplexity_mean`, `perplexity_max`, as there more is worse.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neuralign.common.quantities import Metrics, Quantity
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.labels import SETTING, rank
from neuralign.report.published import is_published, published_table
from neuralign.report.statistics import paired_interval

KEYS = [*SETTING, "pair", "method", "curve_seed"]  # name a path
MERGED = [*SETTING, "members", "cohort", "evaluation"]  # name the mean of several networks
CONTRASTS = [  # (method, baseline): the paired difference is method - baseline
    ("aligned", "unaligned"),
    ("linear_aligned", "linear_unaligned"),
    ("pam_unaligned", "unaligned"),
    ("pam_aligned", "pam_unaligned"),
    ("aligned", "pam_aligned"),
]


def along_path(metrics: Metrics) -> list[str]:
    """The columns of `paths` that are averaged over pairs in the main table."""
    extremes = [name for q in metrics.scores for name in (q.mean, q.worst)]
    loss, barriers = metrics.loss, [q.barrier for q in metrics.scores]
    return list(dict.fromkeys([*extremes, loss.mean, loss.worst, loss.barrier, *barriers, "length"]))


def contrasted(metrics: Metrics) -> list[str]:
    """The columns of `paths` in which methods are compared pair by pair."""
    extremes = [name for q in metrics.scores for name in (q.mean, q.worst)]
    return list(dict.fromkeys([*extremes, metrics.loss.mean, metrics.loss.barrier]))


def tidy(
    frame: pd.DataFrame, run: Mapping[str, Any], *, source: str, metrics: Metrics = CLASSIFICATION
) -> pd.DataFrame:
    """The rows of one evaluation, checked, with the columns KEYS in front, which name its path.

    Args:
        frame: columns t, distance, attack, statistics, loss, accuracy, images, as `evaluation.along_curve` measures.
        run: the values of KEYS.
        source: the file, for error messages. ValueError if a column or a value is wrong.
    """
    if missing := [key for key in KEYS if key not in run]:
        raise ValueError(f"{source}: the description of its path lacks {missing}; it has {sorted(run)}")
    _check(frame, source, metrics)
    return frame.reset_index(drop=True).assign(**{key: run[key] for key in KEYS})[[*KEYS, *frame]]


def _check(frame: pd.DataFrame, source: str, metrics: Metrics) -> None:
    numbers = ["t", "distance", *metrics.names, "images"]  # these must be finite
    for column in [*numbers, "attack", "statistics"]:
        if column not in frame:
            raise ValueError(f"{source}: column '{column}' is missing; the columns are {list(frame)}")
        values = frame[column]
        if column in numbers and not pd.api.types.is_numeric_dtype(values):
            raise ValueError(f"{source}: column '{column}' holds text; numbers are allowed")
        bad = values.isna() | (np.isinf(values) if column in numbers else False)
        if bad.any():
            raise ValueError(f"{source}: column '{column}' is empty or infinite in data row {int(bad.argmax()) + 1}")
    for quantity in metrics.quantities:
        low, high = quantity.possible
        if not frame[quantity.name].between(low, high).all():
            unit = " percent" if quantity.unit == "%" else ""
            raise ValueError(f"{source}: column '{quantity.name}' has values outside {low:g} to {high:g}{unit}")
    if unknown := set(frame["statistics"]) - {"reestimated", "stored"}:
        raise ValueError(f"{source}: column 'statistics' has {sorted(unknown)}; allowed are 'reestimated', 'stored'")
    if not ((frame["attack"] == "clean") & (frame["statistics"] == "reestimated")).any():
        raise ValueError(f"{source}: no row has attack 'clean' and statistics 'reestimated'")
    for (attack, statistics), rows in frame.groupby(["attack", "statistics"], sort=False):
        where = f"{source}, attack '{attack}', {statistics} statistics"
        if (repeated := rows["t"].duplicated()).any():
            raise ValueError(f"{where}: column 't' contains this value twice: {rows['t'][repeated].iloc[0]:g}")
        for column in ("t", "distance"):
            if not rows[column].is_monotonic_increasing:
                raise ValueError(f"{where}: column '{column}' is not in increasing order")
        if rows["t"].iloc[0] != 0 or rows["t"].iloc[-1] != 1:
            raise ValueError(f"{where}: column 't' must start at 0 and end at 1: barriers compare with both ends")


def paths(points: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> pd.DataFrame:
    """One row per path and attack, with re-estimated batch-norm statistics.

    Columns: KEYS, attack; accuracy_mean, loss_mean (by arc length); accuracy_min, accuracy_max, loss_max and the t of
    each (`_t`); loss_barrier, accuracy_barrier; length; n_points; images (in the test set); accuracy_min_clean and
    accuracy_max_clean, the clean accuracy at the t of the smallest and the largest accuracy; and clean_mean, the mean
    accuracy of the same path on clean images. A barrier is how much worse the path gets than its worse end:
    max_t L(t) - max(L(0), L(1)) for the loss, min(A(0), A(1)) - min_t A(t) for the accuracy. clean_mean is of the
    headline.
    """
    rows = []
    reestimated = points[points["statistics"] == "reestimated"]
    if (repeated := reestimated.duplicated([*KEYS, "attack", "t"])).any():
        path_name = " ".join(map(str, reestimated.loc[repeated, KEYS].iloc[0]))
        raise ValueError(f"two evaluations of the same path: {path_name}")
    for keys, path in reestimated.groupby(KEYS, sort=False, dropna=False):
        clean = path[path["attack"] == "clean"].set_index("t")
        for attack, curve in path.groupby("attack", sort=False):
            row = dict(zip(KEYS, keys, strict=True)) | {"attack": attack} | _of_path(curve.set_index("t"), metrics)
            for q in metrics.scores:
                for extreme in (q.worst, q.best):
                    row[f"{extreme}_clean"] = clean[q.name].get(row[f"{extreme}_t"], np.nan)
            rows.append(row | {"clean_mean": _mean(clean[metrics.headline.name], clean["distance"])})
    return pd.DataFrame(rows)


def _of_path(curve: pd.DataFrame, metrics: Metrics) -> dict[str, float]:
    """The statistics of one path under one attack, from its points by t; see `paths`."""
    distance, row = curve["distance"], dict[str, float]()
    for q in metrics.scores:
        row |= _extremes(curve, q, q.worst) | _extremes(curve, q, q.best)
    row |= _extremes(curve, metrics.loss, metrics.loss.worst)
    for q in dict.fromkeys([metrics.loss, *metrics.scores]):
        row[q.barrier] = _barrier(curve[q.name], q)
    return row | {
        "length": distance.iloc[-1] - distance.iloc[0],
        "n_points": len(curve),
        "images": _common_count(curve["images"]),
    }


def _extremes(curve: pd.DataFrame, quantity: Quantity, extreme: str) -> dict[str, float]:
    """The mean of a quantity along the path, its smallest or largest value, as `extreme` says, and the t of that."""
    values = curve[quantity.name]
    value, t = (values.min(), values.idxmin()) if extreme.endswith("_min") else (values.max(), values.idxmax())
    return {quantity.mean: _mean(values, curve["distance"]), extreme: value, f"{extreme}_t": t}


def _barrier(values: pd.Series, quantity: Quantity) -> float:
    """How much worse the path gets than its worse end."""
    ends = values.iloc[0], values.iloc[-1]
    return float(min(ends) - values.min() if quantity.higher_is_better else values.max() - max(ends))


def _mean(values: pd.Series, distance: pd.Series) -> float:
    """The average by arc length; for a path of length zero, the average of its points."""
    length = distance.iloc[-1] - distance.iloc[0]
    return float(np.trapezoid(values, distance) / length) if length > 0 else float(values.mean())


def _common_count(images: pd.Series) -> int:
    """The number of test images, which must be the same in all rows."""
    if images.nunique() > 1:
        counts = sorted(images.unique())
        raise ValueError(f"column 'images': results on different numbers of test images are not comparable: {counts}")
    return int(images.iloc[0])


def over_pairs(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean and `_std` over pairs of each metric, with n_pairs and images: one row per combination of `by`.

    Curves of the same pair with different seeds are averaged first, so that each pair counts once.
    """
    groups = table.groupby([*by, "pair"], sort=False)[list(metrics)].mean().groupby(list(by), sort=False)
    mean, std = groups.mean(), groups.std(ddof=1)
    columns = {name: values for m in metrics for name, values in ((m, mean[m]), (f"{m}_std", std[m]))}
    columns |= {"n_pairs": groups.size(), "images": table.groupby(list(by), sort=False)["images"].agg(_common_count)}
    return pd.DataFrame(columns).reset_index()


def ends(points: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> pd.DataFrame:
    """The rows at t = 0 and t = 1: one per pair, t, statistics and attack.

    All methods of a pair join the same two networks, up to permutations, which do not change the function. So only the
    row of the first method is kept. ValueError if another method differs from it on clean images by more than other
    kernels and batches may change.
    """
    by = [*SETTING, "pair", "t", "statistics", "attack"]
    rows = points[points["t"].isin([0.0, 1.0])].copy()
    shares = [q.name for q in metrics.scores if q.is_share]
    columns = ["method", *shares, "loss"]
    first = rows.groupby(by, sort=False)[columns].transform("first")
    # tolerances for other kernels and batches: 0.02 + 5 % of loss, 0.25 points or 3 examples of an accuracy
    differs = (rows["loss"] - first["loss"]).abs() > 0.02 + 0.05 * first["loss"].abs()
    for name in shares:
        differs |= (rows[name] - first[name]).abs() > np.maximum(0.25, 300 / rows["images"]) + 1e-9
    differs &= rows["attack"] == "clean"
    if differs.any():
        row, first_row = (" ".join(map(str, part.loc[differs, columns].iloc[0])) for part in (rows, first))
        place = ", ".join(f"{key} {rows[differs].iloc[0][key]}" for key in by)
        raise ValueError(
            f"{place}: the same network is measured differently ({', '.join(columns)}): {row}; {first_row}"
        )
    return rows.drop_duplicates(by)


def endpoint_rows(points: pd.DataFrame, by: Sequence[str], metrics: Metrics = CLASSIFICATION) -> pd.DataFrame:
    """The rows of the method "endpoints": averages over both ends of all pairs, one per combination of `by`.

    `_std` is the sample standard deviation over the n_endpoints networks, which says how networks vary. These are two
    for each pair, and one that is in several pairs counts once. The published rows have sqrt(s0^2 + s1^2) / 2 instead,
    the deviation of the mean of two networks, which is smaller by a factor of about sqrt(2).
    """
    rows = ends(points, metrics)
    pairs = rows[rows["statistics"] == "reestimated"].groupby(list(by), sort=False)["pair"].nunique()
    rows["end"] = [pair.split("-")[int(t)] for pair, t in zip(rows["pair"], rows["t"], strict=True)]
    rows = rows.drop_duplicates([*by, "statistics", "end"])
    table = rows[rows["statistics"] == "reestimated"].groupby(list(by), sort=False)
    stored = rows[rows["statistics"] == "stored"].groupby(list(by), sort=False)
    scores = [q.name for q in metrics.scores]
    columns = {"method": table["method"].agg(lambda _: "endpoints")}
    for name in dict.fromkeys([*scores, "loss"]):
        columns |= {f"{name}_mean": table[name].mean(), f"{name}_mean_std": table[name].std(ddof=1)}
    for name in scores:
        columns |= {f"stored_{name}_mean": stored[name].mean(), f"stored_{name}_std": stored[name].std(ddof=1)}
    columns |= {
        "n_pairs": pairs,
        "n_endpoints": table.size(),
        "images": table["images"].agg(_common_count),
    }
    return pd.DataFrame(columns).reset_index()


def accuracy(
    points: pd.DataFrame,
    paths: pd.DataFrame,
    *,
    compared: Sequence[str] = ("standard",),
    metrics: Metrics = CLASSIFICATION,
) -> pd.DataFrame:
    """The main table: one row per setting and method, on clean images, over pairs.

    In the regimes `compared`, the published values stand beside ours; in the others these columns are empty.
    """
    methods = over_pairs(paths[paths["attack"] == "clean"], [*SETTING, "method"], along_path(metrics))
    endpoints = endpoint_rows(points[points["attack"] == "clean"], SETTING, metrics)
    table = _ordered([methods, endpoints]).merge(published_table(), how="left", on=["dataset", "network", "method"])
    published_columns = [name for name in table if name.startswith("published_")]
    is_compared = table["regime"].isin(list(compared)) & is_published(metrics)
    table[published_columns] = table[published_columns].where(is_compared)
    front = [*SETTING, "method"]
    front += [f"{name}{std}" for q in metrics.scores for name in (q.mean, q.worst) for std in ("", "_std")]
    front += ["n_pairs", "n_endpoints", *published_columns]
    front += [f"stored_{q.name}_{which}" for q in metrics.scores for which in ("mean", "std")]
    return table[front + [name for name in table if name not in front]]


def cohorts(
    run: Mapping[str, Any], networks: pd.DataFrame, alignment: pd.DataFrame, metrics: Metrics = CLASSIFICATION
) -> list[dict[str, Any]]:
    """One row per attack on the mean of several networks, with re-estimated batch-norm statistics.

    Columns: MERGED, attack, images; accuracy and loss of the `aligned` and of the `unaligned` mean, and `members_...`,
    the means over the networks themselves, with `best_accuracy`, that of the best of them; agreement_before, agreement,
    steps and certificate of the alignment, and `images_read` by it, NaN if nothing could be aligned.

    Args:
        run: what identifies the networks and their alignment.
        networks: the table of `evaluation.of_cohort`.
        alignment: the facts of the alignment, a row for each network.
        metrics: what is measured of the networks.
    """
    rows, headline = [], metrics.headline
    measured = networks[networks["statistics"] == "reestimated"]
    facts = alignment.iloc[0]
    for attack, part in measured.groupby("attack", sort=False):
        row: dict[str, Any] = {key: run[key] for key in MERGED}
        row |= {"attack": attack, "images": int(part["images"].iloc[0])}
        means = {kind: part[part["model"] == f"{kind} mean"].iloc[0] for kind in ("aligned", "unaligned")}
        members = part[~part["model"].isin([f"{kind} mean" for kind in means])]
        for name in metrics.names:
            row |= {f"{kind}_{name}": values[name] for kind, values in means.items()}
            row[f"members_{name}"] = members[name].mean()
        of_members = members[headline.name]
        row[f"best_{headline.name}"] = of_members.max() if headline.higher_is_better else of_members.min()
        row |= {name: facts.get(name, np.nan) for name in ("agreement_before", "agreement", "steps")}
        row |= {"certificate": alignment["certificate"].max(), "images_read": facts.get("images", np.nan)}
        rows.append(row)
    return rows


def robust(points: pd.DataFrame, paths: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> pd.DataFrame:
    """The table of robustness: one row per setting, attack and method, over pairs.

    `worst_accuracy` and `best_accuracy` are the extremes along the path under the attack; `_t` says where they are, and
    `_clean` is the accuracy on clean images there.
    """
    score, loss, names = metrics.headline, metrics.loss, dict[str, str]()
    for old, end in ((score.worst, "worst"), (score.best, "best")):
        names |= {old: f"{end}_{score.name}", f"{old}_t": f"{end}_t", f"{old}_clean": f"{end}_clean"}
    averaged = list(dict.fromkeys([score.mean, loss.mean, "clean_mean", *names.values(), loss.barrier, score.barrier]))
    attacked = paths[paths["attack"] != "clean"].rename(columns=names)
    methods = over_pairs(attacked, [*SETTING, "attack", "method"], averaged)
    endpoints = endpoint_rows(points[points["attack"] != "clean"], [*SETTING, "attack"], metrics)
    clean = endpoint_rows(points[points["attack"] == "clean"], SETTING, metrics).set_index(SETTING)
    clean = clean[[score.mean, f"{score.mean}_std"]].set_axis(["clean_mean", "clean_mean_std"], axis=1)
    table = _ordered([methods, endpoints.join(clean, on=SETTING)])
    return table.drop(columns=[name for name in table if name.startswith("stored_")])


def _ordered(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The parts as one table: settings (and attacks) in order of appearance, and the methods of each by `rank`."""
    table = pd.concat([part for part in parts if len(part)] or list(parts), ignore_index=True)
    places = table.groupby([name for name in (*SETTING, "attack") if name in table], sort=False).ngroup()
    order = sorted(table.index, key=lambda i: (places[i], rank(table["method"][i])))
    return table.loc[order].reset_index(drop=True)


def contrasts(paths: pd.DataFrame, metrics: Metrics = CLASSIFICATION) -> pd.DataFrame:
    """Paired differences of two methods: one row per setting, attack, entry of CONTRASTS and metric.

    Only pairs that have both methods count. Columns beside the keys: method_mean, baseline_mean, and those of
    `statistics.paired_interval`.
    """
    rows = []
    for keys, group in paths.groupby([*SETTING, "attack"], sort=False):
        values = group.groupby(["method", "pair"], sort=False)[contrasted(metrics)].mean()
        for method, baseline in (pair for pair in CONTRASTS if set(pair) <= set(group["method"])):
            first, second = values.loc[method].align(values.loc[baseline], join="inner")
            for metric in contrasted(metrics):
                means = first[metric].mean(), second[metric].mean()
                interval = paired_interval(first[metric] - second[metric])
                rows.append([*keys, method, baseline, metric, *means, *interval.values()])
    columns = [*SETTING, "attack", "method", "baseline", "metric", "method_mean", "baseline_mean", *paired_interval([])]
    return pd.DataFrame(rows, columns=columns)
