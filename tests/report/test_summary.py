"""Tables with known answers, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
from report_frames import RUN, evaluation, load_script, only, points, run, study

from neuralign.report import summary
from neuralign.report.labels import label, rank


def test_a_constant_accuracy_is_its_own_mean():
    row = only(summary.paths(points((evaluation([70, 70, 70, 70]), run()))))
    assert row["accuracy_mean"] == row["accuracy_min"] == row["accuracy_max"] == 70
    assert row["accuracy_barrier"] == row["loss_barrier"] == 0
    assert row["n_points"] == 4 and row["images"] == 1000


def test_the_mean_is_by_arc_length_not_by_t():
    row = only(summary.paths(points((evaluation([10, 90, 90], distance=[0, 1, 4]), run()))))
    assert row["accuracy_mean"] == pytest.approx((50 * 1 + 90 * 3) / 4)
    assert row["length"] == 4


def test_a_linear_ramp_over_unequal_distances():
    distance = np.array([0, 0.1, 0.7, 0.75, 2.0])
    row = only(summary.paths(points((evaluation(40 + 10 * distance, distance=distance), run()))))
    assert row["accuracy_mean"] == pytest.approx(50)
    assert (row["accuracy_min_t"], row["accuracy_max_t"]) == (0, 1)


def test_the_barriers_of_a_parabola():
    t = np.linspace(0, 1, 65)
    row = only(
        summary.paths(points((evaluation(80 + 2 * t - 40 * t * (1 - t), loss=1 + t + 8 * t * (1 - t), t=t), run())))
    )
    best = 9 / 16  # where 1 + t + 8 t (1 - t) is largest
    assert row["loss_max_t"] == best
    assert row["loss_barrier"] == pytest.approx(1 + best + 8 * best * (1 - best) - 2)
    assert row["accuracy_barrier"] == pytest.approx(80 - row["accuracy_min"])


def test_a_path_of_length_zero_has_the_plain_average():
    row = only(summary.paths(points((evaluation([10, 20, 60], distance=[0, 0, 0]), run()))))
    assert row["accuracy_mean"] == pytest.approx(30) and row["length"] == 0


def test_the_robust_extremes_come_with_the_clean_accuracy_there():
    clean = evaluation([90, 80, 85, 90])
    attacked = evaluation([40, 30, 20, 41], attack="pgd5", stored=False)
    rows = points((pd.concat([clean, attacked]), run()))
    row = only(summary.robust(rows, summary.paths(rows)), method="aligned")
    assert (row["worst_accuracy"], row["worst_clean"], row["worst_t"]) == (20, 85, pytest.approx(2 / 3))
    assert (row["best_accuracy"], row["best_clean"], row["best_t"]) == (41, 90, 1)
    ends = only(summary.robust(rows, summary.paths(rows)), method="endpoints")
    assert (ends["accuracy_mean"], ends["clean_mean"], ends["n_endpoints"]) == (40.5, 90, 2)


def test_a_network_in_several_pairs_is_one_endpoint():
    level = {"1": 88.0, "2": 89.0, "3": 90.0}
    parts = [
        (evaluation([level[pair[0]], 70, level[pair[2]]]), run(pair=pair, method=method))
        for pair in ("1-2", "1-3", "2-3")
        for method in ("aligned", "unaligned")
    ]
    row = only(summary.accuracy(rows := points(*parts), summary.paths(rows)), method="endpoints")
    assert (row["accuracy_mean"], row["accuracy_mean_std"]) == (89, 1)
    assert (row["n_endpoints"], row["n_pairs"]) == (3, 3)


def test_the_accuracy_table_has_these_columns_and_this_order():
    rows = study()
    table = summary.accuracy(rows, summary.paths(rows))
    first = "dataset network regime method accuracy_mean accuracy_mean_std accuracy_min accuracy_min_std n_pairs"
    assert list(table)[:9] == first.split()
    more = (
        "n_endpoints published_mean published_mean_std published_min published_min_std published_source length images"
    )
    more += " stored_accuracy_mean stored_accuracy_std loss_mean loss_mean_std loss_max loss_max_std loss_barrier"
    assert set(more.split()) <= set(table)
    assert list(table["method"]) == ["endpoints", "unaligned", "aligned"]


def test_the_deviation_is_that_of_a_sample_over_pairs():
    rows = study()
    table = summary.accuracy(rows, summary.paths(rows))
    row = only(table, method="aligned")
    assert row["accuracy_min"] == pytest.approx(np.mean([85, 86, 89]))
    assert row["accuracy_min_std"] == pytest.approx(np.std([85, 86, 89], ddof=1))
    assert row["n_pairs"] == 3 and pd.isna(row["n_endpoints"])
    ends = only(table, method="endpoints")
    assert (ends["accuracy_mean"], ends["stored_accuracy_mean"], ends["n_endpoints"]) == (90, 89, 6)


def test_one_pair_has_no_deviation_and_no_interval():
    rows = study(pairs=["1-2"])
    paths = summary.paths(rows)
    row = only(summary.accuracy(rows, paths), method="aligned")
    assert row["n_pairs"] == 1 and np.isnan(row["accuracy_mean_std"])
    row = only(summary.contrasts(paths), metric="accuracy_min")
    assert row["difference"] == 5 and np.isnan(row["ci_low"]) and row["reason"] == "one pair: no spread to estimate"


def test_several_curve_seeds_of_a_pair_count_once():
    parts = [(evaluation([90, dip, 90]), run(curve_seed=seed)) for seed, dip in ((1, 80), (2, 84))]
    row = only(summary.accuracy(points(*parts), summary.paths(points(*parts))), method="aligned")
    assert row["n_pairs"] == 1 and row["accuracy_min"] == 82


def test_published_values_stand_beside_the_standard_regime_only():
    rows = points((evaluation([90, 88, 90]), run()), (evaluation([90, 88, 90]), run(regime="robust")))
    table = summary.accuracy(rows, summary.paths(rows))
    row = only(table, regime="standard", method="aligned")
    assert (row["published_mean"], row["published_min"], row["published_min_std"]) == (88.5, 87.8, 0.1)
    assert only(table, regime="standard", method="endpoints")["published_mean"] == 89.0
    assert table.loc[table["regime"] == "robust", "published_mean"].isna().all()
    table = summary.accuracy(rows, summary.paths(rows), compared=["robust"])
    assert only(table, regime="robust", method="aligned")["published_mean"] == 88.5


def test_other_methods_follow_alphabetically():
    names = ["weights", "aligned", "endpoints", "barycentre", "linear_aligned"]
    assert sorted(names, key=rank) == ["endpoints", "linear_aligned", "aligned", "barycentre", "weights"]
    lines = ["aligned", "linear_transport", "linear_cosine", "linear_unaligned", "linear_aligned"]
    ordered = ["linear_unaligned", "linear_aligned", "linear_cosine", "linear_transport", "aligned"]
    assert sorted(lines, key=rank) == ordered and label("linear_cosine") == "Line, cosine"


def test_contrasts_are_paired_and_agree_with_scipy():
    from scipy import stats

    table = summary.contrasts(summary.paths(study()))
    row = only(table, metric="accuracy_min")
    differences = [5, 6, 9]
    low, high = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
    assert (row["method"], row["baseline"], row["n_pairs"], row["reason"]) == ("aligned", "unaligned", 3, "")
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert row["difference_std"] == pytest.approx(np.std(differences, ddof=1))
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(low), pytest.approx(high))


def test_contrasts_use_the_shared_pairs_only():
    rows = study()
    rows = rows[(rows["method"] == "unaligned") | (rows["pair"] != "5-6")]
    row = only(summary.contrasts(summary.paths(rows)), metric="accuracy_min")
    assert row["n_pairs"] == 2 and row["method_mean"] == 85.5 and row["difference"] == 5.5
    rows = rows[(rows["method"] == "unaligned") == (rows["pair"] == "3-4")]
    row = only(summary.contrasts(summary.paths(rows)), metric="accuracy_min")
    assert row["n_pairs"] == 0 and row["reason"] == "no pair has both methods"


def set_cell(column, value, at=1):
    def change(frame):
        frame = frame.astype({column: object}) if isinstance(value, str) else frame
        frame.loc[at, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="loss"), r"f.csv: column 'loss' is missing; the columns are \['t', "),
        (set_cell("loss", np.nan), "f.csv: column 'loss' is empty or infinite in data row 2"),
        (set_cell("accuracy", np.inf, 0), "f.csv: column 'accuracy' is empty or infinite in data row 1"),
        (set_cell("accuracy", 101.0), "f.csv: column 'accuracy' has values outside 0 to 100 percent"),
        (set_cell("loss", "big"), "f.csv: column 'loss' holds text; numbers are allowed"),
        (set_cell("statistics", "running"), r"f.csv: column 'statistics' has \['running'\]"),
        (set_cell("t", 0.0), "f.csv, attack 'clean', reestimated statistics: column 't' contains this value twice: 0"),
        (set_cell("t", 2.0), "reestimated statistics: column 't' is not in increasing order"),
        (set_cell("distance", 3.0), "column 'distance' is not in increasing order"),
        (lambda f: f[f["t"] < 1], "column 't' must start at 0 and end at 1"),
        (lambda f: f.iloc[:0], "f.csv: no row has attack 'clean' and statistics 'reestimated'"),
        (lambda f: f.assign(attack="pgd5"), "f.csv: no row has attack 'clean' and statistics 'reestimated'"),
    ],
)
def test_a_bad_evaluation_is_refused_by_file_and_column(change, message):
    with pytest.raises(ValueError, match=message):
        summary.tidy(change(evaluation([90, 85, 90])), run(), source="f.csv")


def test_an_incomplete_run_is_refused():
    with pytest.raises(ValueError, match=r"f.csv: the description of its path lacks \['curve_seed'\]"):
        summary.tidy(evaluation([81, 82]), RUN, source="f.csv")


def test_the_same_path_twice_is_refused():
    rows = points((evaluation([90, 85, 90]), run()), (evaluation([90, 86, 90]), run()))
    with pytest.raises(ValueError, match="two evaluations of the same path: cifar10 tinyten standard 1-2 aligned 1"):
        summary.paths(rows)


def test_endpoints_that_differ_between_methods_are_refused():
    rows = points((evaluation([90, 85, 90]), run()), (evaluation([88, 85, 90]), run(method="unaligned")))
    message = "pair 1-2, t 0.0, statistics reestimated, attack clean: .* unaligned 88.0 0.24; aligned 90.0 0.2"
    with pytest.raises(ValueError, match=message):
        summary.accuracy(rows, summary.paths(rows))
    near = points((evaluation([90, 85, 90]), run()), (evaluation([90.2, 85, 90]), run(method="unaligned")))
    assert only(summary.accuracy(near, summary.paths(near)), method="endpoints")["accuracy_mean"] == 90


def test_different_test_sets_are_not_averaged():
    rows = points((evaluation([90, 90]), run()), (evaluation([90, 90], images=500), run(pair="3-4")))
    with pytest.raises(ValueError, match=r"column 'images': .* test images are not comparable: \[.*500.*1000.*\]"):
        summary.accuracy(rows, summary.paths(rows))


@pytest.mark.parametrize("attacks", [["clean"], ["clean", "pgd5"]])
def test_tabulate_writes_five_tables(tmp_path, monkeypatch, attacks):
    rows, files, runs = study(attacks=attacks), [], []
    for keys, part in rows.groupby(summary.KEYS):
        files.append(str(tmp_path / f"{len(files)}.csv"))
        runs.append(dict(zip(summary.KEYS, keys, strict=True)))
        part.drop(columns=summary.KEYS).to_csv(files[-1], index=False)
    names = ["points", "paths", "accuracy", "robust", "contrasts"]
    outputs = {name: str(tmp_path / "tables" / f"{name}.csv") for name in names}
    load_script("tabulate", monkeypatch).main(files, **outputs, runs=runs, compared=["standard"])
    tables = {name: pd.read_csv(path) for name, path in outputs.items()}
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == sorted(f"{n}.csv" for n in names)
    assert list(tables["points"])[:6] == summary.KEYS and len(tables["points"]) == len(rows)
    assert len(tables["paths"]) == 6 * len(attacks) and len(tables["contrasts"]) == 4 * len(attacks)
    assert len(tables["robust"]) == (3 if len(attacks) > 1 else 0)
    assert {"attack", "method", "worst_accuracy", "worst_clean_std", "n_pairs"} <= set(tables["robust"])
