"""A score or the loss on planes of weight space through three models, as in the figures of Tatro et al. (2020)."""

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import Flag, NonNegativeInt, Text
from neuralign.report import drawing, planes
from neuralign.report.labels import SETTING, alignment_label, label, rank

# Least height of a panel over its width. Flatter planes are stretched: else a curve looks like the straight line.
FLAT = 0.6


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
            colours = planes.colours(surfaces, metrics[column], kind)
            for name, panel in zip(names, panels, strict=True):
                place = dict(zip(SETTING, setting, strict=True)) | {by: name}
                panel.set_visible(name in surfaces.index)
                if panel.get_visible():
                    grid = planes.distances(drawing.where(nodes, **place))
                    planes.draw_surface(panel, surfaces.loc[name].unstack(), grid, colours, contours)
                    panel.set(aspect="equal") if shape > FLAT else panel.set_box_aspect(FLAT)
                    planes.draw_landmarks(panel, drawing.where(marks, **place), grid)
                    panel.set_title(f"{label(place['network'])}, {label(place['dataset'])}: {name_label(name)}")
            panels[0].set_ylabel(upwards)
            bar_label = f"test {metrics[column].headed()}, {kind}"
            figure.colorbar(ScalarMappable(**colours), ax=list(panels), label=bar_label, aspect=30)
        for panel in axes[-1]:
            panel.set_xlabel("distance in weight space")
        counts = f"{nodes['t1'].nunique()} × {nodes['t2'].nunique()} nodes, {drawing.counted(frame, 'pair')}"
        path = ("trained curve", planes.LINE) if by == "method" else ("straight lines", planes.DASHED)
        drawing.legend(figure, [(f"{path[0]} ({counts})", path[1])])
    return figure
