"""The evidence for the paper's claims: the tables of a study, and paired differences between their rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics, Quantity
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.labels import SETTING
from neuralign.report.statistics import paired_interval


@dataclass(frozen=True)
class Evidence:
    """The tables of a study, and what it measures. An empty table says that nothing was measured.

    Every row has dataset, network, regime and pair. The other columns:
        points, paths: as in `report.summary`.
        histories: method, epoch, loss; of the training of curves.
        signatures: methods, layer, before, after; the correlation of matched units.
        moved: methods, alignment, group, units, moved, moved_from_start; for alignments that search, such as PAM, also
            objective_before, objective_after.
        midpoints: method, layer, end, series, correlation.
        theory: method, bound.
    `methods` is a comma-separated list of the methods whose paths end at the network with that permutation.
    """

    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    paths: pd.DataFrame = field(default_factory=pd.DataFrame)
    histories: pd.DataFrame = field(default_factory=pd.DataFrame)
    signatures: pd.DataFrame = field(default_factory=pd.DataFrame)
    moved: pd.DataFrame = field(default_factory=pd.DataFrame)
    midpoints: pd.DataFrame = field(default_factory=pd.DataFrame)
    theory: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: Metrics = CLASSIFICATION


@dataclass(frozen=True)
class Measurement:
    """A quantity in one setting, as the difference of two means, `first` - `second`."""

    setting: tuple[str, ...]
    attack: str  # "clean" or the name of an attack; "" if it is never measured under attack
    measure: str  # what is measured, for readers
    unit: str
    digits: int  # decimals to show
    first: float
    second: float
    interval: dict[str, Any]  # difference, ci_low, ci_high, reason; n and n_of: how many of what the mean is over
    lower_is_better: bool = False  # whether a score is measured of which less is better: claims on scores are reversed


def paired(
    first: pd.Series,
    second: pd.Series | float,
    setting: Any,
    measure: str,
    unit: str,
    digits: int,
    attack: str = "",
    score: Quantity | None = None,
) -> Measurement:
    """The mean paired difference of two series by pair, over the pairs that both have.

    `score`: the quantity that they are of, if a claim says that it gets better, and not that it gets more or less.
    """
    if isinstance(second, pd.Series):
        first, second = first.align(second, join="inner")
    means = first.mean(), second.mean() if isinstance(second, pd.Series) else second
    interval = paired_interval((first - second).dropna())
    interval |= {"n": interval["n_pairs"], "n_of": "pairs"}
    is_reversed = score is not None and not score.higher_is_better
    return Measurement(tuple(setting), attack, measure, unit, digits, *means, interval, is_reversed)


def groups_of(table: pd.DataFrame, by: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(keys, rows) for each combination of the columns `by`, in order of appearance; none for an empty table."""
    if len(table):
        yield from table.groupby(by, sort=False)


def pairs_of_methods(
    table: pd.DataFrame, by: list[str], method: str, baseline: str
) -> Iterator[tuple[Any, dict[str, pd.DataFrame]]]:
    """(keys, {method: means by pair}) for each combination of the columns `by` in which both methods occur."""
    for keys, rows in groups_of(table, by):
        if {method, baseline} <= set(rows["method"]):
            runs = {m: rows[rows["method"] == m] for m in (method, baseline)}
            yield keys, {m: run.groupby("pair").mean(numeric_only=True) for m, run in runs.items()}


def in_setting(table: pd.DataFrame, setting: Any) -> pd.DataFrame:
    """The rows of one setting."""
    return table[(table[SETTING] == list(setting)).all(axis=1)]


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """The rows on clean images."""
    return table[table["attack"] == "clean"] if len(table) else table


def using(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows whose column `methods` names this method."""
    return table[[method in str(names).split(",") for names in table["methods"]]] if len(table) else table


def alignments(moved: pd.DataFrame) -> pd.DataFrame:
    """How many units alignments move: one row per setting, alignment and group, and one for all groups, "all".

    Columns beside these: units; n_pairs; mean and `_std` (ddof 1) over the pairs of `moved`, the number of units that
    are not at their own place, and of `moved_from_start`, the number that are not where the search started. Rows "all"
    also have the largest certificate, and, for alignments that search, the loss before and after.
    """
    counts, objectives = ["units", "moved", "moved_from_start"], ["objective_before", "objective_after"]
    averaged = [*counts[1:], *objectives]
    columns = [*SETTING, "alignment", "group", "units", "n_pairs"]
    columns += [column for name in averaged for column in (name, f"{name}_std")] + ["certificate"]
    records = []
    for keys, rows in groups_of(moved, [*SETTING, "alignment"]):
        by_pair = rows.groupby("pair")
        objective = {name: by_pair[name].first() for name in objectives if name in rows}
        tables = {"all": by_pair[counts].sum().assign(**objective)}
        tables |= {str(g): group_rows.set_index("pair")[counts] for g, group_rows in rows.groupby("group", sort=False)}
        for group, values in tables.items():
            record = dict(zip([*SETTING, "alignment"], keys, strict=True)) | {"group": group, "n_pairs": len(values)}
            record |= values.mean().to_dict() | values.std(ddof=1).add_suffix("_std").to_dict()
            if group == "all" and "certificate" in rows:
                record["certificate"] = rows["certificate"].max()
            records.append(record)
    return pd.DataFrame(records, columns=columns)
