"""Published numbers beside ours, verdicts on claims and tables of alignments, on studies with known answers."""

import numpy as np
import pandas as pd
import pytest
from report_frames import PAIRS, PLACE, evaluation, load_script, moved, only, points, run, study

from neuralign.report import published, statistics, summary
from neuralign.report.claims import claims
from neuralign.report.claims.evidence import Evidence, alignments
from neuralign.report.page import paper_tables


def evidence(**tables):
    rows = study(attacks=["clean", "pgd5"])
    return Evidence(**{"points": rows, "paths": summary.paths(rows), **tables})


def verdicts(table):
    """{claim: the set of its verdicts}."""
    return {claim: set(rows["verdict"]) for claim, rows in table.groupby("claim")}


def frame(values, **columns):
    """A row per pair with these values."""
    return pd.DataFrame([PLACE | {"pair": pair} | columns | row for pair, row in zip(PAIRS, values, strict=True)])


def test_welch_has_the_interval_of_scipy():
    from scipy.stats import ttest_ind_from_stats

    ours, theirs = (87.0, 0.4, 3), (87.8, 0.1, 3)
    interval = statistics.welch_interval(ours, theirs)
    expected = ttest_ind_from_stats(*ours, *theirs, equal_var=False)
    # the interval just excludes zero where p is 5 %: compare through the p-value at its edge
    half = interval["ci_high"] - interval["difference"]
    edge = ttest_ind_from_stats(half, *ours[1:], 0, *theirs[1:], equal_var=False)
    assert interval["difference"] == pytest.approx(-0.8) and edge.pvalue == pytest.approx(0.05)
    assert (interval["ci_low"] <= 0 <= interval["ci_high"]) == (expected.pvalue >= 0.05)


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        ((87.0, np.nan, 1), "no interval: no spread is known"),
        ((87.0, 0.0, 3), "no interval: both deviations are zero"),
        ((np.nan, np.nan, np.nan), "not run"),
    ],
)
def test_without_a_standard_deviation_there_is_a_reason_and_no_interval(ours, reason):
    interval = statistics.welch_interval(ours, (87.8, 0.0, 3))
    assert interval["reason"] == reason and np.isnan(interval["ci_low"])


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((87.9, 88.0, 88.1), "within"),  # 0.5 below the published 88.5
        ((86.0, 86.1, 86.2), "apart"),
        ((86.0,), "not decided"),  # one pair has no interval
        ((88.1,), "within"),
        ((80.0, 86.0, 92.0), "within"),  # far, but the interval includes zero
    ],
)
def test_a_cell_is_within_by_the_margin_or_by_the_interval(accuracies, verdict):
    parts = [(evaluation([a, a, a]), run(pair=p)) for a, p in zip(accuracies, PAIRS, strict=False)]
    rows = points(*parts)
    table = published.against_published(summary.accuracy(rows, summary.paths(rows)), published.published_table())
    cell = only(table, dataset="cifar10", network="tinyten", method="aligned", measure="mean")
    assert cell["verdict"] == verdict and cell["n"] == len(accuracies)
    assert cell["difference"] == pytest.approx(np.mean(accuracies) - 88.5)
    assert len(table) == 9 + 2 * 30 and (table["verdict"] == "not run").sum() == 69 - 3  # endpoints, mean and min


def test_without_evidence_nothing_is_measured():
    table = claims.judged(Evidence())
    assert len(table) == len(claims.CLAIMS) and set(table["verdict"]) == {"not measured"}


def test_claims_have_unique_ids_and_both_directions_occur():
    assert len({claim.id for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    assert {claim.direction for claim in claims.CLAIMS} == {"more", "less"}


@pytest.mark.parametrize(
    ("low", "high", "direction", "bound", "verdict"),
    [
        (0.1, 0.2, "more", 0, "supported"),
        (0.1, 0.2, "less", 0, "contradicted"),
        (-0.1, 0.2, "more", 0, "not decided"),
        (0.0, 0.0, "more", 0, "not decided"),
        (-0.1, 0.4, "less", 0.5, "supported"),
        (np.nan, np.nan, "more", 0, "not decided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(low, high, direction, bound, verdict):
    assert claims.judge({"ci_low": low, "ci_high": high}, direction, bound) == verdict


def test_accuracy_claims_are_paired_differences():
    table = claims.judged(evidence())
    row = only(table, claim="worst")
    assert (row["first"], row["second"], row["n"], row["n_of"]) == (pytest.approx(260 / 3), 80, 3, "pairs")
    assert row["verdict"] == "supported"
    assert only(table, claim="robust_barrier")["attack"] == "pgd5"
    by_claim = verdicts(table)
    assert by_claim["pam_helps"] == {"not measured"} and by_claim["above_ends"] == {"not decided"}


def test_of_the_largest_network_only_pairs_with_both_methods_count():
    accuracies = {"tinyten": (10.0, 11.0, 12.0), "resnet32": (5.0, 6.0, 9.0)}  # gains of alignment
    parts = [
        (evaluation([50 + gain * (method == "aligned")] * 3), run(network=network, method=method, pair=pair))
        for network, gains in accuracies.items()
        for pair, gain in zip(PAIRS, gains, strict=True)
        for method in ("aligned", "unaligned")
        if (method, pair) != ("unaligned", PAIRS[2])
    ]
    rows = points(*parts)
    row = only(claims.judged(Evidence(points=rows, paths=summary.paths(rows))), claim="width")
    assert (row["first"], row["second"], row["n"]) == (5.5, 10.5, 2)


def test_one_pair_decides_nothing():
    rows = study(pairs=["1-2"])
    row = only(claims.judged(Evidence(points=rows, paths=summary.paths(rows))), claim="worst")
    assert row["verdict"] == "not decided" and row["reason"] == "one pair: no spread to estimate"


def test_the_loss_at_the_midpoint_of_the_line_is_judged():
    parts = []
    for pair, up in zip(PAIRS, (0.0, 0.1, 0.2), strict=True):
        for method, loss in (("linear_unaligned", 2.0), ("linear_aligned", 1.0 + up)):
            parts.append((evaluation([90, 50, 90], loss=[0.1, loss, 0.1]), run(pair=pair, method=method)))
    rows = points(*parts)
    row = only(claims.judged(Evidence(points=rows, paths=summary.paths(rows))), claim="line")
    assert row["difference"] == pytest.approx(-0.9) and row["verdict"] == "supported"


def test_faster_training_is_supported_by_losses_and_by_epochs():
    epochs = np.arange(1, 9)
    parts = []
    for i, pair in enumerate(PAIRS):
        for method, rate in (("unaligned", 1.0), ("aligned", 2.0 + i / 10)):
            losses = pd.DataFrame({"epoch": epochs, "loss": 1 / (rate * epochs)})
            parts.append(losses.assign(**PLACE, pair=pair, method=method, curve_seed=1))
    table = claims.judged(Evidence(histories=pd.concat(parts)))
    assert verdicts(table)["faster"] == {"supported"} and len(table[table["claim"] == "faster"]) == 2
    row = only(table, claim="sooner")
    assert row["first"] == 4 and row["second"] == 8 and row["verdict"] == "supported"


@pytest.mark.parametrize(("epochs", "parts"), [(1, []), (2, ["half"]), (3, ["half"]), (4, ["a quarter", "half"])])
def test_parts_shorter_than_an_epoch_are_not_compared(epochs, parts):
    losses = pd.DataFrame({"epoch": np.arange(1, epochs + 1), "loss": 1 / np.arange(1, epochs + 1)})
    runs = [losses.assign(**PLACE, pair=pair, method=m) for pair in PAIRS for m in ("aligned", "unaligned")]
    table = claims.judged(Evidence(histories=pd.concat(runs)))
    measures = {f"training loss after {part} of the epochs" for part in parts}
    assert set(table.loc[table["claim"] == "faster", "measure"].dropna()) - {""} == measures
    assert (verdicts(table)["sooner"] == {"not measured"}) == (epochs == 1)


def test_the_epochs_of_other_methods_do_not_count_as_a_curves_own():
    epochs = {"unaligned": 8, "aligned": 8, "pam_aligned": 24}
    parts = [
        pd.DataFrame({"epoch": np.arange(1, n + 1), "loss": 1 / np.arange(1, n + 1)}).assign(
            **PLACE, pair=pair, method=method
        )
        for pair in PAIRS
        for method, n in epochs.items()
    ]
    histories = pd.concat(parts)
    table = claims.judged(Evidence(histories=histories))
    assert list(table.loc[table["claim"] == "faster", "first"]) == [1 / 2, 1 / 4], "after 2 and 4 of 8 epochs"
    others = claims.judged(Evidence(histories=histories[histories["method"] == "pam_aligned"]))
    assert verdicts(others)["faster"] == {"not measured"}


def test_a_search_that_moves_little_supports_local_optimality():
    aligned = moved((0, 0, 1), "pam_aligned", "pam_from_aligned", after=1.9)
    other = moved((9, 9, 10), "pam_unaligned", "pam")
    table = claims.judged(
        Evidence(moved=pd.concat([aligned, other.assign(objective_after=[1.0, 1.0, 1.1, 1.1, 1.0, 1.0])]))
    )
    row = only(table, claim="local_units")
    assert row["first"] == pytest.approx(10 / 3) and row["verdict"] == "not decided"  # one pair in three moves 10 %
    row = only(table, claim="local_objective")
    assert row["first"] == pytest.approx(5) and row["verdict"] == "supported"


def test_alignments_are_summed_over_groups_and_averaged_over_pairs():
    table = alignments(moved((0, 1, 5), "pam_aligned", "pam"))
    assert list(table["group"]) == ["all", "a", "b"]
    all_groups = only(table, group="all")
    assert (all_groups["units"], all_groups["moved"], all_groups["moved_from_start"], all_groups["n_pairs"]) == (
        20,
        10,
        4,
        3,
    )
    assert all_groups["moved_from_start_std"] == pytest.approx(np.std([0, 2, 10], ddof=1))
    assert (all_groups["objective_before"], all_groups["certificate"]) == (2, 1e-12)
    assert only(table, group="a")["moved_from_start"] == 2 and np.isnan(only(table, group="a")["objective_before"])
    assert alignments(pd.DataFrame()).empty


def test_an_alignment_is_not_called_like_the_method_of_its_name():
    for table in paper_tables.alignment_tables(alignments(moved((0, 0, 1), "pam_aligned", "pam_aligned"))):
        ((_, rows),) = table.groups
        assert {row[0] for row in rows} <= {"pam aligned", "pam aligned: a", "pam aligned: b"}


def test_signatures_are_judged_by_the_layer_that_gains_least():
    rows = [
        frame([{"before": 0.1, "after": a} for a in after], layer=layer, methods="linear_aligned,aligned")
        for layer, after in (("x", (0.5, 0.6, 0.5)), ("y", (0.11, 0.09, 0.1)))
    ]
    row = only(claims.judged(Evidence(signatures=pd.concat(rows))), claim="layers")
    assert row["difference"] == pytest.approx(0) and row["verdict"] == "not decided"


def test_midpoints_are_compared_with_the_less_similar_end():
    series = [
        ("before", "aligned", 0.6),
        ("re-aligned", "aligned", 0.61),
        ("before", "unaligned", 0.2),
        ("re-aligned", "unaligned", 0.5),
        ("linear midpoint", "aligned", 0.9),
    ]
    rows = [
        frame([{"correlation": value + i / 100} for i in range(3)], layer="x", end=end, series=name, method=method)
        for name, method, value in series
        for end in ("start", "end")
    ]
    rows[0]["correlation"] += 0.1  # of two ends the less alike counts
    table = claims.judged(Evidence(midpoints=pd.concat(rows)))
    assert only(table, claim="midpoint")["difference"] == pytest.approx(0.4)
    assert only(table, claim="settled")["difference"] == pytest.approx(0.01 - 0.05 - 0.3)


def test_the_bound_is_ranked_and_compared():
    losses = {"unaligned": 3.0, "pam_unaligned": 2.0, "aligned": 1.0}
    parts = [
        (evaluation([90, 80, 90], loss=[v, v, v]), run(pair=p, method=m)) for p in PAIRS for m, v in losses.items()
    ]
    theory = pd.concat([frame([{"bound": 10 * v}] * 3, method=m) for m, v in losses.items()])
    table = claims.judged(Evidence(paths=summary.paths(points(*parts)), theory=theory))
    assert only(table, claim="ranks")["difference"] == pytest.approx(1)
    assert only(table, claim="bound")["difference"] == pytest.approx(-20)


def test_a_claim_is_judged_over_all_settings_from_three_settings_on():
    lifts = {"cifar10": (0, 1, 4), "cifar100": (0, 2, 4), "digits": (1, 2, 3)}
    rows = pd.concat([study(lift=lift).assign(dataset=d) for d, lift in lifts.items()])
    table = claims.judged(Evidence(points=rows, paths=summary.paths(rows)))
    row = only(table, claim="worst", scope="all settings")
    assert (row["n"], row["n_of"]) == (3, "settings") and row["difference"] == pytest.approx(5 + 17 / 9)
    shown = paper_tables.claims_table(table)
    (cells,) = dict(shown.groups)["Alignment raises the worst accuracy on the trained curve. (published table)"]
    assert cells[-1] == "supported; by themselves: supported 3"


def test_sentences_count_published_numbers_and_claims():
    rows = study()
    table = published.against_published(summary.accuracy(rows, summary.paths(rows)), published.published_table())
    assert paper_tables.numbers_in_words(table) == (
        "Of 69 published accuracies 5 were run: 2 within, 3 apart, 64 not run."
    )
    nothing = table.assign(verdict="not run")
    assert paper_tables.numbers_in_words(nothing) == (
        "None of the 69 published accuracies is of a setting that this study runs."
    )
    sentence = paper_tables.claims_in_words(claims.judged(evidence()))
    assert sentence.startswith(f"Of {len(claims.CLAIMS)} claims: ") and "not measured" in sentence


def test_every_figure_of_the_paper_is_listed_with_ours():
    drawings = [{"name": "curves_standard", "use": "path", "column": "accuracy", "show": "curves"}]
    drawings += [{"name": "loss_robust_pgd5", "use": "path", "column": "loss", "attack": "pgd5"}]
    drawings += [{"name": "plane_curve_loss_cifar10_standard", "use": "plane", "column": "loss"}]
    rows = {row[0]: row[-1] for row in paper_tables.figures_table(drawings, ["aligned"]).groups[0][1]}
    assert rows["Test accuracy against t (the figure of the README)"] == "Figure 1"
    assert rows["Robust loss against t, with clean loss"] == "Figure 2"
    assert rows["Plane through both ends and the middle of the curve: loss, accuracy"] == "Figure 3"
    assert list(rows.values()).count("not run") == len(rows) - 3


def test_the_script_adds_the_descriptions_of_runs_as_columns(tmp_path, monkeypatch):
    rows = study()
    paths = summary.paths(rows)
    inputs = {"accuracy": summary.accuracy(rows, paths), "points": rows, "paths": paths}
    for name, table in inputs.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "m.csv").write_text("group,units,moved,moved_from_start,certificate\na,10,4,4,0\n")
    (tmp_path / "h.csv").write_text("epoch,loss\n1,0.5\n")
    script = load_script("tabulate_claims", monkeypatch)
    about = PLACE | {"pair": "1-2"}
    script.main(
        **{name: str(tmp_path / f"{name}.csv") for name in inputs},
        moved=[str(tmp_path / "m.csv")],
        signatures=[],
        histories=[str(tmp_path / "h.csv")],
        **{name: str(tmp_path / "out" / f"{name}.csv") for name in ("published", "claims", "alignments")},
        runs={
            "moved": [about | {"alignment": "x", "methods": "aligned"}],
            "histories": [about | {"method": "aligned"}],
        },
        compared=["standard"],
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["alignments.csv", "claims.csv", "published.csv"]
    assert only(pd.read_csv(tmp_path / "out" / "alignments.csv"), group="all")["moved"] == 4
