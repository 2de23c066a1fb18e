"""Tables, findings, claims and figures of a score of which less is better, with known answers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_frames import PAIRS, evaluation, only, run

from neuralign.cli.commands.show import show
from neuralign.common.quantities import LOSS, Metrics, Quantity
from neuralign.config.metrics import metrics_of
from neuralign.config.plugins import plugin
from neuralign.report import summary
from neuralign.report.claims.claims import judged
from neuralign.report.claims.evidence import Evidence
from neuralign.report.page import findings, paper_tables
from neuralign.report.page import page as report
from neuralign.report.page.pictures import caption

METRICS = metrics_of("next_token", noun="examples")


def points(highest: dict[str, float], metrics: Metrics = METRICS) -> pd.DataFrame:
    """Paths whose ends have a perplexity of 4, and whose middle has another, a little higher from pair to pair."""
    parts = []
    for i, pair in enumerate(PAIRS):
        for method, middle in highest.items():
            perplexity = np.array([4.0, middle + i / 10, 4.0])
            frame = evaluation([50, 40, 50], loss=np.log(perplexity), stored=False).assign(perplexity=perplexity)
            frame = pd.concat([frame, frame.iloc[[0, -1]].assign(statistics="stored")])
            parts.append(summary.tidy(frame, run(pair=pair, method=method), source="f.csv", metrics=metrics))
    return pd.concat(parts, ignore_index=True)


ROWS = points({"unaligned": 20.0, "aligned": 5.0})
PATHS = summary.paths(ROWS, METRICS)


def test_the_worst_value_is_the_largest() -> None:
    row = only(PATHS, pair="1-2", method="unaligned")
    assert (row["perplexity_max"], row["perplexity_max_t"], row["perplexity_min"]) == (20, 0.5, 4)
    assert row["perplexity_barrier"] == 16 and row["accuracy_barrier"] == 10
    assert row["loss_barrier"] == pytest.approx(np.log(20) - np.log(4))
    assert row["perplexity_max_clean"] == 20 and row["clean_mean"] == row["perplexity_mean"] == 12


def test_merged_networks_have_the_scores_of_their_objective() -> None:
    measured = [
        ("aligned mean", 8.0, 40, 2.0),
        ("unaligned mean", 90.0, 5, 4.5),
        ("1", 4.0, 50, 1.4),
        ("2", 5.0, 48, 1.6),
    ]
    networks = pd.DataFrame(measured, columns=["model", *METRICS.names])
    networks = networks.assign(attack="clean", statistics="reestimated", images=300)
    alignment = pd.DataFrame({"certificate": [0.0, 0.0], "agreement_before": 0.25, "agreement": 0.75, "steps": 2})
    place = {"dataset": "d", "network": "n", "regime": "r", "members": "1-2", "cohort": "mean", "evaluation": "e"}
    (row,) = summary.cohorts(place, networks, alignment, METRICS)
    assert (row["members_perplexity"], row["best_perplexity"], row["aligned_accuracy"]) == (4.5, 4, 40)
    table = report.cohort_table(pd.DataFrame([row]), METRICS)
    assert table.head == [
        *("Alignment", "Perplexity of the mean", "unaligned", "networks", "best network"),
        *("Accuracy of the mean (%)", "unaligned", "networks"),
        *("Loss of the mean (nats per token)", "unaligned", "networks", "Agreement before", "after"),
    ]
    ((_, ((_, *cells),)),) = table.groups
    assert cells == "8.00 90.00 4.50 4.00 40.00 5.00 49.00 2.000 4.500 1.500 0.250 0.750".split()


def test_the_main_table_has_every_score_and_no_row_of_statistics_that_are_never_estimated() -> None:
    accuracy = summary.accuracy(ROWS, PATHS, metrics=METRICS)
    table = report.main_table(accuracy, METRICS)
    assert table.head == [
        *("Method", "Average perplexity", "Worst perplexity", "Average accuracy (%)", "Worst accuracy (%)"),
        *("Average loss (nats per token)", "Largest loss (nats per token)", "Loss barrier (nats per token)"),
        *("Length", "n"),
    ]
    assert table.caption.startswith("Test perplexity, accuracy and loss along the path: mean ± sample standard")
    ((_, rows),) = table.groups
    assert [row[0] for row in rows] == ["Endpoints", "Curve, unaligned", "Curve, aligned"]
    assert rows[0][1:4] == ["4.00 ± 0.00", "–", "50.00 ± 0.00"]


def test_a_finding_says_that_alignment_lowers_it() -> None:
    contrasts = summary.contrasts(PATHS, METRICS)
    (sentence,) = findings.sentences(contrasts, METRICS)
    assert "alignment lowers the worst perplexity on the trained curve from 20.10 to 5.10 (paired" in sentence
    assert "paired difference −15.00; 95 % interval" in sentence
    assert "Average perplexity: 12.05 unaligned, 4.55 aligned (difference −7.50; interval −7.50 to −7.50)" in sentence
    assert sentence.endswith(
        "Loss barrier: 1.614 nats per token unaligned, 0.243 nats per token aligned (difference −1.372 nats per token; "
        "interval −1.408 to −1.335)."
    )
    twice = pd.concat([contrasts, contrasts.assign(dataset="other")])
    (line,) = findings.overview(twice, METRICS)
    assert line.startswith(
        "Worst perplexity (lower is better) on the trained curve, in 2 comparisons: alignment lowers"
    )


def test_a_claim_that_it_gets_better_is_supported_by_less() -> None:
    table = judged(Evidence(points=ROWS, paths=PATHS, metrics=METRICS))
    worst = only(table, claim="worst")
    assert worst["sentence"] == "Alignment improves the worst perplexity on the trained curve."
    assert (worst["wanted"], worst["measure"], worst["difference"]) == ("less", "worst perplexity", pytest.approx(-15))
    assert only(table, claim="worst_most")["wanted"] == "less"
    worse = points({"unaligned": 5.0, "aligned": 20.0})
    table = judged(Evidence(points=worse, paths=summary.paths(worse, METRICS), metrics=METRICS))
    assert only(table, claim="average")["difference"] > 0


def test_figures_have_its_name_and_a_logarithmic_axis() -> None:
    figure = plugin("figures", {"use": "path", "column": "perplexity"})(ROWS, METRICS)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].get_ylabel() == "perplexity\ntest examples"
    loss = plugin("figures", {"use": "path", "column": "loss"})(ROWS, METRICS)
    assert loss.axes[0].get_yscale() == "linear"
    drawing = {"use": "path", "column": "loss"}
    assert caption(drawing, METRICS) == "Test loss along the path from one endpoint (t = 0) to the other (t = 1)."
    assert caption({"use": "training"}, METRICS).startswith("Cross-entropy (left) and perplexity (right) on the")
    table = paper_tables.figures_table([{"use": "path", "column": "perplexity", "show": "curves"}], [], METRICS)
    assert table.groups[0][1][0][2] == "Figure 1", "the headline takes the place of the paper's accuracy"


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(ValueError, match="f.csv: column 'perplexity' has values outside 1 to inf"):
        points({"aligned": 0.5})


def test_an_objective_without_another_metric_than_its_loss_has_tables_too() -> None:
    metrics = Metrics((Quantity(LOSS, "loss", function="absolute error"),), "examples")
    paths = summary.paths(ROWS, metrics)
    assert paths["loss_barrier"].notna().all() and list(paths).count("loss_mean") == 1
    accuracy = summary.accuracy(ROWS, paths, metrics=metrics)
    assert {"loss_mean", "loss_max", "loss_barrier", "stored_loss_mean"} <= set(accuracy)
    assert report.main_table(accuracy, metrics).head == [
        *("Method", "Average loss", "Largest loss", "Loss barrier", "Length", "n")
    ]
    (sentence,) = findings.sentences(summary.contrasts(paths, metrics), metrics)
    assert "alignment lowers the worst loss on the trained curve from 3.001 to 1.629" in sentence
    assert "). Average loss: " in sentence and "). Loss barrier: " in sentence


def test_show_prints_the_scores_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    file = tmp_path / "tables" / "accuracy.csv"
    summary.accuracy(ROWS, PATHS, metrics=METRICS).to_csv(file, index=False)
    note = {"key": "0", "settings": {"measured": {"objective": "next_token"}}}
    file.with_name("accuracy.csv.json").write_text(json.dumps(note))
    facts, text = show(tmp_path)
    assert facts["table"][0]["perplexity_mean"] == "4.0"
    heading = "perplexity, mean on path  perplexity, max on path  accuracy, mean on path %  accuracy, min on path %"
    assert heading in text.splitlines()[0]
