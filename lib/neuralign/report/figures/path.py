"""Accuracy or loss along the path, as in the figures of Tatro et al. (2020)."""

from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuralign.config.options import Flag, Text
from neuralign.report import drawing
from neuralign.report.summary import label

UNITS = {"accuracy": "accuracy (%)", "loss": "loss (nats)"}


def path(
    frame: pd.DataFrame,
    *,
    column: Literal["accuracy", "loss"] = "accuracy",
    attack: Text = "clean",
    beside_clean: Flag = False,
    show: Literal["all", "curves", "lines"] = "all",
) -> Figure:
    """A row of panels per dataset and regime, a column per network: mean over pairs, with a band of one sd.

    Args:
        column: What is drawn.
        attack: The attack it is measured under.
        beside_clean: Whether the row of clean images is drawn above the row under attack.
        show: Straight lines, curves or both; next to lines, differences between curves are hard to see.
    """
    attacks = ["clean", attack] if beside_clean else [attack]
    frame = frame[(frame["statistics"] == "reestimated") & frame["attack"].isin(attacks)]
    if show != "all":
        frame = frame[frame["method"].str.startswith("linear_") == (show == "lines")]
    if not (frame["attack"] == attack).any():
        raise ValueError(f"no evaluation under attack '{attack}' to draw (show: {show})")
    with drawing.style():
        rows = [(d, r, a) for d, r in drawing.present(frame, ["dataset", "regime"]) for a in dict.fromkeys(attacks)]
        columns = drawing.present(frame, ["network"])
        figure, axes = drawing.sheet(len(rows), len(columns), sharex=True)
        for i, (dataset, regime, under) in enumerate(rows):
            for j, (network,) in enumerate(columns):
                panel = drawing.where(frame, dataset=dataset, regime=regime, attack=under, network=network)
                _draw(axes[i, j], panel, column)
                axes[i, j].set_title(", ".join(map(label, (network, dataset, regime))))
            images = "clean test images" if under == "clean" else f"test images under {under}"
            axes[i, 0].set_ylabel(f"{UNITS[column]}\n{images}")
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
