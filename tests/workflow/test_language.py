"""A language model on a text of one's own, by the jobs of the workflow; and what its config may say."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from whole_study import Study
from workflow_project import REPOSITORY

from benchmarks.gpu.jobs import Jobs
from neuralign.common.errors import UserError
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.files import read_config
from neuralign.datasets.arrays import Arrays
from neuralign.symmetry.storage import uses_attention
from neuralign.training.augmentation import transform_of
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Setting
from neuralign.workflow.path_jobs import train_endpoint

CONFIG = REPOSITORY / "config.yaml"
TRAINING = {"epochs": 2, "batch_size": 8, "lr": 0.01, "weight_decay": 0.01, "optimiser": {"use": "adamw"}, "clip": 1.0}
GRID = {"dataset": "words", "network": "gpt", "regime": "words", "pair": "1-2", "curve_seed": 1}
METHODS = ["linear_unaligned", "linear_aligned", "unaligned", "aligned"]
OVERLAY: dict[str, Any] = {
    "datasets": {"words": {"use": "text", "path": "words.txt", "context": 12}},
    "networks": {"gpt": {"width": 8, "depth": 1, "heads": 2}},
    "regimes": {
        "words": {
            "objective": {"use": "next_token"},
            "normalise": False,
            "endpoint": TRAINING | {"warm_up": 0.5, "schedule": {"use": "cosine"}, "schedule_by": "step"},
            "curve": TRAINING,
        }
    },
    "evaluations": {"three": {"points": 3, "batch_size": 16}},
    "studies": {"words": {"title": "Words", "grids": [GRID | {"method": METHODS, "evaluation": "three"}]}},
}


def catalogue(folder: Path, **changes: Any) -> Catalogue:
    """The repository's config with OVERLAY and `changes` of its regime laid over it."""
    overlay = OVERLAY | {"regimes": {"words": OVERLAY["regimes"]["words"] | changes}}
    file = folder / "words.yaml"
    file.write_text(yaml.safe_dump(overlay))
    return Catalogue(read_config([CONFIG, file]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{a} and {b} make {a + b};" for a in range(20) for b in range(10)]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    return tmp_path


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_language_model_is_trained_aligned_connected_evaluated_and_reported(folder: Path) -> None:
    done = Jobs(catalogue(folder), folder / "results", "cpu")
    study = Study(done, "words")
    outputs = {rule: done.make(rule, w) for rule, w, _ in jobs(done.catalogue, "words") if "study" not in w}
    history = table(outputs["train_endpoint"]["history"])
    assert list(history[0]) == ["epoch", "lr", "loss", "penalty", "accuracy", "perplexity"]
    assert float(history[1]["loss"]) < float(history[0]["loss"]) < 5.6  # log(256)
    assert uses_attention(outputs["align"]["permutation"])
    rows = [row for row in table(outputs["evaluate"]["points"]) if row["statistics"] == "reestimated"]
    assert [float(row["t"]) for row in rows] == [0.0, 0.5, 1.0]
    assert all(1 < float(row["perplexity"]) < 256 for row in rows)

    lines = study.tables["paths"].set_index("method")
    assert (lines["perplexity_max"] >= lines["perplexity_min"]).all() and (lines["perplexity_barrier"] >= 0).all()
    claims = study.tables["claims"].drop_duplicates("claim").set_index("claim")
    assert claims.loc["worst", "sentence"] == "Alignment improves the worst perplexity on the trained curve."
    assert claims.loc["worst", "wanted"] == "less" and claims.loc["line", "unit"] == "nats per token"
    names = ["perplexity_words", "curves_words", "accuracy_words", "loss_words", "signature_words", "training_words"]
    assert list(study.figures) == names
    assert "Perplexity and accuracy along the path" in study.page
    assert "larger loss of the two endpoints, in nats per token." in study.page, "what the barrier is measured in"
    assert "Worst perplexity</th>" in study.page and "Loss barrier (nats per token)</th>" in study.page
    assert "one pair does not decide whether alignment changes the worst perplexity on the straight line" in study.page
    assert re.search(r"Average perplexity: \S+ unaligned, .* Loss barrier: \S+ nats per token unaligned, ", study.page)


def test_augmentations_of_a_text_are_refused_before_any_job(folder: Path) -> None:
    message = "  regimes.words.augment: found flip, which vary images; words, in words, holds other data, so \\[\\] is"
    with pytest.raises(ConfigError, match=message):
        catalogue(folder, augment=[{"use": "flip"}])
    assert catalogue(folder, augment=[]).entry("regimes", "words")["augment"] == []


def test_only_the_regime_that_applies_counts(folder: Path) -> None:
    overrides = [{"when": {"dataset": "words"}, "augment": []}]
    assert catalogue(folder, augment=[{"use": "flip"}], overrides=overrides)
    for place in ("dataset: words", "network: gpt"):
        key, _, name = place.partition(": ")
        with pytest.raises(ConfigError, match="regimes.words.augment: found crop, which vary images"):
            catalogue(folder, overrides=[{"when": {key: name}, "augment": [{"use": "crop"}]}])


def test_an_augmentation_under_a_dataset_without_images_is_refused(folder: Path) -> None:
    overlay = {"datasets": {"table": {"use": "diabetes", "augment": [{"use": "flip"}, {"use": "crop"}]}}}
    (folder / "table.yaml").write_text(yaml.safe_dump(overlay))
    message = (
        "  datasets.table.augment: found flip, crop, which vary images; the plug-in diabetes makes other data, so "
    )
    with pytest.raises(ConfigError, match=message):
        Catalogue(read_config([CONFIG, folder / "table.yaml"]))


def test_a_job_refuses_augmentations_of_a_text_too(folder: Path) -> None:
    """As other programs may call it without a config."""
    arrays = Arrays(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(UserError, match="augment: found flip, which vary images; the dataset holds other data"):
        transform_of([{"use": "flip"}], arrays)


def test_an_attack_on_a_language_model_is_refused(folder: Path) -> None:
    with pytest.raises(
        Exception, match=r"words.attack: attacks are on classifiers, whose objective is 'cross_entropy'"
    ):
        catalogue(folder, attack="pgd5")


def test_settings_of_the_papers_trainings_leave_out_the_keys_that_came_later() -> None:
    """Published results have none of them, and still are what the config asks for."""
    c = Catalogue(read_config([CONFIG]))
    settings = train_endpoint(c, Setting("cifar10", "tinyten", "standard"), "1").settings
    assert settings.keys() == {"model", "training", "attack", "augment", "seed"}
    keys = {"epochs", "batch_size", "lr", "momentum", "weight_decay", "nesterov", "precision", "schedule"}
    assert settings["training"].keys() == keys
    later = train_endpoint(c, Setting("stdlib", "gpt", "language"), "1").settings
    assert later["objective"] == {"use": "next_token"} and later["training"]["clip"] == 1.0
