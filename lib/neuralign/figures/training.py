"""Training curves: loss and accuracy on the training set against the epoch."""

import pandas as pd
from matplotlib.figure import Figure

from neuralign import figures
from neuralign.options import Flag
from neuralign.summary import label

PANELS = {"loss": "training cross-entropy (nats)", "accuracy": "training accuracy (%)"}


def training(frame: pd.DataFrame, *, logarithmic: Flag = True) -> Figure:
    """A row per setting, loss left and accuracy right: mean over pairs (endpoints: seeds), with a band of one sd.

    The loss is the cross-entropy without the L2 term; a curve's is that of points drawn at random along it.
    """
    settings = figures.present(frame, ["dataset", "network", "regime"])
    with figures.style():
        figure, axes = figures.sheet(len(settings), 2, width=3.4)
        for (dataset, network, regime), row in zip(settings, axes, strict=True):
            rows = figures.where(frame, dataset=dataset, network=network, regime=regime)
            for panel, (column, text) in zip(row, PANELS.items(), strict=True):
                for method in figures.methods_of(rows):
                    table = figures.over_replicates(rows[rows["method"] == method], "epoch", [column])
                    figures.draw(panel, table, column, **figures.look(method))
                panel.set_title(", ".join(map(label, (network, dataset, regime))))
                panel.set_ylabel(text)
                panel.set_xlabel("epoch")
            if logarithmic and (rows["loss"] > 0).all():
                row[0].set_yscale("log")
        trained = frame[frame["method"] != "endpoints"]
        ends = frame[frame["method"] == "endpoints"]
        entries = [e for part, unit in ((ends, "seed"), (trained, "pair")) for e in _entries(part, unit)]
        figures.legend(figure, entries)
    return figure


def _entries(rows: pd.DataFrame, unit: str) -> list:
    return figures.method_entries(rows, unit=unit) if len(rows) else []
