"""A score or the loss on planes of weight space through three models, as in the figures of Tatro et al. (2020)."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from neuralign.common.quantities import Metrics, Quantity
from neuralign.config.options import Flag, NonNegativeInt, Text
from neuralign.report import drawing, planes
from neuralign.report.labels import SETTING, alignment_label, label, rank

SYMBOLS = {"theta1": r"$\theta_1$", "theta2": r"$\theta_2$", "P theta2": r"$P\theta_2$", "midpoint": r"$r(1/2)$"}
LINE: dict[str, Any] = {"color": "white", "linewidth": 1.2, "path_effects": [withStroke(linewidth=2.2, foreground="k")]}
HALO = [withStroke(linewidth=1.8, foreground="white")]
# Least height of a panel over its width. Flatter planes are stretched: else a curve looks like the straight line.
FLAT = 0.6
DASHED: dict[str, Any] = LINE | {"linestyle": (0, (3, 1.5))}


def plane(
    frame: pd.DataFrame,
    metrics: Metrics,
    *,
    column: Text = "accuracy",
    spread: Flag = True,
    contours: NonNegativeInt = 6,
) -> Figure:
    """A row per setting, a column per method or alignment: the mean over pairs, with one colour scale per row.

    Pairs are averaged at equal coordinates (t1, t2) and drawn at their mean distances in weight space. Both axes have
    the same scale, unless the panels would be too flat. Nodes that only some of the pairs have are averaged over these.
    Bright is good.

    Args:
        column: What is drawn: a quantity that the objective measures.
        spread: Whether rows of the sample deviation over pairs are added, where there are several pairs.
        contours: Number of contour lines.
    """
    by, name_label = ("method", label) if "method" in frame else ("alignment", alignment_label)
    names = sorted(frame[by].unique(), key=rank)
    nodes, marks = frame[frame["name"].isna()], frame[frame["name"].notna()]
    values = planes.over_pairs(nodes, by, column)
    settings = drawing.present(frame, SETTING)
    varied = set(values["sd"].index.droplevel([by, "t2", "t1"])) if spread else set()
    sizes = nodes.groupby([*SETTING, by])[["x", "y"]].agg(lambda d: d.max() - d.min())
    shape = (sizes["y"] / sizes["x"]).median()
    upwards = "distance in weight space" if shape > FLAT else "distance, drawn longer"
    rows = [(s, kind) for s in settings for kind in values if kind == "mean" or s in varied]
    with drawing.style():
        figure, axes = drawing.sheet(len(rows), len(names), width=2.9, height=2.3 * max(shape, FLAT) + 0.35)
        figure.set_layout_engine("compressed")
        for (setting, kind), panels in zip(rows, axes, strict=True):
            surfaces = values[kind].loc[setting]
            colours = _colours(surfaces, metrics[column], kind)
            for name, panel in zip(names, panels, strict=True):
                place = dict(zip(SETTING, setting, strict=True)) | {by: name}
                panel.set_visible(name in surfaces.index)
                if panel.get_visible():
                    grid = planes.distances(drawing.where(nodes, **place))
                    _surface(panel, surfaces.loc[name].unstack(), grid, colours, contours)
                    panel.set(aspect="equal") if shape > FLAT else panel.set_box_aspect(FLAT)
                    _landmarks(panel, drawing.where(marks, **place), grid)
                    panel.set_title(f"{label(place['network'])}, {label(place['dataset'])}: {name_label(name)}")
            panels[0].set_ylabel(upwards)
            bar_label = f"test {metrics[column].headed()}, {kind}"
            figure.colorbar(ScalarMappable(**colours), ax=list(panels), label=bar_label, aspect=30)
        for panel in axes[-1]:
            panel.set_xlabel("distance in weight space")
        counts = f"{nodes['t1'].nunique()} × {nodes['t2'].nunique()} nodes, {drawing.counted(frame, 'pair')}"
        path = ("trained curve", LINE) if by == "method" else ("straight lines", DASHED)
        drawing.legend(figure, [(f"{path[0]} ({counts})", path[1])])
    return figure


def _colours(surface: pd.Series, quantity: Quantity, kind: str) -> dict[str, Any]:
    """Colour map and scale of a row of panels: logarithmic where less is better, over more than a factor of 5."""
    low, high = surface.min(), surface.max()
    is_logarithmic = kind == "mean" and planes.is_logarithmic(surface, quantity)
    norm = LogNorm(low, high) if is_logarithmic else Normalize(low, high)
    bright_is_good = "viridis" if quantity.higher_is_better else "viridis_r"
    return {"norm": norm, "cmap": bright_is_good if kind == "mean" else "cividis"}


def _surface(axes: Axes, surface: pd.DataFrame, grid: pd.DataFrame, colours: dict[str, Any], contours: int) -> None:
    """Draw a surface with a row per t2 and a column per t1; `grid` has the distances x, y of its nodes."""
    x, y = (grid[c].unstack().loc[surface.index, surface.columns] for c in ("x", "y"))
    axes.pcolormesh(x, y, surface, **colours, shading="gouraud", rasterized=True)
    levels = colours["norm"].inverse([(i + 0.5) / contours for i in range(contours)]) if contours else []
    within = [level for level in levels if surface.min().min() < level < surface.max().max()]
    if within:
        axes.contour(x, y, surface, levels=within, colors="black", linewidths=0.4, alpha=0.6)
    axes.set(xlim=(x.min().min(), x.max().max()))
    axes.grid(visible=False)


def _landmarks(axes: Axes, marks: pd.DataFrame, grid: pd.DataFrame) -> None:
    """Draw a dot per model and pair, a symbol at the mean of each model, and the curve, or else straight lines."""
    places = planes.placed(marks, grid)
    models = places[places["name"] != "curve"]
    means = models.groupby("name", sort=False)[["x", "y"]].mean()
    curve = places[places["name"] == "curve"].groupby("t")[["x", "y"]].mean()
    for end in [] if len(curve) else means.index[1:]:
        axes.plot(*means.loc[[means.index[0], end]].to_numpy().T, **DASHED)
    axes.plot(curve["x"], curve["y"], **LINE)
    axes.plot(
        models["x"], models["y"], linestyle="", marker="o", color="white", markeredgecolor="black", markersize=3.5
    )
    beside = [(11, -3), (-11, -3), (0, -12)] if len(curve) else [(0, 5), (0, 5), (9, -11)]  # points; off the lines
    for (name, place), offset in zip(means.iterrows(), beside, strict=True):
        axes.annotate(
            SYMBOLS.get(name, name), place, offset, textcoords="offset points", ha="center", path_effects=HALO
        )
