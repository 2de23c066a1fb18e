"""Interactive views: the numbers they hold, what plotly accepts, and pages that load nothing."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile_configs import SMALL
from report_frames import evaluation, plane_frame, points, run, study

from neuralign.config.catalogue import Catalogue
from neuralign.config.metrics import CLASSIFICATION, metrics_of
from neuralign.report import drawing
from neuralign.report.interactive.embedding import embed, page
from neuralign.report.interactive.paths import paths_view
from neuralign.report.interactive.planes import planes_view
from neuralign.report.interactive.study import views
from neuralign.report.interactive.view import View, line_of, numbers
from neuralign.workflow.study_jobs import report

KINDS = ("initial", "curve")


def shown(view: View, **chosen: str) -> list[dict[str, Any]]:
    """The traces for some of the choices, as `views.js` chooses them."""

    def agrees(trace: Any) -> bool:
        values = ((trace["meta"].get(key, value), value) for key, value in chosen.items())
        return all(value in (meta if isinstance(meta, list) else [meta]) for meta, value in values)

    return [dict(trace) for trace in view.traces if agrees(trace)]


def resolved(view: View, trace: dict[str, Any]) -> dict[str, Any]:
    """A trace with the arrays that it names; the pairs of "hover:name" are left out."""
    arrays = {key: trace[key].partition(":")[2] or trace[key][1:] for key in ("z",) if isinstance(trace.get(key), str)}
    return {**trace, **{key: view.arrays[name] for key, name in arrays.items()}, "customdata": None}


def lines(view: View, **chosen: str) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in shown(view, **chosen) if "name" in trace}


# paths


def test_a_path_has_the_mean_the_deviation_and_the_number_of_pairs() -> None:
    view = paths_view(study(), CLASSIFICATION)
    aligned = lines(view, quantity="accuracy", attack="clean", kind="all", scale="raw")["Curve, aligned"]
    assert aligned["x"] == [0, 0.5, 1]
    assert aligned["y"] == [90, pytest.approx(np.mean([85, 86, 89]), abs=1e-4), 90]
    assert aligned["customdata"] == [[0, 3], [pytest.approx(np.std([85, 86, 89], ddof=1), abs=1e-4), 3], [0, 3]]
    assert "t = %{x:.3f}" in aligned["hovertemplate"] and "± %{customdata[0]:.2f} %" in aligned["hovertemplate"]
    assert [c.key for c in view.choices if len(c.options) > 1] == ["quantity", "scale", "kind", "alignment"]


def test_one_pair_has_no_band_and_no_deviation() -> None:
    traces = shown(paths_view(study(pairs=("1-2",)), CLASSIFICATION), quantity="loss")
    assert [trace["name"] for trace in traces] == ["Curve, unaligned", "Curve, aligned"]
    assert "±" not in traces[0]["hovertemplate"] and traces[0]["customdata"][0] == [None, 1]


def test_paths_can_be_chosen_by_kind_alignment_attack_and_setting() -> None:
    rows = study(attacks=["clean", "pgd5"])
    rows = pd.concat([rows, rows.assign(method="linear_" + rows["method"]), rows.assign(network="resnet32")])
    view = paths_view(rows, CLASSIFICATION)
    place = {"setting": "TinyTen, CIFAR-10, standard", "attack": "pgd5", "quantity": "loss", "scale": "raw"}
    assert list(lines(view, **place, kind="all", alignment="all")) == [
        "Line, unaligned",
        "Line, aligned",
        "Curve, unaligned",
        "Curve, aligned",
    ]
    assert list(lines(view, **place, kind="line", alignment="unaligned")) == ["Line, unaligned"]
    assert list(lines(view, **place, kind="curve", alignment="aligned")) == ["Curve, aligned"]


def test_a_band_that_reaches_below_zero_ends_above_it_on_a_logarithmic_axis() -> None:
    parts = [(evaluation([90, 80, 90], loss=[1, loss, 1]), run(pair=pair)) for pair, loss in (("1-2", 0.1), ("3-4", 3))]
    view = paths_view(points(*parts), CLASSIFICATION)
    bands = {s: [t for t in shown(view, quantity="loss", scale=s) if "fill" in t] for s in ("raw", "log")}
    assert [len(traces) for traces in bands.values()] == [1, 1]
    assert min(bands["raw"][0]["y"]) < 0 < min(bands["log"][0]["y"])


@pytest.mark.parametrize("method", [*drawing.LOOKS, "linear_mine", "mine", "other", "weights_activations"])
def test_lines_look_as_in_the_figures(method: str) -> None:
    look, drawn = drawing.look(method), line_of(drawing.look(method))
    assert drawn["line"]["color"] == look["color"] == drawn["marker"]["line"]["color"]
    assert (drawn["line"]["dash"] == "solid") == (look["linestyle"] == "-")


# planes


@pytest.mark.parametrize("kind", KINDS)
def test_a_plane_has_the_mean_over_pairs_at_mean_distances(kind: str) -> None:
    frame = plane_frame(pairs=3, kind=kind)
    view = planes_view([frame], CLASSIFICATION)
    nodes = frame[frame["name"].isna()]
    by = "method" if kind == "curve" else "alignment"
    traces = shown(view, quantity="accuracy", drawn="map")
    fields = [trace for trace in traces if trace["type"] == "contour"]
    assert (
        [t["meta"]["panel"] for t in fields]
        == [
            "Curve, unaligned",
            "Curve, aligned",
        ]
        if kind == "curve"
        else ["correlation"]
    )
    for trace, (_, part) in zip(fields, sorted(nodes.groupby(by), key=lambda g: g[0] == "aligned"), strict=True):
        expected = part.groupby(["t2", "t1"])[["x", "y", "accuracy"]].mean()
        assert view.arrays[trace["z"][1:]] == [
            pytest.approx(row, rel=1e-5) for row in expected["accuracy"].unstack().to_numpy().tolist()
        ]
        assert trace["x"] == pytest.approx(expected["x"].unstack().iloc[0].tolist(), rel=1e-5)
        assert trace["y"] == pytest.approx(expected["y"].unstack().iloc[:, 0].tolist(), rel=1e-5)
    (dots,) = [t for t in traces if t.get("mode") == "markers" and t["meta"]["panel"] == fields[-1]["meta"]["panel"]]
    assert len(dots["x"]) == 9 and dots["text"][0] == "θ₁, pair 0-1" and not traces[-1]["type"] == "contour"


def test_losses_have_logarithmic_colours_and_scores_do_not() -> None:
    view = planes_view([plane_frame()], CLASSIFICATION)
    (loss,) = (
        t
        for t in shown(view, quantity="loss", drawn="surface", scale="log", panel="Curve, aligned")
        if "z" in t and t["type"] == "surface"
    )
    assert loss["z"].startswith("log:") and loss["reversescale"]
    assert [10**tick for tick in loss["colorbar"]["tickvals"]] == pytest.approx(
        [float(text) for text in loss["colorbar"]["ticktext"]], rel=0.01
    )
    scores = shown(view, quantity="accuracy", drawn="surface")
    assert scores and not any("scale" in trace["meta"] for trace in scores)


def test_networks_and_curve_lie_on_the_surface() -> None:
    frame = plane_frame(pairs=1)
    view = planes_view([frame], CLASSIFICATION)
    traces = shown(view, quantity="accuracy", drawn="surface", panel="Curve, aligned")
    surface = next(t for t in traces if t["type"] == "surface")
    curve, models = (next(t for t in traces if t.get("mode") == mode) for mode in ("lines", "markers+text"))
    assert models["text"] == ["θ₁", "Pθ₂", "r(½)"] and len(curve["z"]) == 9
    values = np.array(view.arrays[surface["z"][1:]])
    for x, y, z in zip(curve["x"], curve["y"], curve["z"], strict=True):
        i, j = np.searchsorted(surface["y"], y), np.searchsorted(surface["x"], x)
        around = values[i - 1 : i + 1, j - 1 : j + 1]
        assert around.min() <= z <= around.max()


@pytest.mark.parametrize("worst", [np.inf, np.nan])
def test_a_mean_over_pairs_is_blank_where_one_of_them_has_no_finite_value(worst: float) -> None:
    frame = plane_frame()
    node = frame["name"].isna() & (frame["t1"] > 1) & (frame["t2"] > 1)
    frame.loc[node & (frame["pair"] == "0-1"), "loss"] = worst
    view = planes_view([frame], CLASSIFICATION)
    (field, *_) = (t for t in shown(view, quantity="loss", drawn="map", scale="raw") if t["type"] == "contour")
    rows = view.arrays[field["z"][1:]]
    assert [[value is None for value in row].count(True) for row in rows] == [0, 0, 0, 1, 1]
    assert 0 < field["zmin"] < field["zmax"] < np.inf


# pages


def test_plotly_knows_every_property_of_every_trace_and_layout() -> None:
    import plotly.graph_objects as go

    for view in views(
        study(attacks=["clean", "pgd5"]), [(plane_frame(kind=kind), {}) for kind in KINDS], CLASSIFICATION
    ):
        figure = go.Figure([resolved(view, dict(trace)) for trace in view.traces], view.layout)  # raises ValueError
        assert len(figure.data) == len(view.traces) > 0


def test_numbers_are_short_and_what_is_no_number_is_null() -> None:
    assert numbers(np.array([[1 / 3, np.nan], [np.inf, 12345678]])) == [[0.333333, None], [None, 12345700]]


def test_the_same_tables_give_the_same_bytes_which_cannot_end_their_script() -> None:
    first, again = (
        embed(views(study().assign(regime="</script>"), [(plane_frame(), {})], CLASSIFICATION)) for _ in range(2)
    )
    assert first == again
    (paths, planes) = re.findall(r'<script type="application/json">(.*?)</script>', first)
    assert "&" not in planes and json.loads(paths)["choices"][0]["options"][0]["value"].endswith("</script>")


class Tags(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_a_page_of_one_view_holds_plotly_and_loads_and_sends_nothing() -> None:
    from plotly.offline import get_plotlyjs

    html = page(planes_view([plane_frame()], CLASSIFICATION), "A <plane>", printed=b"png")
    (bundle,) = re.findall(r'id="plotly-bundle">([A-Za-z0-9+/=]*)<', html)
    assert gzip.decompress(base64.b64decode(bundle)).decode() == get_plotlyjs() and len(bundle) < 2.2e6
    for tag, attributes in Tags(html).found:
        assert "src" not in attributes or tag == "img" and str(attributes["src"]).startswith("data:image/png;base64,")
        assert tag not in ("link", "iframe") and "href" not in attributes
    rest = html.replace(bundle, "")
    assert "http" not in rest and 'plotlyServerURL: ""' in rest and '"sendChartToCloud"' in rest
    assert "responsive: false" in rest, "with `responsive` plotly loses the height of a figure when a window changes"
    assert "A &lt;plane&gt;" in html and base64.b64encode(b"png").decode() in html


def test_other_scores_have_their_names_and_a_logarithmic_axis_first() -> None:
    rows = study().rename(columns={"accuracy": "perplexity"}).assign(accuracy=50.0)
    view = paths_view(rows, metrics_of("next_token"))
    choices = {choice.key: [option.value for option in choice.options] for choice in view.choices}
    assert choices["quantity"][0] == "perplexity" and choices["scale"] == ["log", "raw"]


def test_the_job_of_the_report_reads_points_and_planes() -> None:
    settings = SMALL | {"planes": {"coarse": {"points": 3}}}
    grids = [{**settings["studies"]["small"]["grids"][0], "plane": "coarse"}]
    job = report(
        Catalogue(settings | {"studies": {"small": {**settings["studies"]["small"], "grids": grids}}}), "small"
    )
    assert "points" in job.inputs and len(job.inputs["planes"]) == len(job.settings["plane_runs"]) > 0
    assert {ref.output for ref in job.inputs["planes"]} == {"grid", "marks"}
    without = report(Catalogue(SMALL), "small")
    assert "planes" not in without.inputs and "plane_runs" not in without.settings
