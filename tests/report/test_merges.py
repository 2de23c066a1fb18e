"""Tables of merged pairs: known answers, and what the report says of them."""

import numpy as np
import pandas as pd
import pytest

from neuralign.report import merges
from neuralign.report.page import merge_tables

SETTING = {"dataset": "digits", "network": "mlp", "regime": "demo"}
ACCURACIES = {"none": (20, 40), "good": (80, 85), "better": (86, 87)}  # alignment -> that of the mean, and repaired
LINES = {"none": (0.0, 0.1, 2.0), "good": (1.0, 0.9, 0.2), "better": (0.5, 0.7, 0.1)}  # moved, agreement, barrier


def measured(alignment: str, pair: int, *, attacked: bool = False) -> list[dict]:
    """The rows of one merge; pairs differ by a point of accuracy and 0.02 of a barrier."""
    mean, repaired = ACCURACIES[alignment]
    moved, agreement, barrier = LINES[alignment]
    values = {"first": 90, "second": 88, "ensemble": 91, "mean": mean + pair, "repair": repaired + pair}
    models = pd.DataFrame({"model": list(values), "accuracy": list(values.values())}).assign(
        attack="clean", images=100, loss=0.5, calibrated_loss=0.4, ece=3.0, brier=0.2
    )
    if attacked:
        attack = models[models["model"] != "ensemble"].assign(attack="pgd", accuracy=10.0, ece=np.nan)
        models = pd.concat([models, attack])
    height = barrier + 0.02 * pair * (moved + 1)
    line = {"reads": "images" if moved else "nothing", "moved": moved, "agreement": agreement, "certificate": 1e-15}
    line |= {"distance": 3.0, "images": 100}
    line |= {f"{name}{end}": height for name in merges.BARRIERS for end in ("", "_t", "_low", "_high")}
    layers = pd.DataFrame({"layer": ["a", "b"], "distance": [0.1, 0.3]})
    run = SETTING | {"pair": f"{2 * pair + 1}-{2 * pair + 2}", "alignment": alignment}
    return merges.by_pair(run, models, pd.DataFrame([line]), layers)


def table(pairs: int = 3, **options) -> pd.DataFrame:
    return pd.DataFrame([row for a in ACCURACIES for pair in range(pairs) for row in measured(a, pair, **options)])


def test_a_merge_is_one_row_per_attack():
    clean, attacked = measured("good", 0, attacked=True)
    assert list(clean)[:5] == merges.ALIGNED and (clean["attack"], attacked["attack"]) == ("clean", "pgd")
    assert (clean["ends_accuracy"], clean["mean_accuracy"], clean["repair_accuracy"]) == (89, 80, 85)
    assert clean["llfc"] == pytest.approx(0.2) and clean["barrier"] == 0.2
    assert np.isnan(attacked["barrier"]) and attacked["mean_accuracy"] == 10 and "ensemble_accuracy" not in attacked


def test_means_over_pairs_have_their_spread_and_the_gap_they_close():
    rows = merges.over_pairs(table()).set_index("alignment")
    assert (rows["n_pairs"] == 3).all() and (rows["images"] == 100).all()
    assert rows.loc["good", "mean_accuracy"] == 81 and rows.loc["good", "mean_accuracy_std"] == 1
    assert rows.loc["none", "gap_closed"] == 0
    expected = np.mean([100 * 60 / (89 - 20 - pair) for pair in range(3)])
    assert rows.loc["good", "gap_closed"] == pytest.approx(expected)
    assert rows.loc["good", "barrier"] == pytest.approx(0.24)
    half = 4.302652729 * 0.04 / np.sqrt(3)  # the 97.5 % quantile of Student's t with two degrees of freedom
    assert rows.loc["good", "barrier_ci_high"] - 0.24 == pytest.approx(half)
    assert "barrier_low" not in rows and "images_std" not in rows
    mixed = table().assign(reads=["images", "labels", "images"] * len(ACCURACIES))
    assert (merges.over_pairs(mixed)["reads"] == "labels").all(), "older files do not say of all methods what they read"


def test_networks_with_batch_norm_count_with_statistics_of_their_own():
    with_reset = table(1).assign(reset_accuracy=[30, 70, 80])
    rows = merges.over_pairs(with_reset).set_index("alignment")
    assert rows.loc["good", "gap_closed"] == pytest.approx(100 * (70 - 30) / (89 - 30))
    assert np.isnan(rows.loc["good", "barrier_ci_low"]), "one pair has no interval"


def test_where_no_statistics_were_reset_the_plain_mean_counts():
    some = table(2).assign(reset_accuracy=lambda t: t["mean_accuracy"].where(t["pair"] == t["pair"].iloc[0]))
    assert merges.plain_accuracy(some).equals(some["mean_accuracy"])


def test_without_an_unaligned_mean_no_gap_is_known():
    rows = merges.over_pairs(table().query("alignment != 'none'"))
    assert rows["gap_closed"].isna().all() and rows["mean_accuracy"].notna().all()


def test_a_mean_that_is_as_good_as_its_ends_leaves_no_gap():
    same = table().assign(ends_accuracy=lambda t: t["mean_accuracy"].where(t["moved"] == 0, t["ends_accuracy"]))
    same["ends_accuracy"] = same.groupby("pair")["ends_accuracy"].transform("min")
    rows = merges.over_pairs(same)
    assert rows["gap_closed"].isna().all() and rows["mean_accuracy"].notna().all()


def test_any_two_alignments_are_compared_pair_by_pair():
    rows = merges.contrasts(table()).set_index(["first", "second", "metric"])
    assert len(rows) == 3 * 4
    row = rows.loc[("good", "better", "mean_accuracy")]
    assert (row["difference"], row["difference_std"], row["n_pairs"]) == (-6, 0, 3)
    row = rows.loc[("none", "good", "barrier")]
    assert row["difference"] == pytest.approx(1.78) and row["ci_low"] < 1.78 < row["ci_high"]
    two = table()
    two = two[(two["alignment"] != "good") | (two["pair"] != "1-2")]
    assert (merges.contrasts(two).query("first == 'none' and second == 'good'")["n_pairs"] == 2).all()


def test_what_is_not_measured_under_attack_is_not_compared_there():
    rows = merges.contrasts(table(attacked=True))
    metrics = {attack: set(part["metric"]) for attack, part in rows.groupby("attack")}
    assert metrics == {"clean": {*merges.BARRIERS, *metrics["pgd"]}, "pgd": {"mean_accuracy", "repair_accuracy"}}
    assert (rows["n_pairs"] == 3).all() and (rows["reason"] == "").all()


def test_the_rank_correlation_says_whether_the_agreement_orders_the_barriers():
    (row,) = merges.agreement_and_barrier(table()).to_dict("records")
    assert row["difference"] == pytest.approx(1), "the larger agreement has the larger barrier here"
    assert row["n_pairs"] == 3
    mixed = table()
    mixed.loc[mixed["pair"] == "1-2", "barrier"] *= -1
    (row,) = merges.agreement_and_barrier(mixed).to_dict("records")
    assert row["difference"] == pytest.approx(1 / 3) and (row["ci_low"], row["ci_high"]) == (-1, 1)
    alone = merges.agreement_and_barrier(table().query("alignment != 'good'"))
    assert alone["difference"].isna().all(), "of one alignment there is no correlation"


def test_seconds_and_memory_are_those_of_the_alignments():
    def note(pair, seconds, **more):
        wildcards = SETTING | {"pair": pair, "alignment": "good"}
        return {"rule": "align", "wildcards": wildcards, "seconds": seconds, "peak_memory": 300} | more

    notes = [note("1-2", 2.0), note("1-2", 2.0), note("3-4", 4.0), note("1-2", 9.0, rule="evaluate"), {"rule": "align"}]
    (row,) = merges.costs(notes).to_dict("records")
    assert (row["seconds"], row["memory"], row["alignment"]) == (3, 300, "good")
    (row,) = merges.costs([note | {"device": "CPU", "threads": 1, "cpu_use": 0.5} for note in notes]).to_dict("records")
    assert row["seconds"] == 1.5, "beside other programs"


def test_the_report_orders_alignments_by_their_barrier_and_compares_neighbours():
    rows = table(attacked=True)
    section = merge_tables.section(merges.over_pairs(rows), rows, merges.contrasts(rows), [])
    barriers, accuracies, costs = section["tables"]
    ((_, lines),) = barriers.groups
    assert [line[0] for line in lines] == ["better", "good", "none"]
    head = barriers.head
    assert lines[0][head.index("Less the row above")] == "–"
    assert lines[1][head.index("Less the row above")].startswith("+0.110 (")
    assert lines[1][head.index("Barrier (nats)")].startswith("0.240 ± 0.040 (")
    assert costs.groups[0][1][0][costs.head.index("Seconds")] == "–", "no notes were given"
    assert [name for name, _ in accuracies.groups][1].endswith("under pgd")
    assert accuracies.groups[0][1][0][:5] == ["better", "89.00 ± 0.00", "91.00 ± 0.00", "87.00 ± 1.00", "88.00 ± 1.00"]
    assert accuracies.groups[1][1][0][2] == "–", "an ensemble is not attacked"
    assert "images attacked against itself" in accuracies.caption and "clean test images" in barriers.caption
    (sentence,) = section["sentences"]
    assert "+1.00 on average over 3 pairs" in sentence


def test_one_pair_is_shown_without_an_interval():
    rows = table(1)
    section = merge_tables.section(merges.over_pairs(rows), rows, merges.contrasts(rows), [])
    ((_, lines),) = section["tables"][0].groups
    assert "0.200" in lines[1] and "(one pair: no spread to estimate)" in section["sentences"][0]
