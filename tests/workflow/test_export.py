"""One network of a trained curve as a checkpoint of its own: `neuralign export`, on the curves of a finished study."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from workflow_project import Project, finished_smoke

from neuralign.cli import main

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

CURVE = "curves/small_digits/tiny/plain/1-2/matched/bezier/1.safetensors"
ENDS = ("endpoints/small_digits/tiny/plain/1.safetensors", "endpoints/small_digits/tiny/plain/2.safetensors")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The smoke study, run to its end; never edited."""
    return finished_smoke(tmp_path_factory)


@pytest.fixture
def results(finished, tmp_path, monkeypatch) -> Path:
    """The results in a copy of the study, outside the working directory."""
    project = finished.copied(tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return project.path("results")


def exported(capsys, *arguments) -> dict:
    assert main(["export", *map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def refused(capsys, *arguments) -> str:
    assert main(["export", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_the_best_point_is_at_least_as_good_as_others_on_training_images_and_has_a_card(capsys, results):
    facts = exported(capsys, results / CURVE, "-o", "best.safetensors")
    assert 0 <= facts["t"] <= 1 and facts["best"] in ("network 1", "network 2") and facts["measured_on"] == "test"
    assert load_file("best.safetensors").keys() == load_file(results / ENDS[0]).keys()
    card = Path("best.safetensors.md").read_text()
    assert f"t = {facts['t']:.4g}, which has the lowest loss on" in card and "| network on the curve |" in card
    assert "alignment of network 2: matched" in card and facts["sentence"][1:] in card
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings["network"]["use"] == "tinyten" and settings["curve"] == {"use": "bezier", "bends": 1}
    assert "'" not in card.split("## Measured")[0], "no Python dict is left"


def test_the_first_end_is_the_first_network_with_statistics_of_its_own(capsys, results):
    facts = exported(capsys, results / CURVE, "--point", "t=0", "-o", "first.pt")
    first, stored = torch.load("first.pt", weights_only=True), load_file(results / ENDS[0])
    weights = [name for name in stored if name.endswith(("weight", "bias"))]
    assert weights and all(torch.equal(first[name], stored[name]) for name in weights)
    assert facts["t"] == 0


def test_statistics_are_of_images_that_are_augmented_as_in_the_training_of_the_curve(capsys, results):
    note = results / f"{CURVE}.json"
    facts = json.loads(note.read_text())
    files = {"plain.pt": [], "cropped.pt": [{"use": "crop", "pad": 0.5}], "again.pt": [{"use": "crop", "pad": 0.5}]}
    for file, facts["settings"]["augment"] in files.items():
        note.write_text(json.dumps(facts))
        exported(capsys, results / CURVE, "--point", "t=0", "-o", file)
        said = "training examples, augmented as in the training of the curve\n" in Path(f"{file}.md").read_text()
        assert said == (file != "plain.pt")
    plain, cropped, again = (torch.load(file, weights_only=True) for file in files)
    changed = {name for name in plain if not torch.equal(plain[name], cropped[name])}
    assert changed and all("running_" in name for name in changed)
    assert all(torch.equal(cropped[name], again[name]) for name in cropped)


def test_the_mean_is_no_point_of_the_curve(capsys, results):
    facts = exported(capsys, results / CURVE, "--point", "mean", "-o", "mean.safetensors")
    assert facts["t"] is None and "place: the mean over all t\n" in Path("mean.safetensors.md").read_text()
    at_half = exported(capsys, results / CURVE, "--point", "0.5", "-o", "half.safetensors")
    assert at_half["t"] == 0.5
    mean, half = load_file("mean.safetensors"), load_file("half.safetensors")
    assert any(not torch.equal(mean[name], half[name]) for name in mean if name.endswith("weight"))


@pytest.mark.parametrize("point", ["worst", "t=1.5", "nan", "-0.1"])
def test_points_that_do_not_exist_are_refused(capsys, results, point):
    message = f"point: found {point!r}; best, mean, or t from 0 to 1 is needed"
    assert message in refused(capsys, results / CURVE, f"--point={point}", "-o", "x.pt")


def test_files_that_are_no_curve_or_have_changed_are_refused(capsys, results):
    assert "no such file as nothing" in refused(capsys, "nothing", "-o", "x.pt")
    assert "has no note of a trained curve beside it" in refused(capsys, results / ENDS[0], "-o", "x.pt")
    assert "--output: found x.npz" in refused(capsys, results / CURVE, "-o", "x.npz")
    for file in (CURVE, ENDS[0]):
        message = f"--output: found {results / file}, which is an input of this command; another name is needed"
        assert message in refused(capsys, results / CURVE, "-o", results / file)
    (results / ENDS[1]).write_bytes((results / ENDS[0]).read_bytes())
    assert f"{results / ENDS[1]} has changed since the curve was trained" in refused(
        capsys, results / CURVE, "-o", "x.pt"
    )
    (results / ENDS[1]).unlink()
    message = f"{results / ENDS[1]}, which the curve was trained with, does not exist\n"
    assert message in refused(capsys, results / CURVE, "-o", "x.pt")
    assert not Path("x.pt").exists()
