"""Tables of a page, and the text of their cells: numbers, intervals, names of settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from neuralign.common.quantities import Quantity
from neuralign.report.labels import label

NONE = "–"
LARGE = 1e5  # numbers from here on are shown without decimals
Rows = list[list[str]]


@dataclass(frozen=True)
class Table:
    """A table of text, as the template shows it."""

    caption: str
    head: list[str]
    groups: list[tuple[str, Rows]]  # a title and its rows; the first cell of a row names it


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """A number with `digits` decimals and a typographic minus sign; a dash for NaN; 2,164,699 for a large one."""
    if pd.isna(value):
        return NONE
    precision = f",.{0 if abs(value) >= LARGE else digits}f"
    return f"{value:{'+' if sign else ''}{precision}}".replace("-", "−")


def capital(text: str) -> str:
    """The text with a capital letter in front; other letters stay as they are, as in "R²"."""
    return text[:1].upper() + text[1:]


def listed(words: Iterable[str]) -> str:
    """The words as a list in a sentence: "perplexity, accuracy and loss"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def measured(value: float, quantity: Quantity) -> str:
    """A value with its unit: "97.25 %"."""
    return number(value, quantity.decimals) + (f" {quantity.unit}" if quantity.unit else "")


def spread(row: Mapping[str, Any], name: str, digits: int = 2, std: str | None = None) -> str:
    """The mean and standard deviation "88.50 ± 0.12", from columns `name` and `std`; without ± if there is none."""
    mean, deviation = row.get(name, float("nan")), row.get(std or f"{name}_std", float("nan"))
    return number(mean, digits) + ("" if pd.isna(deviation) else f" ± {number(deviation, digits)}")


def span(row: Mapping[str, Any], digits: int = 2) -> str:
    """The interval "+0.10 to +0.50", or the reason why there is none."""
    if pd.isna(row["ci_low"]):
        return str(row["reason"]) if isinstance(row["reason"], str) and row["reason"] else NONE
    return " to ".join(number(row[end], digits, sign=True) for end in ("ci_low", "ci_high"))


def groups(table: pd.DataFrame, by: Sequence[str], rows: Any, *, noun: str = "images") -> list[tuple[str, Rows]]:
    """The titled row groups of a table: `rows` turns each record into its rows of cells."""
    parts = table.groupby(list(by), sort=False)
    return [
        (title(by, keys, noun=noun), [r for rec in part.to_dict("records") for r in rows(rec)]) for keys, part in parts
    ]


def title(by: Sequence[str], keys: Iterable[str], *, noun: str = "images") -> str:
    """The name of a setting, such as "TinyTen on CIFAR-10, standard training, under pgd5", from its columns `by`.

    Where there are only attacks on images, what is no image is not called clean. `noun`: as in `Metrics`.
    """
    named = dict(zip(by, keys, strict=True))
    setting = f"{label(named['network'])} on {label(named['dataset'])}, {label(named['regime'])} training"
    if "attack" not in named or (named["attack"] == "clean" and noun != "images"):
        return setting
    return f"{setting}, clean images" if named["attack"] == "clean" else f"{setting}, under {named['attack']}"
