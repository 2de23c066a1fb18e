"""The interactive view of the planes of a study: maps or surfaces side by side, with networks and curves on them."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics
from neuralign.report import drawing, planes
from neuralign.report.interactive.surfaces import Panel, fields, marks_on_map, marks_on_surface
from neuralign.report.interactive.view import Choice, Option, View, choice, numbers
from neuralign.report.labels import alignment_label, label, rank

THROUGH = {"method": "both ends and the middle of the curve", "alignment": "both networks and the second one aligned"}
POINTING = "Point at it for numbers, drag to zoom or to turn a surface, double-click to go back."


def planes_view(frames: Sequence[pd.DataFrame], metrics: Metrics) -> View:
    """Every quantity on every plane: the mean over pairs.

    Args:
        frames: each as the figure `plane` gets it, of planes by method or by alignment.
        metrics: what is measured.
    """
    arrays: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    shown: list[Option] = []
    for frame in frames:
        by = "method" if "method" in frame else "alignment"
        for setting, rows in drawing.settings(frame):
            title = f"{setting}, through {THROUGH[by]}"
            sizes = rows[rows["name"].isna()].groupby(by)[["x", "y"]].agg(lambda d: d.max() - d.min())
            shown.append(Option(title, title, {"meta.ratio": float((sizes["y"] / sizes["x"]).median())}))
            _add_setting(rows, by, title, metrics, arrays, traces)
    panels = dict.fromkeys(str(trace["meta"]["panel"]) for trace in traces)
    return view_of(
        f"Planes of weight space, the mean over pairs; a dot is a network of a pair. {POINTING}",
        [Choice("plane", "Plane", shown), choice("panel", "Panels", {name: name for name in panels}, several=True)],
        traces,
        arrays,
        metrics,
    )


def _add_setting(
    rows: pd.DataFrame, by: str, title: str, metrics: Metrics, arrays: dict[str, Any], traces: list[dict[str, Any]]
) -> None:
    """Add the panels of one setting, one for each value of the column `by`, to the arrays and traces of a view."""
    nodes, marks = rows[rows["name"].isna()], rows[rows["name"].notna()]
    name_label = label if by == "method" else alignment_label
    for quantity in metrics.quantities:
        means = {
            kind: values.droplevel([0, 1, 2]) for kind, values in planes.over_pairs(nodes, by, quantity.name).items()
        }
        for name in sorted(rows[by].unique(), key=rank):
            of_panel = drawing.where(nodes, **{by: name})
            values, grid, key = means["mean"].loc[name].unstack(), planes.distances(of_panel), str(len(arrays))
            arrays[key] = numbers(values.to_numpy())
            if has_spread := name in means["sd"].index:
                arrays[f"{key} sd"] = numbers(means["sd"].loc[name].unstack().reindex_like(values).to_numpy())
            x, y = (grid[c].unstack().loc[values.index, values.columns].to_numpy() for c in ("x", "y"))
            panel = Panel(
                key,
                values,
                x[0],
                y[:, 0],
                (means["mean"].min(), means["mean"].max()),
                quantity,
                {"plane": title, "panel": name_label(name)},
                has_spread,
                drawing.counted(of_panel, "pair"),
            )
            places = planes.placed(drawing.where(marks, **{by: name}), grid)
            traces += fields(panel) + marks_on_surface(panel, places)
            traces += marks_on_map(panel, places) if quantity is metrics.quantities[0] else []


def view_of(
    caption: str,
    choices: Sequence[Choice],
    traces: Sequence[dict[str, Any]],
    arrays: dict[str, Any],
    metrics: Metrics,
) -> View:
    """A view of planes: the choices, followed by those that all views of planes have."""
    return View(
        "planes",
        caption,
        [
            *choices,
            Choice("quantity", "Quantity", [Option(q.name, q.label) for q in metrics.quantities]),
            choice("scale", "Scale", {"log": "logarithmic", "raw": "raw"}),
            choice("drawn", "Drawn as", {"map": "map", "surface": "surface"}),
        ],
        # maps are drawn before what lies on them
        sorted(traces, key=lambda trace: trace["type"].startswith("scatter")),
        {
            "margin": {"l": 60, "r": 10, "t": 56, "b": 50},
            "showlegend": False,
            "hovermode": "closest",
            "meta": {"axis": "distance in weight space"},
        },
        arrays,
    )
