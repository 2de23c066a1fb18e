"""Recipes: a key changes if and only if the result would; modification times make Snakemake decide as the keys do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from workflow_project import COHORTS, OVERLAY, REPOSITORY

from neuralign.common.files import note_path, recipe_path, sha256
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.job import RULES
from neuralign.workflow.provenance import recipes
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import key_of

OUTPUTS = {
    "fetch_data": {"data": "results/data/{dataset}"},
    "train_endpoint": {"network": "results/{dataset}/{seed}", "history": "results/{dataset}/{seed}.csv"},
}
DATA = ("fetch_data", {"dataset": "digits"})
ENDPOINT = ("train_endpoint", {"dataset": "digits", "network": "tinyten", "regime": "plain", "seed": "1"})

PATH = {"pair": "1-2", "alignment": "none", "curve": "linear", "curve_seed": "0", "evaluation": "brief_attacked"}
EVALUATION = ("evaluate", {"dataset": "small_digits", "network": "tiny", "regime": "hardened"} | PATH)


def output_paths(rule, wildcards):
    """{output: its path} of a job, simplified from the rules."""
    patterns = OUTPUTS.get(rule) or {"x": f"results/{rule}/" + "/".join(f"{{{name}}}" for name in sorted(wildcards))}
    patterns = patterns if rule in OUTPUTS else {name: patterns["x"] + f".{name}" for name in NAMES[rule]}
    return {name: pattern.format(**wildcards) for name, pattern in patterns.items()}


NAMES = {
    "import_endpoint": ["network"],
    "align": ["permutation", "moved"],
    "align_cohort": ["permutations", "facts"],
    "evaluate_cohort": ["networks_table"],
    "tabulate_cohorts": ["cohorts"],
    "merge": ["models", "barrier", "layers"],
    "tabulate_merges": ["merges", "merges_by_pair", "merges_contrasts"],
    "signature": ["signature"],
    "train_curve": ["bends", "history"],
    "evaluate": ["points"],
    "plane": ["grid", "marks"],
    "midpoint": ["midpoint"],
    "bound": ["bound", "layers"],
    "tabulate_theory": ["theory", "theory_paths"],
    "tabulate": ["accuracy", "robust", "contrasts", "paths", "points"],
    "tabulate_claims": ["published", "claims", "alignments"],
    "plot": ["png", "pdf"],
    "report": ["html"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Results lie in a fresh working directory; nothing computed before is remembered."""
    monkeypatch.chdir(tmp_path)
    recipes._content_digest.cache_clear()


def config():
    """config.yaml with the entries of the studies `smoke` and `merged`."""
    merged, *overlays = (yaml.safe_load((REPOSITORY / name).read_text()) for name in ("config.yaml", OVERLAY, COHORTS))
    for overlay in overlays:
        merged = {k: v | overlay[k] if k in overlay and k != "default_study" else v for k, v in merged.items()}
    return merged


def recipes_of(settings=None):
    recipes._content_digest.cache_clear()
    return Recipes(Catalogue(settings or config()), output_paths)


def key(rule, wildcards, settings=None):
    return recipes_of(settings).of(rule, wildcards)["key"]


# ---- keys


def test_every_rule_has_recipes_with_all_keys(foreign_config):
    for job in (("report", {"study": "smoke"}), ("report", {"study": "merged"}), IMPORT):
        recipes_of(foreign_config).write(*job)
    written = [json.loads(path.read_text()) for path in Path("results/recipes").rglob("*.json")]
    assert {recipe["rule"] for recipe in written} == RULES.keys()
    for recipe in written:
        assert recipe.keys() - {"source", "places"} == {
            *("rule", "wildcards", "settings", "code", "software", "upstream", "inputs", "outputs", "key")
        }
        assert recipe["upstream"].keys() == recipe["inputs"].keys()
        assert key_of(recipe) == recipe["key"]
        assert (
            f"scripts/{recipe['rule']}.py" in recipe["code"] and "neuralign.workflow.running.run" not in recipe["code"]
        )
        assert ("torch" in recipe["software"]) == ("neuralign.datasets.images" in recipe["code"])


def test_a_recipe_is_the_same_in_every_process_and_folder():
    recipe = recipes_of().of("report", {"study": "smoke"})
    program = "import json, test_recipes as t; print(json.dumps(t.recipes_of().of('report', {'study': 'smoke'})))"
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "PYTHONHASHSEED": "7"}
    Path("elsewhere").mkdir()
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, cwd="elsewhere", env=environment, capture_output=True, text=True, check=True)
    assert other.stdout == json.dumps(recipe) + "\n" and str(REPOSITORY) not in other.stdout


def test_the_key_of_a_download_depends_on_its_checksum_but_not_on_its_url():
    mirror, other = config(), config()
    mirror["datasets"]["cifar100"]["url"] = "https://example.org/cifar.tar.gz"
    other["datasets"]["cifar100"]["checksum"] = "sha256:" + "0" * 64
    cifar = ("fetch_data", {"dataset": "cifar100"})
    assert key(*cifar) == key(*cifar, mirror) != key(*cifar, other)


def test_the_key_of_data_with_a_content_does_not_depend_on_the_archive():
    first, other = config(), config()
    first["datasets"]["cifar10"]["content"] = "sha256:" + "1" * 64
    other["datasets"]["cifar10"] |= {
        "content": "sha256:" + "1" * 64,
        "checksum": "md5:" + "0" * 32,
        "url": "mine.tgz",
    }
    cifar = ("fetch_data", {"dataset": "cifar10"})
    assert key(*cifar, first) == key(*cifar, other)
    other["datasets"]["cifar10"]["content"] = "sha256:" + "2" * 64
    assert key(*cifar, first) != key(*cifar, other)


@pytest.fixture
def local_config():
    """A config whose digits are a local file."""
    _arrays(Path("mine.npz"), 1)
    return config() | {"datasets": config()["datasets"] | {"digits": {"use": "npz", "path": "mine.npz"}}}


def _arrays(path, value):
    x, y = np.full((2, 4, 4), value, np.uint8), np.zeros(2, np.int64)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    os.utime(path, (1e9, 1e9))


def test_the_key_of_local_data_depends_on_their_content_and_not_on_their_time(local_config):
    before = key(*DATA, local_config)
    Path("mine.npz").touch()
    assert key(*DATA, local_config) == before
    _arrays("mine.npz", 2)
    os.utime("mine.npz", (1e9 + 1, 1e9 + 1))
    assert key(*DATA, local_config) != before


def test_the_key_of_local_data_does_not_depend_on_their_path(local_config):
    before = key(*ENDPOINT, local_config)
    Path("mine.npz").rename("moved.npz")
    local_config["datasets"]["digits"]["path"] = "moved.npz"
    assert key(*ENDPOINT, local_config) == before


def test_a_change_upstream_changes_every_key_downstream_and_no_other():
    changed = config()
    changed["datasets"]["digits"]["size"] = 20
    assert key(*ENDPOINT) != key(*ENDPOINT, changed)
    other = ("fetch_data", {"dataset": "cifar10"})
    assert key(*other) == key(*other, changed)


@pytest.fixture
def foreign_config():
    """A config with a network and a checkpoint of the user; nothing reads the weights here."""
    Path("nets.py").write_text("class Net: pass\n")
    Path("a.pt").write_bytes(b"weights")
    os.utime("a.pt", (1e9, 1e9))
    changed = config() | {"checkpoints": {"mine_a": {"file": "a.pt"}}}
    changed["networks"]["theirs"] = {"use": "nets.py:Net", "options": {"width": 2}}
    return changed


FOREIGN = {"dataset": "digits", "network": "theirs", "regime": "plain"}
IMPORT = ("import_endpoint", FOREIGN | {"checkpoint": "mine_a"})


def test_the_key_of_a_checkpoint_depends_on_its_content_and_not_on_its_time(foreign_config):
    before = key(*IMPORT, foreign_config)
    os.utime("a.pt", (1e9 + 5, 1e9 + 5))
    assert key(*IMPORT, foreign_config) == before
    Path("a.pt").write_bytes(b"others!")
    os.utime("a.pt", (1e9 + 10, 1e9 + 10))
    assert key(*IMPORT, foreign_config) != before


def test_the_digest_of_a_checkpoint_is_computed_once(foreign_config, monkeypatch):
    before = key(*IMPORT, foreign_config)
    monkeypatch.setattr("neuralign.datasets.reading.locations.sha256", lambda path: pytest.fail("read again"))
    assert key(*IMPORT, foreign_config) == before


def test_the_key_of_a_checkpoint_depends_on_inside_but_not_on_its_path(foreign_config):
    before = key(*IMPORT, foreign_config)
    Path("a.pt").rename("b.pt")
    foreign_config["checkpoints"]["mine_a"]["file"] = "b.pt"
    assert key(*IMPORT, foreign_config) == before
    foreign_config["checkpoints"]["mine_a"]["inside"] = "ema"
    assert key(*IMPORT, foreign_config) != before


def test_a_key_ignores_the_path_of_a_checkpoint_and_nothing_else(foreign_config):
    recipe = recipes_of(foreign_config).of(*IMPORT)
    assert recipe["places"] == ["checkpoint.file"]
    moved = recipe | {"settings": recipe["settings"] | {"checkpoint": {"file": "b.pt", "inside": None}}}
    assert key_of(moved) == recipe["key"]
    for forged in (
        {"source": "0" * 64},
        {"places": ["checkpoint"]},
        {"places": []},
        {"settings": recipe["settings"] | {"checkpoint": {"file": "a.pt", "inside": "ema"}}},
    ):
        assert key_of(recipe | forged) != recipe["key"]


def test_the_key_of_a_checkpoint_depends_on_normalisation_but_not_on_training(foreign_config):
    before = key(*IMPORT, foreign_config)
    foreign_config["regimes"]["plain"]["endpoint"]["lr"] = 0.5
    assert key(*IMPORT, foreign_config) == before
    foreign_config["networks"]["theirs"] |= {"mean": [0.5], "std": [0.5]}
    assert key(*IMPORT, foreign_config) != before


def test_a_pair_may_be_a_seed_and_a_checkpoint(foreign_config):
    recipe = recipes_of(foreign_config).of("align", FOREIGN | {"pair": "1-mine_a", "alignment": "correlation"})
    assert recipe["upstream"]["source"] == key(*IMPORT, foreign_config)
    assert recipe["upstream"]["target"] == key("train_endpoint", FOREIGN | {"seed": "1"}, foreign_config)
    assert recipe["code"]["nets.py"]


def test_the_key_of_an_installed_network_depends_on_the_version_of_its_package(foreign_config, monkeypatch):
    def with_version(text):
        recipes.code.cache_clear()
        monkeypatch.setattr(
            "neuralign.workflow.provenance.code_digests.importlib.metadata.version", lambda package: text
        )
        return key(*IMPORT, foreign_config)

    foreign_config["networks"]["theirs"] = {"use": "torchvision.models:resnet18"}
    one, same, other = (with_version(v) for v in ("0.29.1+cpu", "0.29.1", "0.30.0"))
    recipes.code.cache_clear()
    assert one == same != other


def test_the_key_of_endpoints_depends_on_the_augmentation_and_that_of_data_does_not():
    changed = config()
    changed["datasets"]["digits"]["augment"] = []
    assert key(*DATA) == key(*DATA, changed) and key(*ENDPOINT) != key(*ENDPOINT, changed)


@pytest.mark.parametrize(
    ("job", "section", "path", "default", "other"),
    [
        (ENDPOINT, "regimes", ("plain", "endpoint", "clip"), None, 1.0),
        (EVALUATION, "evaluations", ("brief_attacked", "attack_precision"), "float32", "bfloat16"),
    ],
)
def test_a_later_key_with_its_default_leaves_published_results_valid(job, section, path, default, other):
    def with_value(value):
        changed = config()
        entry = changed[section]
        for name in path[:-1]:
            entry = entry[name]
        entry[path[-1]] = value
        return changed

    assert key(*job, with_value(default)) == key(*job) != key(*job, with_value(other))


def test_every_seed_has_another_key():
    assert key(*ENDPOINT) != key("train_endpoint", ENDPOINT[1] | {"seed": "2"})


def test_keys_depend_on_the_release_of_torch_but_not_on_its_build(monkeypatch):
    def with_version(text):
        recipes._version.cache_clear()
        monkeypatch.setattr(recipes, "version", lambda package: text)
        return key(*ENDPOINT), key(*DATA)

    cpu, gpu, next_release = (with_version(v) for v in ("2.14.1+cpu", "2.14.1+cu130", "2.15.0"))
    recipes._version.cache_clear()
    assert cpu == gpu and cpu[0] != next_release[0] and cpu[1] == next_release[1]


# ---- writing, and file times


RECIPE = Path(recipe_path(output_paths(*ENDPOINT)["network"]))
OUTPUT_FILES = [Path(p) for p in output_paths(*ENDPOINT).values()]


def write_recipe(settings=None):
    recipes_of(settings).write(*ENDPOINT)
    return RECIPE.read_text()


def write_results(when, settings=None, noted=None):
    """Write the outputs of the endpoint and of its data, dated `when` seconds ago, with notes of the key `noted`."""
    for rule, wildcards in (DATA, ENDPOINT):
        for output in output_paths(rule, wildcards).values():
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            Path(output).write_text("made")
            note = {"key": noted or key(rule, wildcards, settings), "started": "then", "sha256": sha256(output)}
            Path(note_path(output)).write_text(json.dumps(note))
            os.utime(output, (time.time() - when,) * 2)


def config_with_another_lr():
    changed = config()
    changed["regimes"]["plain"]["endpoint"]["lr"] = 0.5
    return changed


def recipe_is_newer():
    """Whether Snakemake finds the recipe newer than the outputs."""
    return RECIPE.stat().st_mtime > min(p.stat().st_mtime for p in OUTPUT_FILES)


def test_a_new_recipe_is_written():
    assert json.loads(write_recipe())["key"] == key(*ENDPOINT)


def test_an_unchanged_recipe_is_left_alone():
    write_recipe()
    before = RECIPE.stat().st_ino
    write_recipe()
    assert RECIPE.stat().st_ino == before


def test_recipes_upstream_are_written_too():
    write_recipe()
    assert Path(recipe_path(output_paths(*DATA)["data"])).exists()


def test_a_changed_recipe_is_newer_than_the_outputs_even_if_they_are_dated_in_the_future():
    for when in (100, -1e6):
        write_recipe()
        write_results(when)
        write_recipe()
        assert not recipe_is_newer()
        write_recipe(config_with_another_lr())
        assert recipe_is_newer()


def test_a_recipe_that_is_changed_back_is_older_than_the_outputs_again():
    write_recipe()
    write_results(100)
    before = write_recipe()
    assert write_recipe(config_with_another_lr()) != before
    assert write_recipe() == before and not recipe_is_newer()


def test_a_deleted_recipe_is_written_older_than_the_outputs_of_its_key():
    write_results(100)
    write_recipe()
    assert not recipe_is_newer()


def test_a_deleted_recipe_is_written_newer_than_outputs_without_notes():
    write_results(100)
    for output in OUTPUT_FILES:
        Path(note_path(output)).unlink()
    write_recipe()
    assert recipe_is_newer()


def test_without_outputs_a_recipe_is_older_than_any_result():
    write_recipe()
    assert RECIPE.stat().st_mtime == recipes.LONG_AGO
    write_recipe(config_with_another_lr())
    assert RECIPE.stat().st_mtime == recipes.LONG_AGO


def test_a_changed_recipe_is_newer_than_those_of_its_outputs_that_exist():
    write_recipe()
    write_results(-100)
    OUTPUT_FILES[0].unlink()
    write_recipe(config_with_another_lr())
    assert RECIPE.stat().st_mtime > OUTPUT_FILES[1].stat().st_mtime


@pytest.mark.parametrize("damaged", ["", "{", "[]", "5", "{}", '{"key": "another"}', '"key"'])
def test_a_damaged_note_counts_as_missing(damaged):
    write_results(100)
    for output in OUTPUT_FILES:
        Path(note_path(output)).write_text(damaged)
    write_recipe()
    assert recipe_is_newer()


def test_deleting_the_notes_does_not_change_the_time_of_a_recipe():
    write_recipe()
    write_results(-100)
    write_recipe()
    for output in OUTPUT_FILES:
        Path(note_path(output)).unlink()
    before = RECIPE.stat().st_mtime
    write_recipe()
    assert RECIPE.stat().st_mtime == before and not recipe_is_newer()


def test_a_recipe_names_the_key_of_the_outputs_that_it_replaces():
    """Its content so differs from every recipe for which Snakemake has recorded a checksum."""
    plain = write_recipe()
    write_results(-100, noted="another")
    replacing = write_recipe()
    assert json.loads(replacing) == json.loads(plain) | {"replaces": {"key": "another", "started": "then"}}
    assert recipe_is_newer()
    assert write_recipe() == replacing, "a second plan leaves the recipe as it is"
    write_results(-200)
    assert write_recipe() == plain and not recipe_is_newer()


def test_outputs_are_dated_after_inputs_that_copying_made_newer():
    write_recipe()
    write_results(100)
    data = Path(output_paths(*DATA)["data"])
    os.utime(data, (time.time() + 50,) * 2)
    write_recipe()
    assert min(p.stat().st_mtime for p in OUTPUT_FILES) >= data.stat().st_mtime and not recipe_is_newer()
    assert Path(recipe_path(data)).stat().st_mtime < data.stat().st_mtime


def test_outputs_keep_their_date_if_an_input_is_not_what_its_note_says():
    write_recipe()
    write_results(100)
    data = Path(output_paths(*DATA)["data"])
    data.write_text("something else")
    before = [p.stat().st_mtime for p in OUTPUT_FILES]
    write_recipe()
    assert [p.stat().st_mtime for p in OUTPUT_FILES] == before and data.stat().st_mtime > max(before)
