"""The loss of a trained curve against quantities that are known before it is trained."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import Flag
from neuralign.report import drawing
from neuralign.report.theory_ranks import PREDICTORS, spearman

POINTS = {"linestyle": "none", "markersize": 5.0}


def theory(frame: pd.DataFrame, metrics: Metrics, *, logarithmic: Flag = True) -> Figure:
    """A row of panels per setting, a column per predictor: one point per curve, Spearman's ρ in the title.

    Args:
        logarithmic: Whether the axis of a predictor that spans more than a decade is logarithmic.
    """
    settings = drawing.settings(frame)
    with drawing.style():
        figure, axes = drawing.sheet(len(settings), len(PREDICTORS), width=2.3, height=2.1, sharey="row")
        for (title, rows), row in zip(settings, axes, strict=True):
            for (predictor, text), panel in zip(PREDICTORS.items(), row, strict=True):
                _draw(panel, rows, predictor)
                if logarithmic and 0 < 10 * rows[predictor].min() < rows[predictor].max():
                    panel.set_xscale("log")
                panel.set_xlabel(text)
            row[0].set_title(title, loc="left", y=1.1)
            row[0].set_ylabel(f"mean test loss of\nthe trained curve ({metrics.loss.unit})")
        drawing.legend(figure, [(text, look | POINTS) for text, look in drawing.method_entries(frame)])
    return figure


def _draw(panel: Axes, rows: pd.DataFrame, predictor: str) -> None:
    for method in drawing.methods_of(rows):
        points = rows[rows["method"] == method]
        panel.plot(points[predictor], points["loss"], **drawing.look(method) | POINTS)
    panel.set_title(f"ρ = {spearman(rows[predictor], rows['loss']):.2f} (n = {len(rows)})", loc="right")
