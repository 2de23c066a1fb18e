"""Jobs that are trained together in one process have the same results as jobs that run alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workflow_project import Project

from neuralign.workflow.running import together


def recipe(seed, folder, **more):
    outputs = {"network": str(folder / f"results/endpoints/d/n/r/{seed}.safetensors")}
    settings = {"training": {"epochs": 1}, "seed": seed} | more
    wildcards = {"dataset": "d", "network": "n", "regime": "r", "seed": str(seed)}
    made = {"rule": "train_endpoint", "wildcards": wildcards, "settings": settings, "code": {}, "software": {}}
    made |= {"inputs": {"data": str(folder / "results/data/d")}, "upstream": {"data": "k0"}, "key": f"k{seed}"}
    return made | {"outputs": outputs}


def put(folder, recipe):
    path = folder / "results/recipes" / Path(recipe["outputs"]["network"]).relative_to(folder / "results")
    path = path.with_name(path.name + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that holds the inputs of all recipes."""
    monkeypatch.chdir(tmp_path)
    Path("results/data").mkdir(parents=True)
    Path("results/data/d").write_text("data")
    Path("results/data/d.json").write_text('{"key": "k0"}')
    return Path()


def done(recipe):
    path = Path(recipe["outputs"]["network"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("trained")
    path.with_name(path.name + ".json").write_text(json.dumps({"key": recipe["key"]}))


def seeds(recipes):
    return [recipe["settings"]["seed"] for recipe in recipes]


def test_only_jobs_that_are_due_and_differ_in_nothing_but_their_seed_are_trained_together(folder, monkeypatch):
    monkeypatch.setenv("NEURALIGN_TOGETHER", "9")
    own, *rest = (recipe(seed, folder) for seed in (1, 2, 3, 4))
    other_lr = recipe(5, folder, training={"epochs": 2})
    for each in (own, *rest, other_lr):
        put(folder, each)
    assert seeds(together.candidates(own)) == [2, 3, 4]
    done(rest[0])
    assert seeds(together.candidates(own)) == [3, 4]
    done(rest[1] | {"key": "of older settings"})
    assert seeds(together.candidates(own)) == [3, 4]
    Path("results/data/d.json").write_text('{"key": "other data"}')
    assert seeds(together.candidates(own)) == []


def test_by_default_every_job_is_done_alone(folder, monkeypatch):
    monkeypatch.delenv("NEURALIGN_TOGETHER", raising=False)
    for seed in (1, 2):
        put(folder, recipe(seed, folder))
    assert seeds(together.candidates(recipe(1, folder))) == []


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5", ""])
def test_a_limit_that_is_no_number_of_trainings_is_refused(monkeypatch, text):
    monkeypatch.setenv("NEURALIGN_TOGETHER", text)
    with pytest.raises(ValueError, match="NEURALIGN_TOGETHER must be a number of trainings, 1 or more; found"):
        together.limit()


def stored(folder):
    """A recipe whose results another job has already made and stored for it."""
    made = recipe(2, folder)
    (path,) = together.stored_outputs(Path("scratch"), made).values()
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("trained")
    assert together.mark_complete(Path("scratch"), made, 2.5)
    Path(made["outputs"]["network"]).parent.mkdir(parents=True)
    return made, Path(path)


def test_a_stored_result_is_taken_once(folder):
    made, _ = stored(folder)
    assert together.take_results(Path("scratch"), made) == 2.5
    assert Path(made["outputs"]["network"]).read_text() == "trained"
    assert list(Path("scratch").iterdir()) == []
    assert together.take_results(Path("scratch"), made) is None


def test_a_result_of_another_key_stays_where_it_is(folder):
    made, path = stored(folder)
    assert together.take_results(Path("scratch"), made | {"key": "k9"}) is None
    assert path.exists()


@pytest.mark.parametrize("damage", [lambda p: p.write_text("tampered"), lambda p: p.unlink()])
def test_a_stored_result_that_has_changed_is_deleted(folder, damage):
    made, path = stored(folder)
    damage(path)
    assert together.take_results(Path("scratch"), made) is None
    assert not path.parent.exists() and not Path(made["outputs"]["network"]).exists()


def test_an_incomplete_result_is_not_marked_complete(folder):
    made = recipe(2, folder)
    assert not together.mark_complete(Path("scratch"), made, 1.0)
    assert together.take_results(Path("scratch"), made) is None


CURVES = [
    f"results/curves/small_digits/tiny/plain/{pair}/none/bezier/{seed}.safetensors"
    for pair, seed in (("1-2", 1), ("1-3", 2))
]


@pytest.mark.workflow
def test_jobs_done_together_are_the_jobs_done_one_by_one(tmp_path):
    apart, joined = (Project.of_repository(tmp_path / name) for name in ("apart", "joined"))
    for project, limit in ((apart, "1"), (joined, "4")):
        # all networks first; otherwise one curve may run before the networks of the other are trained
        for until in (["--until", "train_endpoint"], []):
            project.run(*until, "--cores", "1", CURVES[1], target=CURVES[0], NEURALIGN_TOGETHER=limit)
    names = sorted(p.relative_to(apart.root) for p in apart.root.glob("results/**/*.safetensors"))
    assert len(names) == 6  # data, three networks, two curves
    for name in names:
        one, other = (load_file(project.root / name) for project in (apart, joined))
        assert one.keys() == other.keys()
        first, second = (torch.cat([t.double().flatten() for t in tensors.values()]) for tensors in (one, other))
        assert (first - second).norm() < 0.05 * first.norm()  # they differ by rounding only
    assert joined.plan("--cores", "1", CURVES[1], target=CURVES[0]) == {}
    assert not list(joined.root.glob("results/.scratch/*.ready"))
    logs = [path.read_text() for path in sorted(joined.root.glob("logs/**/*.log"))]
    assert sum("together with" in log for log in logs) == 2  # one training of networks, one of curves
