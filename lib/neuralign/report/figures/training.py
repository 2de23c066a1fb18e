"""Training curves: loss and headline, such as accuracy, on the training set against the epoch."""

import pandas as pd
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import Flag
from neuralign.report import drawing


def training(frame: pd.DataFrame, metrics: Metrics, *, logarithmic: Flag = True) -> Figure:
    """A row per setting, loss left and headline, such as accuracy, right: means with a band of one standard deviation.

    Both are over pairs, for endpoints over seeds. The loss is without the L2 penalty; that of a curve is measured at
    the points that are drawn at random in its training.

    Args:
        logarithmic: Whether the axis of the loss is logarithmic.
    """
    loss, score = metrics.loss, metrics.headline
    unit = f" ({loss.unit})" if loss.unit else ""
    texts = {loss.name: f"training {loss.function or loss.label}{unit}", score.name: score.headed("training")}
    settings = drawing.settings(frame)
    with drawing.style():
        figure, axes = drawing.sheet(len(settings), len(texts))
        for (title, rows), row in zip(settings, axes, strict=True):
            for panel, (column, text) in zip(row, texts.items(), strict=True):
                for method in drawing.methods_of(rows):
                    table = drawing.over_replicates(rows[rows["method"] == method], "epoch", [column])
                    drawing.draw(panel, table, column, **drawing.look(method))
                panel.set_title(title)
                panel.set_ylabel(text)
                panel.set_xlabel("epoch")
            if logarithmic and (rows["loss"] > 0).all():
                row[0].set_yscale("log")
            if score.logarithmic:
                drawing.make_logarithmic(row[-1])
        trained = frame[frame["method"] != "endpoints"]
        ends = frame[frame["method"] == "endpoints"]
        entries = [e for part, unit in ((ends, "seed"), (trained, "pair")) for e in _entries(part, unit)]
        drawing.legend(figure, entries)
    return figure


def _entries(rows: pd.DataFrame, unit: str) -> list:
    return drawing.method_entries(rows, unit=unit) if len(rows) else []
