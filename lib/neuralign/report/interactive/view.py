"""An interactive view: the traces of plotly, and the choices that say which of them a browser shows (`views.js`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import numpy as np

DIGITS = 6  # significant ones of numbers in a page
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}  # matplotlib -> plotly
SYMBOLS = {"^": "triangle-up", "v": "triangle-down", "<": "triangle-left", ">": "triangle-right", "o": "circle"}
SYMBOLS |= {"s": "square", "D": "diamond", "d": "diamond-tall", "P": "cross", "X": "x", "p": "pentagon"}
SYMBOLS |= {"h": "hexagon", "*": "star"}


@dataclass(frozen=True)
class Option:
    """One value of a choice."""

    value: str
    label: str
    layout: Mapping[str, Any] = field(default_factory=dict)  # changes of the layout: {"yaxis.type": "log"}


@dataclass(frozen=True)
class Choice:
    """What a reader chooses by a row of buttons or a list. The first option is chosen at first, or all of `several`."""

    key: str
    label: str
    options: Sequence[Option]
    several: bool = False


@dataclass(frozen=True)
class View:
    """A figure with choices.

    A trace is shown if its `meta` agrees with every choice: `meta[key]` is the value, or a list of values, for which it
    is shown; a key that it lacks does not matter. Traces with a `meta["panel"]` are drawn in panels side by side. The
    text "#name" in a trace stands for the array of that name, "log:name" for its common logarithms, and "hover:name"
    for pairs of the values of it and of "name sd".
    """

    name: str  # of its element in the page
    caption: str
    choices: Sequence[Choice]
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    arrays: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """The view as JSON that can stand in a <script> of a page."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def numbers(values: Any) -> list[Any]:
    """An array as nested lists of numbers with DIGITS significant digits; None for what is not finite."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return [numbers(row) for row in values]
    return [_rounded(value) for value in values]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else None


def choice(key: str, label: str, labels: Mapping[str, str], *, several: bool = False) -> Choice:
    """A choice between values that change no layout, from {value: label}."""
    return Choice(key, label, [Option(value, text) for value, text in labels.items()], several)


def line_of(look: Mapping[str, Any]) -> dict[str, Any]:
    """The line and markers of a trace that look as matplotlib's arguments `look` (`drawing.look`)."""
    style, colour = look["linestyle"], look["color"]
    dash = DASHES[style] if isinstance(style, str) else ",".join(f"{2 * length}px" for length in style[1])
    marker = {"symbol": SYMBOLS[look["marker"]], "size": 7, "maxdisplayed": 9}
    marker |= {"color": look.get("markerfacecolor", colour), "line": {"color": colour, "width": 1.2}}
    return {"line": {"color": colour, "width": 2, "dash": dash}, "marker": marker}


def translucent(colour: str) -> str:
    """The colour of a band around a line of this colour, "#0072B2"."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.18)"
