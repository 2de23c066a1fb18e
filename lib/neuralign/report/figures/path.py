"""A score or the loss against the position on the path, as in the figures of Tatro et al. (2020)."""

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuralign.common.quantities import Metrics
from neuralign.config.options import Flag, Text
from neuralign.report import drawing
from neuralign.report.labels import label


def path(
    frame: pd.DataFrame,
    metrics: Metrics,
    *,
    column: Text = "accuracy",
    attack: Text = "clean",
    beside_clean: Flag = False,
    show: Literal["all", "curves", "lines"] = "all",
) -> Figure:
    """Panels in a row per dataset and regime, a column per network: mean over pairs with a band of one sample sd.

    Args:
        column: What is drawn: a quantity that the objective measures.
        attack: The attack under which it is measured; `clean`: none.
        beside_clean: Whether clean images get panels too: left of those under attack, or above them if there are
            several networks.
        show: Straight lines, curves or both. Beside straight lines, differences between curves are hard to see.
    """
    attacks = ["clean", attack] if beside_clean else [attack]
    frame = frame[(frame["statistics"] == "reestimated") & frame["attack"].isin(attacks)]
    if show != "all":
        frame = frame[frame["method"].str.startswith("linear_") == (show == "lines")]
    if not (frame["attack"] == attack).any():
        raise ValueError(f"no evaluation under attack '{attack}' to draw (show: {show})")
    settings = [{"dataset": d, "regime": r} for d, r in drawing.present(frame, ["dataset", "regime"])]
    networks = [{"network": n} for (n,) in drawing.present(frame, ["network"])]
    images = [{"attack": a} for a in dict.fromkeys(attacks)]
    rows, columns = [s | i for s in settings for i in images], networks
    if len(networks) == 1:
        rows, columns = settings, [networks[0] | i for i in images]
    with drawing.style():
        figure, axes = drawing.sheet(len(rows), len(columns), sharex=True)
        for row, panels in zip(rows, axes, strict=True):
            for place, panel in zip([row | c for c in columns], panels, strict=True):
                _draw(panel, drawing.where(frame, **place), column)
                panel.set_title(", ".join(label(place[key]) for key in ("network", "dataset", "regime")))
                if panel is panels[0] or len(networks) == 1:
                    attack_name = place["attack"]
                    shown = metrics.tested() if attack_name == "clean" else f"test images under {attack_name}"
                    panel.set_ylabel(f"{metrics[column].headed()}\n{shown}")
                if metrics[column].logarithmic:
                    drawing.make_logarithmic(panel)
        for panel in axes[-1]:
            panel.set_xlabel("position t on the path")
        drawing.legend(figure, drawing.method_entries(frame))
    return figure


def _draw(axes: Axes, panel: pd.DataFrame, column: str) -> None:
    axes.set_visible(len(panel) > 0)
    for method in drawing.methods_of(panel):
        table = drawing.over_replicates(panel[panel["method"] == method], "t", [column])
        drawing.draw(axes, table, column, **drawing.look(method))
    axes.set_xlim(-0.02, 1.02)
