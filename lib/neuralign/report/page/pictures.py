"""The figures of a page: their captions, which one stands beside the main finding, and which stand side by side."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from neuralign.common.quantities import Metrics
from neuralign.config.metrics import CLASSIFICATION
from neuralign.report.page.formatting import capital

TOPICS_OF_VIEWS = {"paths": ("path", "path under attack"), "planes": ("plane",)}  # figures whose numbers a view has
WIDEST_HALF = 1000  # pixels of a PNG; a wider figure has so many panels that it takes the whole width of the page


@dataclass(frozen=True)
class Picture:
    """A figure ready for the page. `number` is its place in the study, by which the page refers to it."""

    number: int
    data: str  # the PNG in base64
    caption: str
    topic: str  # figures of one topic that follow each other stand side by side
    is_wide: bool


def pictures(drawn: Sequence[tuple[bytes, Mapping[str, Any]]], metrics: Metrics = CLASSIFICATION) -> list[Picture]:
    """The figures in their order, from (PNG, the config entry that it was drawn with)."""
    return [
        Picture(
            number, b64encode(png).decode(), caption(drawing, metrics), _topic(drawing), _pixels_wide(png) > WIDEST_HALF
        )
        for number, (png, drawing) in enumerate(drawn, 1)
    ]


def main_picture(shown: Sequence[Picture]) -> Picture | None:
    """The figure that stands beside the main finding: the first one along the path on clean images."""
    return next((picture for picture in shown if picture.topic == "path"), None)


def picture_rows(shown: Sequence[Picture]) -> list[tuple[int, list[Picture]]]:
    """Figures that stand side by side, as (number of columns, figures).

    Two columns, since most come in pairs (score and loss); three for three small ones along the path; one if wide.
    """
    together = [list(same) for _, same in groupby(shown, key=lambda picture: (picture.topic, picture.is_wide))]
    return [(1 if row[0].is_wide else 3 if row[0].topic == "path" and len(row) == 3 else 2, row) for row in together]


def caption(drawing: Mapping[str, Any], metrics: Metrics = CLASSIFICATION) -> str:
    """What a figure shows, from the config entry it was drawn with; an entry's own `caption` takes precedence."""
    if "caption" in drawing:
        return str(drawing["caption"])
    attack, shown = drawing.get("attack", "clean"), metrics[str(drawing.get("column", metrics.headline.name))].label
    examples = f", on {metrics.tested()}" if metrics.noun == "images" else ""
    examples = examples if attack == "clean" else f", on test images under the attack {attack}"
    trained_on = [capital(metrics.loss.function or metrics.loss.label), metrics.headline.label]
    beside = ", and on clean images for comparison" if drawing.get("beside_clean") else ""
    which = {"all": "", "curves": "; trained curves only", "lines": "; straight lines only"}[drawing.get("show", "all")]
    shows = {
        "path": f"Test {shown} along the path from one endpoint (t = 0) to the other (t = 1){examples}{beside}{which}.",
        "signature": "Correlation of matched units on held-out data, layer by layer in order of depth, before and "
        "after alignment. A value is a mean over the units of a layer.",
        "training": f"{trained_on[0]} (left) and {trained_on[1]} (right) on the training data while training. "
        "The points of a curve are drawn at random.",
        "plane": f"Test {shown} on the plane of weight space through three models, batch-norm statistics re-estimated "
        "at every node of a grid: mean over pairs and, below, sample standard deviation (none for n = 1). A dot is a "
        "model of a pair.",
        "midpoint": "Correlation of the units of a curve's midpoint with those of both ends on held-out data, layer by "
        "layer: as they are, after the midpoint is aligned anew to that end, and of the straight line's midpoint. A "
        "value is a mean over the units of a layer, over ends and pairs.",
        "theory": "Four quantities known before a curve is trained, against the mean test loss of the trained curve: "
        "the bound on the straight line's loss, its data-dependent estimate, the distance of activations, and the "
        "mean loss of the line. "
        "One point per path; rank correlations in tables/theory.csv.",
    }
    return shows.get(str(drawing.get("use")), f"{str(drawing.get('use', 'figure')).capitalize()}.")


def _topic(drawing: Mapping[str, Any]) -> str:
    """One word for figures that are read together."""
    use = str(drawing.get("use"))
    if use == "path":
        return "path" if drawing.get("attack", "clean") == "clean" else "path under attack"
    return "networks" if use in ("signature", "midpoint", "training") else use


def _pixels_wide(png: bytes) -> int:
    """The width that the header of a PNG states (its bytes 16 to 19)."""
    return int.from_bytes(png[16:20], "big")
