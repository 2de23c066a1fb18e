"""Pictures and pages of landscapes: every format, with one network to three, the same bytes each time."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neuralign.common.quantities import Metrics
from neuralign.config.metrics import CLASSIFICATION, metrics_of
from neuralign.report.interactive.view import View
from neuralign.report.landscape import PICTURES, Landscape, draw, measured, view, write


def landscape(models: int = 3, metrics: Metrics = CLASSIFICATION) -> Landscape:
    """A bowl around the first network: loss 1 + x² + y²."""
    places = [(t1, t2) for t2 in (-1.0, 0.0, 1.0) for t1 in (-1.0, 0.0, 1.0, 2.0)]

    def row(t1: float, t2: float) -> dict[str, Any]:
        x, y = 2 * t1, 3 * t2
        return {"x": x, "y": y, "t1": t1, "t2": t2, "loss": 1 + x**2 + y**2, "accuracy": 90 - x**2 - y**2}

    named = zip("ABC", [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)], strict=True)
    networks = [{"name": name} | row(*place) for name, place in named]
    return Landscape([row(*place) for place in places], networks[:models], metrics, "A title", "What it shows.")


def changed(shown: Landscape, value: Callable[[dict[str, Any]], dict[str, Any]]) -> Landscape:
    """With other values in the rows of the grid."""
    return replace(shown, rows=[dict(row) | value(dict(row)) for row in shown.rows])


def traces(shown: View, **chosen: str) -> list[Any]:
    return [t for t in shown.traces if all(t["meta"].get(key, value) == value for key, value in chosen.items())]


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("suffix", [*PICTURES, ".html"])
def test_every_format_is_written_twice_with_the_same_bytes(models: int, suffix: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for file in files:
        write(landscape(models), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second and len(first) > 3000
    assert first.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".html": b"<!DOCTYPE"}[suffix])
    if suffix == ".png":
        assert Image.open(BytesIO(first)).size[0] > 1000


def test_the_picture_has_a_panel_for_each_metric_with_all_networks() -> None:
    panels = [axes for axes in draw(landscape()).axes if axes.get_xlabel()]
    assert len(panels) == 2
    for panel in panels:
        assert [text.get_text() for text in panel.texts] == ["A", "B", "C"]
    loss = panels[1].collections[0].get_array().ravel().tolist()
    assert loss == [row["loss"] for row in landscape().rows]


def test_the_view_has_the_values_and_the_networks_at_their_heights() -> None:
    shown = view(landscape(2))
    assert shown.arrays["loss"] == [[14, 10, 14, 26], [5, 1, 5, 17], [14, 10, 14, 26]]
    (field,) = (t for t in traces(shown, quantity="loss", scale="raw", drawn="map") if t["type"] == "contour")
    assert (field["x"], field["y"], field["zmin"], field["zmax"]) == ([-2, 0, 2, 4], [-3, 0, 3], 1, 26)
    networks = [t for t in traces(shown, quantity="loss", scale="raw", drawn="surface") if "text" in t]
    assert [(t["text"], t["z"]) for t in networks] == [(["A", "B"], [1, 5])]


def test_only_what_was_measured_is_shown() -> None:
    assert measured(metrics_of("next_token"), ["x", "loss"]).names == ["loss"]


@pytest.mark.parametrize("suffix", [".png", ".html"])
@pytest.mark.parametrize("worst", [inf, nan])
@pytest.mark.parametrize("first", [-2.0, 1.0])
def test_values_that_are_no_numbers_are_left_blank(first: float, worst: float, suffix: str, tmp_path: Path) -> None:
    blank = changed(landscape(), lambda row: {"loss": worst if row["x"] >= first else row["loss"]})
    write(blank, tmp_path / f"it{suffix}")
    (field, *_) = (t for t in traces(view(blank), quantity="loss", drawn="map") if t["type"] == "contour")
    assert (field["zmin"] is None) == (first < 0), "no value is a number"
    assert [value is None for value in view(blank).arrays["loss"][0]] == [x >= first for x in (-2, 0, 2, 4)]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_flat_and_steep_planes_are_stretched_to_pictures_of_a_usual_size(factor: float) -> None:
    width, height = draw(changed(landscape(), lambda row: {"y": row["y"] * factor})).get_size_inches()
    assert 0.2 < height / width < 1.2


def test_the_picture_shows_the_window_though_networks_lie_beside_it() -> None:
    beside = changed(landscape(), lambda row: {"t2": row["t2"] + 5, "y": row["y"] + 15})
    for panel in (axes for axes in draw(beside).axes if axes.get_xlabel()):
        assert panel.get_ylim() == (12, 18) and panel.get_xlim() == (-2, 4)
