"""A small study of a regression, from the table of patients to the report; and what the config may say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from whole_study import Study
from workflow_project import REPOSITORY

from benchmarks.gpu.jobs import Jobs
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.config.problems import ConfigError
from neuralign.workflow.study_jobs import figures, report, tabulate

CONFIG = REPOSITORY / "config.yaml"
TRAINING = {"epochs": 4, "batch_size": 32, "lr": 0.01, "optimiser": {"use": "adamw"}}
GRID: dict[str, Any] = {
    "dataset": "diabetes",
    "network": "little",
    "regime": "little",
    "pair": ["1-2", "3-4"],
    "curve_seed": 1,
    "method": ["linear_unaligned", "linear_aligned", "unaligned", "aligned"],
    "evaluation": "five",
}
REGIME = {"objective": {"use": "squared_error"}, "normalise": False, "endpoint": TRAINING, "curve": TRAINING}
OVERLAY: dict[str, Any] = {
    "networks": {"little": {"use": "mlp", "width": 8, "depth": 1}},
    "regimes": {"little": REGIME},
    "evaluations": {"five": {"points": 5, "batch_size": 128}},
    "studies": {"patients": {"title": "Patients", "grids": [GRID]}},
}


def catalogue(folder: Path, **grid: Any) -> Catalogue:
    """The repository's config with OVERLAY, and `grid` in its grid, laid over it."""
    file = folder / "patients.yaml"
    file.write_text(yaml.safe_dump(OVERLAY | {"studies": {"patients": {"title": "Patients", "grids": [GRID | grid]}}}))
    return Catalogue(read_config([CONFIG, file]))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("patients")
    return Study(Jobs(catalogue(folder), folder / "results", "cpu"), "patients")


def test_the_tables_are_of_r2_and_of_the_squared_error(study: Study) -> None:
    table = study.tables["accuracy"].set_index("method")
    assert {"r2_mean", "r2_min", "loss_mean", "loss_max", "loss_barrier", "r2_barrier", "stored_r2_mean"} <= set(table)
    assert not [name for name in table if "accuracy" in name]
    assert list(table.index) == ["endpoints", "linear_unaligned", "linear_aligned", "unaligned", "aligned"]
    assert (table["r2_mean"] <= 100).all() and (table["loss_mean"] > 0).all()
    assert table.loc["unaligned", "r2_min"] <= table.loc["unaligned", "r2_mean"]
    assert set(study.tables["contrasts"]["metric"]) == {"r2_mean", "r2_min", "loss_mean", "loss_barrier"}
    assert study.tables["published"].empty and study.tables["robust"].empty


def test_the_figures_are_named_and_drawn_by_the_score(study: Study) -> None:
    assert list(study.figures) == ["r2_little", "curves_little", "loss_little", "signature_little", "training_little"]


def test_no_sentence_of_the_report_speaks_of_accuracy_images_or_batch_norm(study: Study) -> None:
    text = re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", "", study.page, flags=re.DOTALL)
    ours, _, paper = text.partition("The figures of the paper and ours")
    ours = re.sub(r"Settings in full.*?R² along the path", "", ours, flags=re.DOTALL)
    ours = ours.replace("more accurate on clean images", "")  # a claim that is not measured
    assert "R² along the path" in text and "Average R² (%)" in text and "Test examples" in text
    assert "Mean squared difference of outputs and targets" in text
    finding = " ".join(text.partition("Main finding")[2].partition("What is measured")[0].split())
    assert re.search(r"worst R² on the .*? Average R²: \S+ % unaligned, .*? Loss barrier: \S+ una", finding)
    for word in ("accuracy", "images", "batch-norm", "nats", "clean", "perplexity", "nan"):
        assert not [sentence for sentence in ours.split(".") if re.search(rf"\b{word}\b", sentence)]
    assert "Test accuracy against t" in paper, "the paper's own figure"


def test_claims_are_judged_by_the_score(study: Study) -> None:
    claims = study.tables["claims"].drop_duplicates("claim").set_index("claim")
    assert claims.loc["average", "sentence"] == "Alignment improves the average R² on the trained curve."
    assert (claims.loc["average", "measure"], claims.loc["average", "unit"]) == ("average R²", "points")
    assert claims.loc["average", "wanted"] == "more"
    assert "local_accuracy" not in claims.index, "its bound is half a point of accuracy"


def test_settings_of_classifiers_leave_out_what_is_the_default(tmp_path: Path) -> None:
    """Published tables have no such setting, and still are what the config asks for."""
    c = catalogue(tmp_path)
    assert "measured" not in tabulate(c, "demo").settings.keys() | report(c, "demo").settings.keys()
    assert tabulate(c, "patients").settings["measured"] == {"objective": "squared_error", "noun": "examples"}
    assert "training/objectives/squared_error.py" in tabulate(c, "patients").files
    assert list(figures(c, "demo"))[:3] == ["accuracy_demo", "curves_demo", "loss_demo"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"regime": ["little", "demo"]},
            r"studies.patients.grids: found the objectives 'squared_error' \(of little\) and 'cross_entropy' "
            r"\(of demo\); a study has one, because its tables compare",
        ),
        (
            {"measures": ["bound"]},
            "studies.patients.grids: found the measure 'bound', which holds for the objective 'cross_entropy' alone, "
            "not 'squared_error'",
        ),
        (
            {"merge": "standard"},
            "studies.patients.grids: found `merge`, whose table is for the objective 'cross_entropy' alone, not",
        ),
    ],
)
def test_what_tables_cannot_compare_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        catalogue(tmp_path, **change)


def test_networks_of_a_regression_may_be_merged_in_one_frame(tmp_path: Path) -> None:
    config = catalogue(tmp_path, members=["1-2-3"], cohort=["mean"])
    assert config.studies["patients"]["grids"][0]["members"] == ["1-2-3"]
