"""What figures and interactive views of planes share: means over pairs at equal (t1, t2), and distances of places."""

import pandas as pd

from neuralign.common.quantities import Quantity
from neuralign.report.labels import SETTING

FACTOR = 5  # between the largest and the smallest value, from which on colours are logarithmic if less is better


def over_pairs(nodes: pd.DataFrame, by: str, column: str) -> dict[str, pd.Series]:
    """The "mean" over pairs of a column, and its "sd" (ddof 1), by SETTING, `by`, t2 and t1."""
    each = nodes.groupby([*SETTING, by, "t2", "t1", "pair"])[column].mean().groupby([*SETTING, by, "t2", "t1"])
    return {"mean": each.mean(), "sd": each.std(ddof=1).dropna()}


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


def is_logarithmic(surface: pd.Series, quantity: Quantity) -> bool:
    """Whether colours of these means are logarithmic: where less is better, over more than a factor of FACTOR."""
    return bool(not quantity.higher_is_better and 0 < FACTOR * surface.min() < surface.max())
