"""What figures and interactive views of planes share: means over pairs at equal (t1, t2), distances of places, maps."""

from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patheffects import withStroke

from neuralign.common.quantities import Quantity
from neuralign.report.labels import SETTING

SYMBOLS = {"theta1": r"$\theta_1$", "theta2": r"$\theta_2$", "P theta2": r"$P\theta_2$", "midpoint": r"$r(1/2)$"}
LINE: dict[str, Any] = {"color": "white", "linewidth": 1.2, "path_effects": [withStroke(linewidth=2.2, foreground="k")]}
HALO = [withStroke(linewidth=1.8, foreground="white")]
DASHED: dict[str, Any] = LINE | {"linestyle": (0, (3, 1.5))}
Values = TypeVar("Values", pd.Series, pd.DataFrame)
FACTOR = 5  # between the largest and the smallest value, from which on colours are logarithmic if less is better


def over_pairs(nodes: pd.DataFrame, by: str, column: str) -> dict[str, pd.Series]:
    """The "mean" over pairs of a column, and its "sd" (ddof 1), by SETTING, `by`, t2 and t1.

    A mean is NaN where the value of any pair is infinite or no number.
    """
    values = nodes.assign(**{column: nodes[column].fillna(np.inf)})  # pandas would leave NaN out of the mean
    each = values.groupby([*SETTING, by, "t2", "t1", "pair"])[column].mean().groupby([*SETTING, by, "t2", "t1"])
    return {"mean": only_finite(each.mean()), "sd": each.std(ddof=1).dropna()}


def only_finite(values: Values) -> Values:
    """Values with NaN, which figures leave blank, for those that are infinite, which no scale of colours has."""
    return values.where(np.isfinite(values))


def distances(nodes: pd.DataFrame) -> pd.DataFrame:
    """The distances x, y of every node (t2, t1) of any pair, with the mean units of length over the pairs."""
    units = (nodes[c] / nodes[t].where(nodes[t] != 0) for c, t in (("x", "t1"), ("y", "t2")))
    x, y = (unit.groupby(nodes["pair"]).mean().mean() for unit in units)  # lengths of t1 = 1 and t2 = 1
    places = nodes[["t2", "t1"]].drop_duplicates().set_index(["t2", "t1"], drop=False).sort_index()
    return pd.DataFrame({"x": places["t1"] * x, "y": places["t2"] * y})


def placed(marks: pd.DataFrame, grid: pd.DataFrame) -> pd.DataFrame:
    """Marks with the distances x, y that their t1, t2 have in a `grid` of `distances`."""
    first, last = grid.index[0], grid.index[-1]  # (t2, t1) of opposite corners
    width, height = grid.max() - grid.min()
    x, y = width / (last[1] - first[1]), height / (last[0] - first[0])  # lengths of t1 = 1 and t2 = 1
    return marks.assign(x=marks["t1"] * x, y=marks["t2"] * y)


def landmarks(places: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of marks with x and y: the models of every pair, their means by name, and the points of the mean curve by t."""
    models = places[places["name"] != "curve"]
    curve = places[places["name"] == "curve"].groupby("t")[["x", "y"]].mean()
    return models, models.groupby("name", sort=False)[["x", "y"]].mean(), curve


def is_logarithmic(surface: pd.Series, quantity: Quantity) -> bool:
    """Whether colours of these means are logarithmic: where less is better, over more than a factor of FACTOR."""
    return bool(not quantity.higher_is_better and 0 < FACTOR * surface.min() < surface.max())


def colours(surface: pd.Series, quantity: Quantity, kind: str) -> dict[str, Any]:
    """Colour map and scale of a row of panels: logarithmic where less is better, over more than a factor of 5."""
    low, high = surface.min(), surface.max()
    norm = LogNorm(low, high) if kind == "mean" and is_logarithmic(surface, quantity) else Normalize(low, high)
    bright_is_good = "viridis" if quantity.higher_is_better else "viridis_r"
    return {"norm": norm, "cmap": bright_is_good if kind == "mean" else "cividis"}


def draw_surface(axes: Axes, surface: pd.DataFrame, grid: pd.DataFrame, colours: dict[str, Any], contours: int) -> None:
    """Draw a surface with a row per t2 and a column per t1; `grid` has the distances x, y of its nodes."""
    x, y = (grid[c].unstack().loc[surface.index, surface.columns] for c in ("x", "y"))
    axes.pcolormesh(x, y, surface, **colours, shading="gouraud", rasterized=True)
    levels = colours["norm"].inverse([(i + 0.5) / contours for i in range(contours)]) if contours else []
    within = [level for level in levels if surface.min().min() < level < surface.max().max()]
    if within:
        axes.contour(x, y, surface, levels=within, colors="black", linewidths=0.4, alpha=0.6)
    axes.set(xlim=(x.min().min(), x.max().max()))
    axes.grid(visible=False)


def draw_landmarks(axes: Axes, marks: pd.DataFrame, grid: pd.DataFrame) -> None:
    """Draw a dot per model and pair, a symbol at the mean of each model, and the curve, or else straight lines."""
    places = placed(marks, grid)
    models, means, curve = landmarks(places)
    for end in [] if len(curve) else means.index[1:]:
        axes.plot(*means.loc[[means.index[0], end]].to_numpy().T, **DASHED)
    axes.plot(curve["x"], curve["y"], **LINE)
    axes.plot(
        models["x"], models["y"], linestyle="", marker="o", color="white", markeredgecolor="black", markersize=3.5
    )
    beside = [(11, -3), (-11, -3), (0, -12)] if len(curve) else [(0, 5), (0, 5), (9, -11)]  # points; off the lines
    for (name, place), offset in zip(means.iterrows(), beside, strict=False):  # there may be fewer models
        axes.annotate(
            SYMBOLS.get(name, name), place, offset, textcoords="offset points", ha="center", path_effects=HALO
        )
