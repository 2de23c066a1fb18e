"""The interactive view of scores and losses along curves and lines."""

from typing import Any

import numpy as np
import pandas as pd

from neuralign.common.quantities import Metrics, Quantity
from neuralign.report import drawing
from neuralign.report.interactive.view import Choice, Option, View, choice, line_of, numbers, translucent
from neuralign.report.labels import label

SCALES = (("raw", "raw", "linear"), ("log", "logarithmic", "log"))  # value, label, plotly's name
LEAST = 0.1  # share of the mean at which a band ends on a logarithmic axis, which has no place for its lower edge


def paths_view(points: pd.DataFrame, metrics: Metrics) -> View:
    """Every quantity against the position on the path: mean over pairs with a band of one sample deviation.

    Args:
        points: the table of `summary.tidy`; its rows with re-estimated statistics are shown.
        metrics: what is measured.
    """
    frame = points[points["statistics"] == "reestimated"]
    settings, traces = drawing.settings(frame), []
    for title, rows in settings:
        for attack, part in rows.groupby("attack", sort=False):
            for quantity in metrics.quantities:
                for method in drawing.methods_of(part):
                    place = {"setting": title, "attack": attack, "quantity": quantity.name}
                    traces += _of_method(part[part["method"] == method], method, quantity, place)
    quantities = [Option(q.name, q.label, {"yaxis.title.text": f"test {q.headed()}"}) for q in metrics.quantities]
    scales = [Option(value, text, {"yaxis.type": kind}) for value, text, kind in SCALES]
    return View(
        "paths",
        "Mean over pairs along the path, with a band of one sample standard deviation. Point at a line for its "
        "numbers; click a name below to hide its line, double-click it to see that line alone; drag to zoom, "
        "double-click to zoom out.",
        [
            choice("setting", "Setting", {title: title for title, _ in settings}),
            choice("attack", "Images", {a: _attack_label(a) for a in frame["attack"].unique()}),
            Choice("quantity", "Quantity", quantities),
            Choice("scale", "Scale", scales[::-1] if metrics.headline.logarithmic else scales),
            choice("kind", "Paths", {"all": "all", "curve": "curves", "line": "lines"}),
            choice("alignment", "Ends", {"all": "all", "aligned": "aligned", "unaligned": "unaligned"}),
        ],
        traces,
        {
            "height": 460,
            "margin": {"l": 70, "r": 20, "t": 20, "b": 50},
            "hovermode": "closest",
            "xaxis": {"title": {"text": "position t on the path"}, "range": [-0.02, 1.02]},
            "yaxis": {"title": {"text": ""}},
            "legend": {"orientation": "h", "y": -0.18},
        },
    )


def _attack_label(attack: str) -> str:
    return "as they are" if attack == "clean" else f"under {attack}"


def _of_method(rows: pd.DataFrame, method: str, quantity: Quantity, place: dict[str, str]) -> list[dict[str, Any]]:
    """The line of a method and, where there are several pairs, its band."""
    table = drawing.over_replicates(rows, "t", [quantity.name])
    mean, spread = table[quantity.name].to_numpy(), table[f"{quantity.name}_sd"].to_numpy()
    look, t = drawing.look(method), numbers(table.index)
    kind = "line" if method.startswith("linear_") else "curve"
    alignment = "unaligned" if "unaligned" in method.split("_") else "aligned"
    meta = {**place, "kind": ["all", kind], "alignment": ["all", alignment]}
    shared = {"type": "scatter", "x": t, "legendgroup": method, "meta": meta}
    has_spread = bool(np.isfinite(spread).any())
    unit, decimals = f" {quantity.unit}" if quantity.unit else "", f":.{quantity.decimals}f"
    deviation = f" ± %{{customdata[0]{decimals}}}" if has_spread else ""
    line = {
        **shared,
        **line_of(look),
        "mode": "lines+markers",
        "name": label(method),
        "y": numbers(mean),
        "customdata": [[sd, int(n)] for sd, n in zip(numbers(spread), table["n"], strict=True)],
        "hovertemplate": f"<b>{label(method)}</b><br>t = %{{x:.3f}}<br>{quantity.label} "
        f"%{{y{decimals}}}{deviation}{unit}<br>n = %{{customdata[1]}}<extra></extra>",
    }
    if not has_spread:
        return [line]
    high, low = mean + spread, mean - spread
    bands = [("raw", low), ("log", np.maximum(low, LEAST * mean))] if (low <= 0).any() else [(None, low)]
    band = {**shared, "mode": "lines", "line": {"width": 0}, "fill": "toself", "hoverinfo": "skip", "showlegend": False}
    return [
        *(
            band
            | {"fillcolor": translucent(look["color"]), "x": t + t[::-1], "y": numbers(high) + numbers(edge)[::-1]}
            | {"meta": meta | ({"scale": scale} if scale else {})}
            for scale, edge in bands
        ),
        line,
    ]
