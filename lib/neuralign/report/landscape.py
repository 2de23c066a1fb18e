"""A landscape as a picture or an interactive page: what `neuralign landscape` writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from neuralign.common.files import atomic
from neuralign.common.quantities import Metrics
from neuralign.report import drawing, planes
from neuralign.report.interactive.embedding import page
from neuralign.report.interactive.planes import POINTING, view_of
from neuralign.report.interactive.surfaces import Panel, fields, marks_on_map, marks_on_surface
from neuralign.report.interactive.view import Choice, Option, View, numbers

CONTOURS = 8
FLAT, STEEP = 0.6, 1.6  # heights of a plane over its width between which both axes have the same scale
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Landscape:
    """Metrics on a grid of a plane, and the networks on it."""

    rows: Sequence[Mapping[str, float]]  # of every point: x, y, t1, t2 and the metrics
    models: Sequence[Mapping[str, Any]]  # of every network: name, x, y, t1, t2 and the metrics
    metrics: Metrics  # what the rows have
    title: str
    caption: str  # what the plane goes through

    def surface(self, metric: str) -> pd.DataFrame:
        """The values of a metric, a row for each t2 and a column for each t1; NaN for those that are infinite."""
        return planes.only_finite(pd.DataFrame(self.rows).set_index(["t2", "t1"])[metric].unstack())

    def marks(self) -> pd.DataFrame:
        return pd.DataFrame(self.models).assign(t=None)


def write(landscape: Landscape, file: Path) -> None:
    """Write it to a file: an interactive page if it ends with .html, else a picture (PICTURES)."""
    kind = file.suffix.removeprefix(".")
    with atomic(file) as temporary:
        if kind == "html":
            printed = BytesIO()
            drawing.write(draw(landscape), printed, "png")
            html = page(view(landscape), landscape.title, printed=printed.getvalue())
            temporary.write_text(html, encoding="utf-8")
        else:
            drawing.write(draw(landscape), temporary, kind)


def draw(landscape: Landscape) -> Figure:
    """A panel for each metric. Bright is good."""
    rows = pd.DataFrame(landscape.rows)
    grid = rows.set_index(["t2", "t1"])[["x", "y"]]
    shape = (grid["y"].max() - grid["y"].min()) / (grid["x"].max() - grid["x"].min())
    height = min(max(shape, FLAT), STEEP)  # of a panel over its width
    with drawing.style():
        quantities = landscape.metrics.quantities
        figure, axes = drawing.sheet(1, len(quantities), width=3.6, height=2.6 * height + 0.35)
        for quantity, panel in zip(quantities, axes[0], strict=True):
            surface = landscape.surface(quantity.name)
            colours = planes.colours(surface.stack(), quantity, "mean")
            planes.draw_surface(panel, surface, grid, colours, CONTOURS)
            panel.set(aspect="equal") if height == shape else panel.set_box_aspect(height)
            planes.draw_landmarks(panel, landscape.marks(), grid)
            panel.set(xlabel="distance in weight space", ylabel="distance in weight space")
            panel.set(ylim=(grid["y"].min(), grid["y"].max()))  # a network may lie outside the window
            figure.colorbar(ScalarMappable(**colours), ax=panel, label=quantity.headed(), aspect=30)
        figure.set_layout_engine("compressed")
        figure.suptitle(landscape.title, fontsize=9)
    return figure


def view(landscape: Landscape) -> View:
    """Its interactive view."""
    arrays: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    rows, marks = pd.DataFrame(landscape.rows), landscape.marks()
    x, y = (sorted(rows[c].unique()) for c in ("x", "y"))
    for quantity in landscape.metrics.quantities:
        surface = landscape.surface(quantity.name)
        arrays[quantity.name] = numbers(surface.to_numpy())
        span = surface.min().min(), surface.max().max()
        place = {"plane": "", "panel": landscape.title}
        panel = Panel(quantity.name, surface, pd.Series(x).to_numpy(), pd.Series(y).to_numpy(), span, quantity, place)
        traces += fields(panel) + marks_on_surface(panel, marks)
        traces += marks_on_map(panel, marks) if quantity is landscape.metrics.quantities[0] else []
    ratio = Option("", "", {"meta.ratio": float((y[-1] - y[0]) / (x[-1] - x[0]))})
    return view_of(
        f"{landscape.caption} {POINTING}", [Choice("plane", "Plane", [ratio])], traces, arrays, landscape.metrics
    )


def measured(metrics: Metrics, columns: Iterable[str]) -> Metrics:
    """The quantities of an objective that a table has, in the order of the objective."""
    return Metrics(tuple(q for q in metrics.quantities if q.name in set(columns)), metrics.noun)
