"""Correlation signatures: the mean correlation of matched units, layer by layer, before and after alignment."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import NonNegativeInt
from neuralign.report import drawing
from neuralign.report.labels import alignment_label

NARROW, WIDE = 5.4, 6.9  # inches, with few and with many layers


def signature(frame: pd.DataFrame, metrics: Metrics, *, labels: NonNegativeInt = 32) -> Figure:
    """A panel per setting: mean correlation of each layer's matched units, with a band of one standard deviation.

    The mean is over the units of a layer and over pairs; the standard deviation is over pairs. Activations are those of
    held-out examples. If nothing of the networks may be permuted, the figure says so.

    Args:
        labels: Largest number of tick labels.
    """
    if frame.empty:
        return _empty()
    names = list(dict.fromkeys(frame["alignment"]))
    settings = drawing.settings(frame)
    with drawing.style():
        shown = min(labels, frame["order"].nunique())
        figure, axes = drawing.sheet(len(settings), 1, width=min(max(NARROW, 0.22 * shown), WIDE), height=2.5)
        for (title, rows), panel in zip(settings, axes[:, 0], strict=True):
            _draw(panel, rows, names, labels)
            panel.set_title(title)
            panel.set_ylabel("correlation of\nmatched units")
        n = drawing.counted(frame, "pair")
        after = [(f"After alignment: {alignment_label(a)} ({n})", _look(a, names)) for a in names]
        drawing.legend(figure, [(f"Before alignment ({n})", drawing.look("unaligned")), *after])
    return figure


def _empty() -> Figure:
    with drawing.style():
        figure, axes = drawing.sheet(1, 1, width=NARROW, height=1.0)
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, "Nothing of these networks may be permuted, so no units are matched.", ha="center")
    return figure


def _look(alignment: str, names: list[str]) -> dict:
    return drawing.look("aligned" if len(names) == 1 else alignment)


def _draw(axes: Axes, rows: pd.DataFrame, names: list[str], labels: int) -> None:
    layers = drawing.layer_names(rows)
    # the values before alignment are the same in the rows of every alignment
    before = drawing.over_replicates(rows[rows["alignment"] == rows["alignment"].iloc[0]], "order", ["before"])
    drawing.draw(axes, _by_position(before, layers), "before", markers=99, **drawing.look("unaligned"))
    for alignment in (name for name in names if (rows["alignment"] == name).any()):
        after = drawing.over_replicates(rows[rows["alignment"] == alignment], "order", ["after"])
        drawing.draw(axes, _by_position(after, layers), "after", markers=99, **_look(alignment, names))
    drawing.name_layers(axes, layers, labels)
    axes.axhline(0, color="#888888", linewidth=0.6)


def _by_position(table: pd.DataFrame, layers: pd.Series) -> pd.DataFrame:
    """The table indexed by position on the x axis instead of `order`, which may have gaps."""
    return table.set_index(layers.index.get_indexer(table.index))
