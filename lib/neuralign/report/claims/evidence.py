"""What claims are judged by: the tidy tables of a study, and paired differences drawn from them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from neuralign.report.labels import SETTING
from neuralign.report.statistics import paired_interval


@dataclass(frozen=True)
class Evidence:
    """Tidy tables; every row says dataset, network, regime and pair. Units: percent, nats, epochs.

    points, paths: as in summary.py. histories: method, epoch, loss. signatures: methods, layer, before, after.
    moved: methods, alignment, group, units, moved, moved_from_start, and of searches objective_before, objective_after.
    midpoints: method, layer, end, series, correlation. theory: method, bound. `methods` is a
    comma-separated list of the methods whose paths go to that permutation.
    """

    points: pd.DataFrame = field(default_factory=pd.DataFrame)
    paths: pd.DataFrame = field(default_factory=pd.DataFrame)
    histories: pd.DataFrame = field(default_factory=pd.DataFrame)
    signatures: pd.DataFrame = field(default_factory=pd.DataFrame)
    moved: pd.DataFrame = field(default_factory=pd.DataFrame)
    midpoints: pd.DataFrame = field(default_factory=pd.DataFrame)
    theory: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Measurement:
    """`first` - `second` in one setting; `found` is the mean difference, its 95 % interval, n and what n counts."""

    setting: tuple[str, ...]
    attack: str
    measure: str
    unit: str
    digits: int
    first: float
    second: float
    found: dict[str, Any]


def paired(
    first: pd.Series, second: pd.Series | float, setting: Any, measure: str, unit: str, digits: int, attack: str = ""
) -> Measurement:
    """The difference over the pairs that both series (by pair) have."""
    if isinstance(second, pd.Series):
        first, second = first.align(second, join="inner")
    means = first.mean(), second.mean() if isinstance(second, pd.Series) else second
    found = paired_interval((first - second).dropna())
    found |= {"n": found["n_pairs"], "n_of": "pairs"}
    return Measurement(tuple(setting), attack, measure, unit, digits, *means, found)


def parts(table: pd.DataFrame, by: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """(keys, rows), in the order they come; nothing of an empty table."""
    if len(table):
        yield from table.groupby(by, sort=False)


def both(
    table: pd.DataFrame, by: list[str], method: str, baseline: str
) -> Iterator[tuple[Any, dict[str, pd.DataFrame]]]:
    """The parts that have both methods: {method: means of the numbers by pair}."""
    for keys, rows in parts(table, by):
        if {method, baseline} <= set(rows["method"]):
            of = {m: rows[rows["method"] == m].groupby("pair").mean(numeric_only=True) for m in (method, baseline)}
            yield keys, of


def where(table: pd.DataFrame, setting: Any) -> pd.DataFrame:
    """The rows of one setting."""
    return table[(table[SETTING] == list(setting)).all(axis=1)]


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """The rows on clean images."""
    return table[table["attack"] == "clean"] if len(table) else table


def using(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows whose `methods` name this one."""
    return table[[method in str(names).split(",") for names in table["methods"]]] if len(table) else table


def alignments(moved: pd.DataFrame) -> pd.DataFrame:
    """How far alignments reach: a row per setting, alignment and group, and one of all groups together ("all").

    Mean and `_std` (ddof 1) over the `n_pairs` pairs of units moved from their own place (`moved`) and from where the
    search started (`moved_from_start`), of `units`. The row "all" has the largest certificate too, and of a search its
    objective (nats) before and after.
    """
    facts = ["objective_before", "objective_after"]
    numbers = ["units", "moved", "moved_from_start", *facts]
    columns = [*SETTING, "alignment", "group", "units", "n_pairs"]
    columns += [c for name in numbers[1:] for c in (name, f"{name}_std")] + ["certificate"]
    rows = []
    for keys, of in parts(moved, [*SETTING, "alignment"]):
        one = of.groupby("pair")
        known = {name: one[name].first() for name in facts if name in of}
        whole = one[numbers[:3]].sum().assign(**known)
        parted = {"all": whole} | {
            str(g): rows.set_index("pair")[numbers[:3]] for g, rows in of.groupby("group", sort=False)
        }
        for group, values in parted.items():
            row = dict(zip([*SETTING, "alignment"], keys, strict=True)) | {"group": group, "n_pairs": len(values)}
            row |= values.mean().to_dict() | values.std(ddof=1).add_suffix("_std").to_dict()
            rows.append(
                row | ({"certificate": of["certificate"].max()} if group == "all" and "certificate" in of else {})
            )
    return pd.DataFrame(rows, columns=columns)
