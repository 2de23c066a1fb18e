"""Every figure plug-in draws what it is given, in a style that stays the same."""

import inspect
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from report_frames import PLACE, load_script, plane_frame

from neuralign.config.metrics import CLASSIFICATION
from neuralign.config.plugins import plugin
from neuralign.report import drawing, figures
from neuralign.report.labels import METHODS

KINDS = sorted(p.stem for p in Path(figures.__file__).parent.glob("*.py") if p.stem != "__init__")


def path_frame(pairs=3, points=5, methods=("linear_aligned", "unaligned", "aligned"), attacks=("clean",), place=PLACE):
    t = np.linspace(0, 1, points)
    columns = {"t": t, "distance": t, "statistics": "reestimated", "loss": 1 + t, "images": 100}
    parts = [
        pd.DataFrame(columns | place | {"pair": f"{i}-{i + 1}", "method": m, "attack": a, "accuracy": 80 - 5 * t + i})
        for i in range(pairs)
        for m in methods
        for a in attacks
    ]
    stored = parts[0].iloc[[0]].assign(statistics="stored", accuracy=0)  # must not be drawn
    return pd.concat([*parts, stored], ignore_index=True)


def signature_frame(pairs=3, layers=9, alignments=("correlation",)):
    order = np.arange(layers)
    names = [f"inception_{i}.branch3.convolution{i}" for i in order]
    columns = {
        "layer": "relu",
        "order": 2 * order,
        "group": names,
        "units": 8,
        "before_sd": 0.1,
        "after_sd": 0.1,
    } | PLACE
    parts = [
        pd.DataFrame(columns | {"pair": f"{i}-{i + 1}", "alignment": a, "before": 0.1 + 0.01 * i, "after": 0.5})
        for i in range(pairs)
        for a in alignments
    ]
    return pd.concat(parts, ignore_index=True)


def training_frame(pairs=3, epochs=4):
    epoch = np.arange(1, epochs + 1)
    columns = {"epoch": epoch, "lr": 0.1, "loss": 1 / epoch, "penalty": 0.0, "accuracy": 100 - 50 / epoch} | PLACE
    parts = []
    for i in range(pairs):
        pair = f"{2 * i + 1}-{2 * i + 2}"
        parts += [pd.DataFrame(columns | {"pair": pair, "method": m}) for m in ("aligned", "unaligned")]
        parts += [pd.DataFrame(columns | {"pair": pair, "method": "endpoints", "seed": 2 * i + e}) for e in (1, 2)]
    return pd.concat(parts, ignore_index=True)


def midpoint_frame(pairs=3, layers=9, methods=("unaligned", "aligned")):
    parts = [
        pd.DataFrame({"group": [f"features.conv{j}" for j in range(layers)], "order": range(layers)} | PLACE).assign(
            pair=f"{i}-{i + 1}", method=m, end=e, series=s, correlation=0.1 * i + 0.2 * k, correlation_sd=0.1
        )
        for i in range(pairs)
        for m in methods
        for e in ("start", "end")
        for k, s in enumerate(("before", "re-aligned", "linear midpoint"))
    ]
    return pd.concat(parts, ignore_index=True)


def theory_frame(pairs=3, methods=("unaligned", "aligned"), **columns):
    rows = [
        PLACE
        | {
            "pair": f"{i}-{i + 1}",
            "method": m,
            "loss": 1 - 0.1 * i - 0.3 * j,
            "bound": 1e6 / (1 + j),
            "estimate": 9 - j,
        }
        | {"distance": 0.9 - 0.1 * j, "line_loss": 2.0 - j}
        | columns
        for i in range(pairs)
        for j, m in enumerate(methods)
    ]
    return pd.DataFrame(rows)


TINY = {
    "plane": [plane_frame(), plane_frame(pairs=1), plane_frame(kind="initial"), plane_frame(points=2)],
    "path": [path_frame(), path_frame(pairs=1), path_frame(points=1), path_frame(pairs=1, points=1)],
    "signature": [
        signature_frame(),
        signature_frame(pairs=1),
        signature_frame(layers=1),
        signature_frame(layers=61),
        signature_frame(alignments=["correlation", "weights"]),
    ],
    "midpoint": [midpoint_frame(), midpoint_frame(pairs=1, methods=["aligned"]), midpoint_frame(layers=61)],
    "theory": [theory_frame(), theory_frame(pairs=1, methods=["aligned"]), theory_frame(bound=float("nan"))],
    "training": [training_frame(), training_frame(pairs=1), training_frame(epochs=1)],
}


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(axes):
    return {line.get_color(): line for line in axes.lines if line.get_marker() != "None"}


def test_every_figure_plug_in_is_tested():
    assert sorted(TINY) == KINDS


@pytest.mark.parametrize(("kind", "case"), [(k, i) for k in sorted(TINY) for i in range(len(TINY[k]))])
def test_it_draws_states_n_and_saves_the_same_bytes(kind, case, tmp_path):
    frame = TINY[kind][case]
    saved = []
    for i in range(2):
        figure = plugin("figures", {"use": kind})(frame, CLASSIFICATION)
        paths = [tmp_path / f"{i}.png", tmp_path / f"{i}.pdf"]
        drawing.save(figure, *map(str, paths))
        saved.append([p.read_bytes() for p in paths])
    assert saved[0] == saved[1]
    assert all("n = " in text for text in texts(figure))
    assert imread(tmp_path / "0.png").std() > 0 and saved[0][1].startswith(b"%PDF")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.pdf", "0.png", "1.pdf", "1.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_keyword_only_with_defaults_and_types(kind):
    function = getattr(__import__(f"neuralign.report.figures.{kind}", fromlist=[kind]), kind)
    first, second, *options = inspect.signature(function).parameters.values()
    assert (first.name, second.name) == ("frame", "metrics") and options
    assert all(o.kind is o.KEYWORD_ONLY and o.default is not o.empty and o.annotation is not o.empty for o in options)


def test_the_path_is_the_mean_over_pairs_with_a_band_of_one_deviation():
    figure = plugin("figures", {"use": "path"})(path_frame(pairs=3, methods=["aligned"]), CLASSIFICATION)
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx(list(81 - 5 * np.linspace(0, 1, 5)))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(82) and band[:, 1].min() == pytest.approx(75)
    assert texts(figure) == ["Curve, aligned (n = 3 pairs)"]


def test_one_pair_has_no_band():
    for kind, frame in (("path", path_frame(pairs=1)), ("training", training_frame(pairs=1))):
        figure = plugin("figures", {"use": kind})(frame, CLASSIFICATION)
        bands = [axes for axes in figure.axes if axes.collections]
        assert len(bands) == (0 if kind == "path" else 2)  # endpoints are two seeds even so


def test_there_is_a_panel_per_setting_and_network_of_the_frame():
    frame = pd.concat(
        [
            path_frame(attacks=["clean", "pgd5"]),
            path_frame(attacks=["clean", "pgd5"], place=PLACE | {"network": "resnet32"}, pairs=2),
            path_frame(attacks=["clean", "pgd5"], place=PLACE | {"dataset": "cifar100"}),
        ]
    )
    figure = plugin("figures", {"use": "path", "attack": "pgd5", "beside_clean": True, "column": "loss"})(
        frame, CLASSIFICATION
    )
    assert len(figure.axes) == 8
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False, True, False]
    assert figure.axes[3].get_title() == "ResNet32, CIFAR-10, standard"
    assert figure.axes[2].get_ylabel() == "loss (nats)\ntest images under pgd5"
    assert "Curve, aligned (n = 2 to 3 pairs)" in texts(figure)


@pytest.mark.parametrize(("show", "n"), [("all", 3), ("curves", 2), ("lines", 1)])
def test_lines_and_curves_can_be_shown_apart(show, n):
    assert len(texts(plugin("figures", {"use": "path", "show": show})(path_frame(), CLASSIFICATION))) == n


def test_an_attack_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no evaluation under attack 'pgd9'"):
        plugin("figures", {"use": "path", "attack": "pgd9"})(path_frame(), CLASSIFICATION)


@pytest.mark.parametrize(("layers", "shown"), [(9, 9), (31, 31), (61, 31)])
def test_layer_labels_do_not_crowd(layers, shown):
    (axes,) = plugin("figures", {"use": "signature"})(signature_frame(layers=layers), CLASSIFICATION).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) == shown and all(len(name) <= 24 for name in names)


def test_layers_have_the_names_of_modules_and_several_reads_of_one_are_numbered():
    frame = signature_frame(layers=4).assign(layer=["relu", "stage_0_relu1", "add_1", "relu_2"] * 3)
    frame["group"] = ["conv1", "stage.0.conv1", "conv1", "stage.1.conv1"] * 3
    (axes,) = plugin("figures", {"use": "signature"})(frame, CLASSIFICATION).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "conv1 (1 of 2)",
        "stage.0.conv1",
        "conv1 (2 of 2)",
        "stage.1.conv1",
    ]


def test_clean_images_stand_left_of_those_under_attack():
    frame = path_frame(attacks=["clean", "pgd5"])
    left, right = plugin("figures", {"use": "path", "attack": "pgd5", "beside_clean": True})(frame, CLASSIFICATION).axes
    assert left.get_ylabel() == "accuracy (%)\nclean test images"
    assert right.get_ylabel() == "accuracy (%)\ntest images under pgd5"


def test_training_counts_endpoints_by_seed_and_curves_by_pair():
    figure = plugin("figures", {"use": "training"})(training_frame(), CLASSIFICATION)
    assert texts(figure) == [
        "Endpoints (n = 6 seeds)",
        "Curve, unaligned (n = 3 pairs)",
        "Curve, aligned (n = 3 pairs)",
    ]


def test_a_method_looks_the_same_everywhere_and_unlike_the_others():
    assert set(drawing.LOOKS) == set(METHODS)
    for key in ("color", "marker"):
        looks = [str(drawing.look(m)[key]) for m in METHODS]
        assert len(set(looks)) >= 4
    looks = [str(drawing.look(m)) for m in [*METHODS, "weights", "correlation", "w2_pre", "w2_post"]]
    assert len(set(looks)) == len(looks)
    curve = drawn(plugin("figures", {"use": "path"})(path_frame(), CLASSIFICATION).axes[0])
    training = drawn(plugin("figures", {"use": "training"})(training_frame(), CLASSIFICATION).axes[0])
    colour = drawing.look("aligned")["color"]
    assert curve[colour].get_marker() == training[colour].get_marker() == "o"


def test_a_frame_without_a_column_of_replicates_is_refused():
    with pytest.raises(ValueError, match="a column 'seed', 'pair' or 'run' is needed"):
        drawing.replicates(pd.DataFrame({"t": [0]}))


def test_drawing_changes_nothing_global():
    import matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = dict(matplotlib.rcParams)
        plugin("figures", {"use": "path"})(path_frame(), CLASSIFICATION)
        assert dict(matplotlib.rcParams) == before


def test_plot_reads_frames_with_their_runs(tmp_path, monkeypatch):
    runs = [{"pair": "1-2", "method": "aligned"} | PLACE, {"pair": "3-4", "method": "aligned"} | PLACE]
    frames = [str(tmp_path / f"{i}.csv") for i in range(2)]
    for i, file in enumerate(frames):
        path_frame(pairs=1).query("method == 'aligned'").drop(columns=list(runs[i])).to_csv(file, index=False)
    png, pdf = str(tmp_path / "out" / "a.png"), str(tmp_path / "out" / "a.pdf")
    plot = load_script("plot", monkeypatch)
    plot.main(frames, png, pdf, kind="path", options={"column": "loss"}, runs=runs)
    assert imread(png).shape[1] > 600 and Path(pdf).stat().st_size > 1000
    with pytest.raises(ValueError, match="figure 'path': there are no tables to draw"):
        plot.main([], png, pdf, kind="path", runs=[])


def test_a_midpoint_averages_ends_first_and_its_band_is_over_pairs():
    frame = midpoint_frame(layers=2)
    frame.loc[frame["end"] == "end", "correlation"] += 0.1
    left, right = plugin("figures", {"use": "midpoint"})(frame, CLASSIFICATION).axes
    assert [axes.get_title().split(":")[0] for axes in (left, right)] == ["Curve, unaligned", "Curve, aligned"]
    assert list(left.lines[0].get_ydata()) == pytest.approx([0.15, 0.15])
    assert left.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(0.25)


def test_a_method_that_a_setting_lacks_has_no_panel():
    other = midpoint_frame(methods=["aligned"]).assign(network="resnet32")
    figure = plugin("figures", {"use": "midpoint"})(pd.concat([midpoint_frame(), other]), CLASSIFICATION)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, False, True]


def test_theory_says_how_well_each_predictor_ranks():
    frame = theory_frame()
    wide = frame.assign(bound=10.0**frame.index)
    assert plugin("figures", {"use": "theory"})(wide, CLASSIFICATION).axes[0].get_xscale() == "log"
    figure = plugin("figures", {"use": "theory"})(frame, CLASSIFICATION)
    assert [axes.get_xscale() for axes in figure.axes] == ["linear"] * 4
    assert all(axes.get_title(loc="right").endswith("(n = 6)") for axes in figure.axes)
    points = [line for axes in figure.axes[:1] for line in axes.lines]
    assert sum(len(line.get_xdata()) for line in points) == 6


def test_signatures_of_networks_without_permutations_are_a_sentence() -> None:
    empty = pd.DataFrame(columns=["layer", "order", "alignment", "dataset", "network", "regime", "pair"])
    figure = plugin("figures", {"use": "signature"})(empty, CLASSIFICATION)
    assert [t.get_text() for axes in figure.axes for t in axes.texts] == [
        "Nothing of these networks may be permuted, so no units are matched."
    ]
