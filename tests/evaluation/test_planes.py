"""Planes through three models: geometry, evaluation, the jobs of a study, and the figure."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from hostile_configs import SMALL
from report_frames import plane_frame
from tiny import assert_same, pictures, plain, randomised, small
from torch import Tensor

from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.metrics import CLASSIFICATION
from neuralign.curves.curve import Curve
from neuralign.curves.endpoints import endpoints_of
from neuralign.curves.families.bezier import bezier
from neuralign.curves.families.segment import segment
from neuralign.datasets.images import as_float
from neuralign.evaluation.along_curve import measure_curve
from neuralign.evaluation.on_plane import Plane, covering, grid, landscape, marks, plane_through
from neuralign.report import drawing
from neuralign.report.figures.plane import plane as draw
from neuralign.training.batch_norm import Estimate
from neuralign.workflow.graph import job
from neuralign.workflow.study_jobs import artefacts

CORNERS = [(0.0, 0.0), (1.0, 0.0)]  # (t1, t2) of the first two models; the third has t2 = 1


def points(d: int = 50, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return list(torch.randn(3, d, dtype=dtype))


def third_corner(plane: Plane) -> tuple[float, float]:
    return (plane.corners[2, 0] / plane.corners[1, 0]).item(), 1.0


# geometry


def test_the_plane_of_a_right_triangle_is_known() -> None:
    origin = torch.tensor([1.0, 1.0, 1.0])
    plane = plane_through(origin, origin + torch.tensor([3.0, 0, 0]), origin + torch.tensor([1.0, 0, 2.0]))
    assert plane.axes.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert plane.corners.tolist() == [[0, 0], [3, 0], [1, 2]]
    assert plane.unit == (3, 2)
    assert plane(1, 0.5).tolist() == [4, 1, 2]
    assert plane.place(torch.tensor([2.5, 5, 2])) == {"x": 1.5, "y": 1, "t1": 0.5, "t2": 0.5, "off_plane": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corners_are_the_models_to_the_bit(dtype: torch.dtype) -> None:
    models = points(dtype=dtype)
    plane = plane_through(*models)
    for model, corner in zip(models, [*CORNERS, third_corner(plane)], strict=True):
        assert torch.equal(plane(*corner), model)


def test_axes_are_orthonormal_and_coordinates_distances() -> None:
    origin, second, _ = models = points(100_000)
    for plane in (
        plane_through(*models),
        plane_through(origin, second, torch.lerp(origin, second, 0.5) + 1e-3 * models[2]),
    ):
        torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-13)
        one, other = plane(0.2, 0.9), plane(0.7, 0.1)
        width, height = plane.unit
        assert (one - other).norm().item() == pytest.approx(((0.5 * width) ** 2 + (0.8 * height) ** 2) ** 0.5, rel=1e-4)


def test_place_is_the_inverse_of_the_plane() -> None:
    plane = plane_through(*points(dtype=torch.float64))
    actual = plane.place(plane(0.3, 1.2))
    assert (actual["t1"], actual["t2"], actual["off_plane"]) == pytest.approx((0.3, 1.2, 0))
    away = torch.linalg.svd(torch.cat([plane.axes, torch.randn(1, 50, dtype=torch.float64)])).Vh[-1]
    away -= plane.axes.T @ (plane.axes @ away)
    actual = plane.place(plane(0.3, 1.2) + 2 * away / away.norm())
    assert (actual["t1"], actual["t2"], actual["off_plane"]) == pytest.approx((0.3, 1.2, 2))


def test_a_curve_of_one_bend_lies_in_its_plane_and_one_of_two_does_not() -> None:
    start, end, bend = points(dtype=torch.float64)
    curve = Curve(bezier, torch.stack([start, end]), bend[None])
    plane = plane_through(start, end, curve(0.5))
    rows = list(marks(plane, {"theta1": start, "midpoint": curve(0.5)}, curve, points=5))
    assert [(r["name"], r["t"]) for r in rows[:2]] == [("theta1", None), ("midpoint", None)]
    assert [(r["name"], r["t"]) for r in rows[2:]] == [("curve", t) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert max(row["off_plane"] for row in rows) < 1e-12
    assert [row["t2"] for row in rows[2:]] == pytest.approx([0, 0.75, 1, 0.75, 0])  # 4 t (1 - t)
    twice = Curve(lambda t: bezier(t, bends=2), curve.ends, torch.stack([bend, bend.roll(1)]))
    rows = list(marks(plane_through(start, end, twice(0.5)), {}, twice, points=5))
    assert rows[0]["off_plane"] < 1e-12 < 0.1 < rows[1]["off_plane"]


@pytest.mark.parametrize(("i", "j"), [(1, 2), (1, 3), (2, 3)])
def test_two_equal_models_span_no_plane(i: int, j: int) -> None:
    models = points()
    models[j - 1] = models[i - 1].clone()
    with pytest.raises(ValueError, match=f"its points {i} and {j} are the same model"):
        plane_through(*models)


@pytest.mark.parametrize("at", [0.5, -1.0, 2.0])
def test_models_on_a_line_span_no_plane(at: float) -> None:
    start, end, _ = points(10_000)
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(start, end, torch.lerp(start, end, at))
    line = Curve(segment, torch.stack([start, end]), start.new_empty(0, len(start)))
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(start, end, line(0.5))


def test_the_grid_goes_row_by_row_and_meets_its_ends() -> None:
    assert grid([-1, 1], [0, 4], 3) == [(x, y) for y in (0, 2, 4) for x in (-1, 0, 1)]
    assert len(grid([-0.05, 1.05], [-0.1, 1.5], 17)) == 289


WINDOW = [-0.05, 1.05], [-0.1, 1.5]


def plane_with_third_above(t1: float) -> Plane:
    """A plane whose third model lies above t1 on the axis through the first two."""
    origin = torch.tensor([1.0, 1.0, 1.0])
    return plane_through(origin, origin + torch.tensor([4.0, 0, 0]), origin + torch.tensor([4 * t1, 0, 2.0]))


@pytest.mark.parametrize("t1", [-0.05, 0.0, 0.5, 1.0, 1.05])
@pytest.mark.parametrize("points", [2, 3, 17])
def test_a_plane_whose_models_lie_in_the_window_has_the_grid_of_the_window(t1: float, points: int) -> None:
    assert covering(plane_with_third_above(t1), *WINDOW, points) == grid(*WINDOW, points)


@pytest.mark.parametrize("t1", [-3.0, -0.06, 1.06, 1.4, 7.25])
@pytest.mark.parametrize("points", [2, 3, 17])
def test_a_grid_is_extended_until_it_contains_the_third_model(t1: float, points: int) -> None:
    places, window = covering(plane_with_third_above(t1), *WINDOW, points), grid(*WINDOW, points)
    columns, rows = (sorted({place[i] for place in places}) for i in (0, 1))
    assert places == [(x, y) for y in rows for x in columns]
    assert set(window) < set(places) and rows == sorted({y for _, y in window})
    gaps = torch.tensor(columns, dtype=torch.float64).diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1.1 / (points - 1)))
    assert columns[0] <= t1 <= columns[-1]
    assert t1 < columns[1] or columns[-2] < t1, "and no more"


def test_wider_grids_agree_where_they_overlap() -> None:
    narrow, wide, other = (set(covering(plane_with_third_above(t1), *WINDOW, 17)) for t1 in (1.2, 2.9, -0.7))
    assert narrow < wide and narrow & other == set(grid(*WINDOW, 17))


@pytest.mark.parametrize("window", [([0.4, 0.6], [-0.1, 1.5]), ([-0.05, 0.9], [0, 1]), ([0, 1], [-0.1, 0.5])])
def test_a_window_that_leaves_out_a_model_is_not_extended(window: tuple[list[float], list[float]]) -> None:
    assert covering(plane_with_third_above(2.0), *window, 5) == grid(*window, 5)


# evaluation


def test_corners_are_evaluated_as_the_models_are() -> None:
    model = small("tinyten")
    images, states = pictures(12), [randomised(model.network, seed) for seed in (1, 2, 3)]
    ends = endpoints_of(model, states, as_float(images.pixels))
    flat = ends.vectors
    plane = plane_through(*flat)
    estimate = Estimate.on(pictures(16, seed=1), plain, batch_size=8, seed=1)
    before = [{name: t.clone() for name, t in stored.items()} for stored in ends.stored]
    places = [*CORNERS, third_corner(plane), (0.5, 0.5)]
    rows = list(landscape(model, plane, ends, places, estimate, images, batch_size=5))
    assert [list(row) for row in rows] == [["x", "y", "t1", "t2", "loss", "accuracy", "images"]] * 4
    assert [(row["x"], row["y"]) for row in rows[:2]] == [(0, 0), (plane.unit[0], 0)]
    assert (rows[2]["x"], rows[2]["y"]) == pytest.approx(plane.corners[2].tolist())
    for row, corner, state in zip(rows, flat, states, strict=False):
        line = Curve(segment, torch.stack([corner, flat[0]]), corner.new_empty(0, len(corner)))
        two = endpoints_of(model, (state, states[0]), as_float(images.pixels))
        (at_corner, _) = measure_curve(model, line, two, [0.0], estimate, images, {"clean": None}, batch_size=5, seed=1)
        columns = ("loss", "accuracy", "images")
        assert {name: row[name] for name in columns} == {name: at_corner[name] for name in columns}
    for stored, expected in zip(ends.stored, before, strict=True):
        assert_same(stored, expected)


# config


PROTOCOL = {"points": 3, "images": 64}


def config(**changes) -> dict:
    settings = copy.deepcopy(SMALL) | {"planes": {"coarse": dict(PROTOCOL)}}
    settings["methods"]["line"] = {"alignment": "correlation", "curve": "linear"}
    settings["studies"]["small"]["grids"][0] |= {"method": ["unaligned", "line", "aligned"], "plane": "coarse"}
    settings["planes"]["coarse"] |= changes
    return settings


def test_defaults_are_the_papers() -> None:
    entry = Catalogue(config()).entry("planes", "coarse")
    assert entry["initial"] == {"t1": [-0.05, 1.05], "t2": [-0.05, 1.05]}
    assert entry["curve"] == {"t1": [-0.05, 1.05], "t2": [-0.1, 1.5]}
    assert (entry["points"], entry["batch_size"], entry["images"], entry["augment"]) == (3, 512, 64, True)
    assert entry["full_passes"] is None
    half = Catalogue(config(curve={"t1": [0, 1]})).entry("planes", "coarse")
    assert half["curve"] == {"t1": [0, 1], "t2": [-0.1, 1.5]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 1}, "planes.coarse.points: found 1: input should be greater than or equal to 2"),
        ({"poins": 4}, "planes.coarse: unknown key 'poins'; did you mean 'points'?"),
        ({"curve": {"t2": [1, 0]}}, "planes.coarse.curve.t2: found [1, 0]: the smaller number comes first"),
        ({"curve": {"t2": [1, 1]}}, "planes.coarse.curve.t2: found [1, 1]: the smaller number comes first"),
        ({"initial": {"t3": [0, 1]}}, "planes.coarse.initial: unknown key 't3' (allowed: t1, t2)"),
        ({"initial": {"t1": [0]}}, "planes.coarse.initial.t1: found [0]: list should have at least 2 items"),
        ({"full_passes": 4}, "planes.coarse.full_passes: found 4: must be at most points, 3"),
        ({"images": 0}, "planes.coarse.images: found 0: input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_protocol_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Catalogue(config(**changes))
    assert message in str(error.value)


def test_a_grid_names_an_entry_or_none() -> None:
    wrong = config()
    wrong["studies"]["small"]["grids"][0]["plane"] = "corse"
    with pytest.raises(
        ConfigError, match=r"grids\[0\].plane: no such entry of 'planes': 'corse'; did you mean 'coarse'"
    ):
        Catalogue(wrong)


# jobs


def plotted(catalogue: Catalogue) -> dict[str, list[tuple[str, str]]]:
    """{figure: [(output, wildcards joined by slashes)]} of the planes of the study."""
    from neuralign.workflow.study_jobs import figures as of

    planes = {name: frames for name, (kind, _, frames) in of(catalogue, "small").items() if kind == "plane"}
    keys = ("pair", "alignment", "through", "plane")
    return {
        n: [(r.output, "/".join(dict(r.wildcards)[k] for k in keys)) for _, r in frames] for n, frames in planes.items()
    }


def test_the_plan_has_one_plane_for_each_alignment_and_one_for_each_curve() -> None:
    catalogue = Catalogue(config())
    names = ("pair", "alignment", "through")
    wildcards = [dict(r.wildcards) for r in artefacts(catalogue, "small") if r.rule == "plane"]
    assert sorted("/".join(w[name] for name in names) for w in wildcards) == sorted(
        f"{pair}/{rest}"
        for pair, seed in (("1-2", 1), ("3-4", 2))
        for rest in ("correlation/initial", f"correlation/bezier/{seed}", f"none/bezier/{seed}")
    )
    planes = plotted(catalogue)
    assert list(planes) == [
        f"plane_{k}_{c}_digits_standard" for k in ("initial", "curve") for c in ("accuracy", "loss")
    ]
    assert planes["plane_initial_loss_digits_standard"] == [
        (output, f"{pair}/correlation/initial/coarse") for pair in ("1-2", "3-4") for output in ("grid", "marks")
    ]


def test_without_the_key_there_are_no_planes() -> None:
    plain_config = config()
    del plain_config["studies"]["small"]["grids"][0]["plane"]
    catalogue = Catalogue(plain_config)
    assert not plotted(catalogue) and not [r for r in artefacts(catalogue, "small") if r.rule == "plane"]


def test_a_job_knows_its_own_window_only() -> None:
    catalogue = Catalogue(config())
    place = {"dataset": "digits", "network": "tinyten", "regime": "standard", "pair": "1-2", "plane": "coarse"}
    initial = job(catalogue, "plane", place | {"alignment": "correlation", "through": "initial"})
    assert initial.settings["window"]["t2"] == [-0.05, 1.05] and "curve" not in initial.settings
    assert set(initial.inputs) == {"data", "target", "source", "permutation"}
    curve = job(catalogue, "plane", place | {"alignment": "none", "through": "bezier/7"})
    assert curve.settings["window"]["t2"] == [-0.1, 1.5] and ("curves", "bezier") in curve.plugins
    assert set(curve.inputs) == {"data", "target", "source", "bends"}
    assert dict(curve.inputs["bends"].wildcards)["curve_seed"] == "7"
    other = Catalogue(config(curve={"t2": [0, 3]}))
    assert job(other, "plane", place | {"alignment": "correlation", "through": "initial"}) == initial
    assert job(other, "plane", place | {"alignment": "none", "through": "bezier/7"}) != curve


# the figure


@pytest.mark.parametrize("column", ["accuracy", "loss"])
@pytest.mark.parametrize("kind", ["initial", "curve"])
@pytest.mark.parametrize("pairs", [1, 3])
def test_the_figure_is_drawn_without_warnings(tmp_path: Path, pairs: int, kind: str, column: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(plane_frame(pairs=pairs, kind=kind), CLASSIFICATION, column=column)
        drawing.save(figure, str(tmp_path / "a.png"), str(tmp_path / "a.pdf"))
    rows, columns = (1 if pairs == 1 else 2), (1 if kind == "initial" else 2)
    assert len([axes for axes in figure.axes if axes.get_title()]) == rows * columns
    assert f"5 × 5 nodes, n = {pairs} pair" in figure.legends[0].get_texts()[0].get_text()
    symbols = [text.get_text() for text in figure.axes[0].texts]
    last = [r"$P\theta_2$"] if kind == "initial" else [r"$r(1/2)$"]
    assert symbols == [r"$\theta_1$", r"$\theta_2$", *last]


def test_an_alignment_is_not_called_like_the_method_of_its_name() -> None:
    figure = draw(plane_frame(kind="initial").assign(alignment="pam_aligned"), CLASSIFICATION)
    assert figure.axes[0].get_title() == "TinyTen, CIFAR-10: pam aligned"


def test_methods_of_a_network_share_their_colours_and_networks_do_not() -> None:
    frame = plane_frame(kind="curve", networks=("tinyten", "resnet32"))
    frame.loc[(frame["network"] == "resnet32"), "accuracy"] /= 2
    figure = draw(frame, CLASSIFICATION, column="accuracy", spread=False)
    ranges = [axes.collections[0].get_clim() for axes in figure.axes if axes.get_title()]
    assert ranges[0] == ranges[1] != ranges[2] == ranges[3]


def test_the_figure_shows_the_mean_over_pairs_at_mean_distances() -> None:
    frame = plane_frame(pairs=3, kind="initial")
    mesh = draw(frame, CLASSIFICATION, column="accuracy").axes[0].collections[0]
    nodes = frame[frame["name"].isna()]
    expected = nodes.groupby(["t2", "t1"])[["x", "accuracy"]].mean()
    assert mesh.get_array().ravel().tolist() == pytest.approx(expected["accuracy"].tolist())
    assert mesh.get_coordinates()[..., 0].ravel().tolist() == pytest.approx(expected["x"].tolist())


def test_columns_that_some_planes_have_are_means_over_these_and_the_axes_stay_those_of_all_pairs() -> None:
    frame = plane_frame(pairs=3, kind="initial")
    last = frame["name"].isna() & (frame["t1"] == frame["t1"].max()) & (frame["pair"] != "0-1")  # another pair has it
    frame = frame.drop(frame.index[last])
    figure = draw(frame, CLASSIFICATION, column="accuracy")
    mean, sd = (axes.collections[0] for axes in figure.axes[:2])
    nodes = frame[frame["name"].isna()]
    expected = nodes.groupby(["t2", "t1"])["accuracy"].mean().unstack()
    assert mean.get_array().reshape(5, 5).tolist() == [pytest.approx(row) for row in expected.to_numpy().tolist()]
    assert sd.get_array().size == 5 * 4, "one pair has no spread"
    x = mean.get_coordinates()[0, :, 0]
    assert x.tolist() == pytest.approx([21 * t1 for t1 in expected.columns])  # 20, 21 and 22 are the pairs' distances
