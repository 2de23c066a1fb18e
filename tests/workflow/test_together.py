"""Jobs that are trained together in one process have the same results as jobs that run alone."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from workflow_project import Project

from neuralign.workflow.running import together
from neuralign.workflow.running.run import _jobs_to_share


def recipe(seed, folder, **more):
    outputs = {"network": str(folder / f"results/endpoints/d/n/r/{seed}.safetensors")}
    settings = {"training": {"epochs": 1}, "seed": seed} | more
    wildcards = {"dataset": "d", "network": "n", "regime": "r", "seed": str(seed)}
    made = {"rule": "train_endpoint", "wildcards": wildcards, "settings": settings, "code": {}, "software": {}}
    made |= {"inputs": {"data": str(folder / "results/data/d")}, "upstream": {"data": "k0"}, "key": f"k{seed}"}
    return made | {"outputs": outputs}


def write_recipe(folder, recipe):
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


def write_results(recipe):
    """The network and its note, as the finished job leaves them."""
    path = Path(recipe["outputs"]["network"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("trained")
    path.with_name(path.name + ".json").write_text(json.dumps({"key": recipe["key"]}))


def seeds(recipes):
    return [recipe["settings"]["seed"] for recipe in recipes]


def test_only_unfinished_jobs_that_differ_in_nothing_but_their_seed_are_trained_together(folder, monkeypatch):
    monkeypatch.setenv("NEURALIGN_TOGETHER", "9")
    first, *rest = (recipe(seed, folder) for seed in (1, 2, 3, 4))
    other_regime = recipe(5, folder, training={"epochs": 2})
    for each in (first, *rest, other_regime):
        write_recipe(folder, each)
    assert seeds(together.candidates(first)) == [2, 3, 4]
    write_results(rest[0])
    assert seeds(together.candidates(first)) == [3, 4]
    write_results(rest[1] | {"key": "of older settings"})
    assert seeds(together.candidates(first)) == [3, 4]
    Path("results/data/d.json").write_text('{"key": "other data"}')
    assert seeds(together.candidates(first)) == []


def test_by_default_every_job_runs_alone(folder, monkeypatch):
    monkeypatch.delenv("NEURALIGN_TOGETHER", raising=False)
    for seed in (1, 2):
        write_recipe(folder, recipe(seed, folder))
    assert seeds(together.candidates(recipe(1, folder))) == []


@pytest.mark.parametrize("more, expected", [({}, [2]), ({"gpus": 2}, [])], ids=["one process", "two processes"])
def test_jobs_of_several_processes_run_alone(folder, monkeypatch, more, expected):
    monkeypatch.setenv("NEURALIGN_TOGETHER", "9")
    for seed in (1, 2):
        write_recipe(folder, recipe(seed, folder, **more))
    with ExitStack() as locks:
        assert seeds(_jobs_to_share(lambda *, others=(): None, recipe(1, folder, **more), locks)) == expected


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5", ""])
def test_an_invalid_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("NEURALIGN_TOGETHER", text)
    with pytest.raises(ValueError, match="NEURALIGN_TOGETHER must be a number of trainings, 1 or more; found"):
        together.limit()


def store_result(folder):
    """(recipe, path of its network, which another job has trained and stored for it)."""
    made = recipe(2, folder)
    (path,) = together.stored_outputs(Path("scratch"), made).values()
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("trained")
    assert together.mark_complete(Path("scratch"), made, 2.5)
    Path(made["outputs"]["network"]).parent.mkdir(parents=True)
    return made, Path(path)


def test_a_stored_result_is_taken_once(folder):
    made, _ = store_result(folder)
    assert together.take_results(Path("scratch"), made) == 2.5
    assert Path(made["outputs"]["network"]).read_text() == "trained"
    assert list(Path("scratch").iterdir()) == []
    assert together.take_results(Path("scratch"), made) is None


def test_a_stored_result_of_another_key_is_not_taken(folder):
    made, path = store_result(folder)
    assert together.take_results(Path("scratch"), made | {"key": "k9"}) is None
    assert path.exists()


@pytest.mark.parametrize("damage", [lambda p: p.write_text("tampered"), lambda p: p.unlink()])
def test_a_stored_result_that_has_changed_is_deleted(folder, damage):
    made, path = store_result(folder)
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
def test_trainings_in_one_process_have_the_results_of_trainings_one_by_one(tmp_path):
    apart, joined = (Project.of_repository(tmp_path / name) for name in ("apart", "joined"))
    for project, limit in ((apart, "1"), (joined, "4")):
        # all networks first; otherwise one curve may run before the networks of the other are trained
        for until in (["--until", "train_endpoint"], []):
            project.run(*until, "--cores", "1", CURVES[1], target=CURVES[0], NEURALIGN_TOGETHER=limit)
    tensors = {name: content for name, content in apart.results().items() if name.endswith(".safetensors")}
    assert len(tensors) == 6  # data, three networks, two curves
    assert apart.results() == joined.results()
    assert joined.plan("--cores", "1", CURVES[1], target=CURVES[0]) == {}
    assert not list(joined.root.glob("results/.scratch/*.ready"))
    logs = [path.read_text() for path in sorted(joined.root.glob("logs/**/*.log"))]
    assert sum("together with" in log for log in logs) == 2  # one training of networks, one of curves
