"""Correlation of the units of a curve's midpoint with those of its ends, layer by layer."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import NonNegativeInt
from neuralign.report import drawing
from neuralign.report.labels import label

# series -> (label, look); the colours are not those of methods, which have a column of panels each
SERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "before": ("Midpoint of the trained curve", {"color": "#444444", "marker": "D", "linestyle": "-"}),
    "re-aligned": ("The same, re-aligned to the end", {"color": "#5B3A8C", "marker": "X", "linestyle": "--"}),
    "linear midpoint": ("Midpoint of the straight line", {"color": "#999999", "marker": "<", "linestyle": ":"}),
}


def midpoint(frame: pd.DataFrame, metrics: Metrics, *, labels: NonNegativeInt = 20) -> Figure:
    """A row of panels per setting, a column per method: mean correlation, with a band of one standard deviation.

    The mean is over the units of a layer, both ends and all pairs; the standard deviation is over pairs. Activations
    are those of held-out examples.

    Args:
        labels: Largest number of tick labels.
    """
    settings = drawing.settings(frame)
    methods = drawing.methods_of(frame)
    with drawing.style():
        figure, axes = drawing.sheet(len(settings), len(methods), height=2.5, sharey="row")
        for (title, rows), row in zip(settings, axes, strict=True):
            for method, panel in zip(methods, row, strict=True):
                of_method = rows[rows["method"] == method]
                if of_method.empty:
                    panel.set_visible(False)
                    continue
                for series, (_, look) in SERIES.items():
                    values = of_method[of_method["series"] == series].assign(value=lambda d: d["correlation"])
                    table = drawing.over_replicates(values, "order", ["value"])
                    drawing.draw(panel, table, "value", markers=99, **look)
                panel.set_title(f"{label(method)}:\n{title}")
                panel.axhline(0, color="#888888", linewidth=0.6)
                drawing.name_layers(panel, drawing.layer_names(of_method), labels)
            row[0].set_ylabel("correlation of matched units\nwith an end of the path")
        n = drawing.counted(frame, "pair")
        drawing.legend(figure, [(f"{text} ({n})", look) for text, look in SERIES.values()])
    return figure
