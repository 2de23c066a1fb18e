"""Traces of one panel of a plane: a map or a surface, and the networks and the curve on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neuralign.common.quantities import Quantity
from neuralign.report.interactive.view import numbers
from neuralign.report.planes import landmarks

SYMBOLS = {"theta1": "θ₁", "theta2": "θ₂", "P theta2": "Pθ₂", "midpoint": "r(½)"}
TICKS = 5  # of a logarithmic colour bar
DOT = {"color": "white", "line": {"color": "black", "width": 1}}
DASHED = "8px,5px"
LINES = (("black", 5), ("white", 2.5))  # a white line with a black rim: (colour, width)


@dataclass(frozen=True)
class Panel:
    """One quantity on one plane."""

    key: str  # of its values in the arrays of the view
    values: pd.DataFrame  # a row per y, a column per x
    x: np.ndarray  # distances in weight space
    y: np.ndarray
    span: tuple[float, float]  # the smallest and the largest value of all panels that share its colours
    quantity: Quantity
    place: Mapping[str, str]  # the choices under which it is shown, "panel" among them
    spread: bool = False  # whether the view has an array of deviations
    counted: str = ""  # what a value is the mean of: "n = 3 pairs"

    @property
    def scales(self) -> list[str]:
        """Logarithmic colours, which come first, are for positive quantities of which less is better."""
        return ["log", "raw"] if not self.quantity.higher_is_better and self.span[0] > 0 else ["raw"]

    def _meta(self, drawn: str, scale: str) -> dict[str, str]:
        """The choices under which a trace is shown; the scale is none where there is only one."""
        chosen = {**self.place, "quantity": self.quantity.name, "drawn": drawn}
        return chosen | ({"scale": scale} if len(self.scales) > 1 else {})


def fields(panel: Panel) -> list[dict[str, Any]]:
    """The map and the surface of a panel, in every scale. Bright is good."""
    return [_field(panel, drawn, scale) for drawn in ("map", "surface") for scale in panel.scales]


def _field(panel: Panel, drawn: str, scale: str) -> dict[str, Any]:
    quantity, (low, high) = panel.quantity, panel.span
    bar: dict[str, Any] = {"title": {"text": f"test {quantity.headed()}", "side": "right"}, "thickness": 14}
    if scale == "log":
        ticks = np.geomspace(low, high, TICKS)
        bar |= {"tickvals": numbers(np.log10(ticks)), "ticktext": [f"{tick:.3g}" for tick in ticks]}
        low, high = np.log10([low, high])
    decimals, unit = f":.{quantity.decimals}f", f" {quantity.unit}" if quantity.unit else ""
    deviation = f" ± %{{customdata[1]{decimals}}}" if panel.spread else ""
    first, last = ("zmin", "zmax") if drawn == "map" else ("cmin", "cmax")
    contours = {"coloring": "heatmap"} if drawn == "map" else {"z": {"show": True, "color": "rgba(0,0,0,0.4)"}}
    return {
        "type": "contour" if drawn == "map" else "surface",
        "x": numbers(panel.x),
        "y": numbers(panel.y),
        "z": f"{'log:' if scale == 'log' else '#'}{panel.key}",
        "customdata": f"hover:{panel.key}",
        "hovertemplate": f"x %{{x:.3g}}, y %{{y:.3g}}<br>{quantity.label} %{{customdata[0]{decimals}}}{deviation}{unit}"
        f"{f'<br>{panel.counted}' if panel.counted else ''}<extra>{panel.place['panel']}</extra>",
        "colorscale": "Viridis",
        "reversescale": not quantity.higher_is_better,
        "colorbar": bar,
        "contours": contours,
        **dict(zip((first, last), numbers([low, high]), strict=True)),
        **({"line": {"width": 0.6, "color": "rgba(0,0,0,0.5)"}, "ncontours": 12} if drawn == "map" else {}),
        "meta": panel._meta(drawn, scale),
    }


def marks_on_map(panel: Panel, marks: pd.DataFrame) -> list[dict[str, Any]]:
    """Networks and the curve, or else straight lines from the first network, on the map of any quantity.

    `marks`: columns name ("curve" for points of a curve), t, x, y, and pair if there are several.
    """
    meta = {**panel.place, "drawn": "map"}
    models, means, line, dash = _landmarks(marks)
    texts = [SYMBOLS.get(name, name) for name in models["name"]]
    pairs = [f", pair {pair}" for pair in models["pair"]] if "pair" in models else [""] * len(models)
    return [
        *(
            {"type": "scatter", "mode": "lines", "x": numbers(line["x"]), "y": numbers(line["y"]), "meta": meta}
            | {"line": {"color": colour, "width": width, "dash": dash}, "hoverinfo": "skip"}
            for colour, width in LINES
        ),
        {
            "type": "scatter",
            "mode": "markers",
            "x": numbers(models["x"]),
            "y": numbers(models["y"]),
            "marker": {**DOT, "size": 8},
            "text": [f"{text}{pair}" for text, pair in zip(texts, pairs, strict=True)],
            "hovertemplate": "%{text}<br>x %{x:.4g}, y %{y:.4g}<extra></extra>",
            "meta": meta,
        },
        {
            "type": "scatter",
            "mode": "text",
            "x": numbers(means["x"]),
            "y": numbers(means["y"]),
            "text": [f"<b>{SYMBOLS.get(name, name)}</b>" for name in means.index],
            "textposition": "top center",
            "textfont": {"color": "white", "size": 14, "shadow": "0 0 3px black, 0 0 2px black"},
            "hoverinfo": "skip",
            "meta": meta,
        },
    ]


def marks_on_surface(panel: Panel, marks: pd.DataFrame) -> list[dict[str, Any]]:
    """The means of the networks, and the curve or straight lines, at the height of the surface."""
    _, means, line, dash = _landmarks(marks)
    traces: list[dict[str, Any]] = []
    for scale in panel.scales:
        line_z, means_z = (_heights(panel, places, scale) for places in (line, means))
        meta = panel._meta("surface", scale)
        traces.append(
            {"type": "scatter3d", "mode": "lines", "x": numbers(line["x"]), "y": numbers(line["y"]), "z": line_z}
            | {
                "line": {"color": "black", "width": 6, "dash": "dash" if dash == DASHED else dash},
                "hoverinfo": "skip",
                "meta": meta,
            }
        )
        traces.append(
            {"type": "scatter3d", "mode": "markers+text", "x": numbers(means["x"]), "y": numbers(means["y"])}
            | {"z": means_z, "text": [SYMBOLS.get(name, name) for name in means.index], "textposition": "top center"}
            | {"marker": {**DOT, "size": 5}, "hovertemplate": "%{text}<extra></extra>", "meta": meta}
        )
    return traces


def _landmarks(marks: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
    """The networks of every pair, their means, the points of a line, and how it is dashed.

    The line is the mean curve; without a curve it goes from the first network to each of the others, with gaps (NaN).
    """
    models, means, curve = landmarks(marks)
    if len(curve):
        return models, means, curve, "solid"
    gap = pd.DataFrame({"x": [np.nan], "y": [np.nan]})
    steps = np.linspace(0, 1, 41)[:, None]
    straight = [
        pd.DataFrame((1 - steps) * means.iloc[[0]].to_numpy() + steps * means.iloc[[i]].to_numpy(), columns=["x", "y"])
        for i in range(1, len(means))
    ]
    return models, means, pd.concat([part for line in straight for part in (line, gap)] or [gap]), DASHED


def _heights(panel: Panel, places: pd.DataFrame, scale: str) -> list[Any]:
    """The values of the surface at places, between its nodes by linear interpolation."""
    values = np.log10(panel.values.to_numpy()) if scale == "log" else panel.values.to_numpy()
    at = [
        np.interp(y, panel.y, [np.interp(x, panel.x, row) for row in values]) if np.isfinite(x) else np.nan
        for x, y in places[["x", "y"]].itertuples(index=False)
    ]
    return numbers(np.array(at))
