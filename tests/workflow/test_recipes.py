"""Recipes: keys change if and only if the result would, and file times come to say what keys say."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from workflow_project import OVERLAY, REPOSITORY

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


def paths(rule, wildcards):
    """As the rules have them, where it matters here."""
    patterns = OUTPUTS.get(rule) or {"x": f"results/{rule}/" + "/".join(f"{{{name}}}" for name in sorted(wildcards))}
    patterns = patterns if rule in OUTPUTS else {name: patterns["x"] + f".{name}" for name in NAMES[rule]}
    return {name: pattern.format(**wildcards) for name, pattern in patterns.items()}


NAMES = {
    "import_endpoint": ["network"],
    "align": ["permutation", "moved"],
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
    found = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    smoke = yaml.safe_load((REPOSITORY / OVERLAY).read_text())
    return {k: found[k] | smoke[k] if k in smoke and k != "default_study" else found[k] for k in found}


def made(settings=None):
    recipes._content_digest.cache_clear()
    return Recipes(Catalogue(settings or config()), REPOSITORY / "scripts", paths)


def key(rule, wildcards, settings=None):
    return made(settings).of(rule, wildcards)["key"]


# ---- keys


def test_every_rule_has_recipes_that_are_json_and_complete(mine):
    found = made(mine)
    found.write("report", {"study": "smoke"})
    found.write(*IMPORT)
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
    assert made().of("report", {"study": "smoke"}) == made().of("report", {"study": "smoke"})
    assert str(REPOSITORY) not in json.dumps(made().of("report", {"study": "smoke"}))


def test_the_mirror_of_a_download_does_not_matter_but_its_checksum_does():
    mirror, other = config(), config()
    mirror["datasets"]["cifar100"]["url"] = "https://example.org/cifar.tar.gz"
    other["datasets"]["cifar100"]["checksum"] = "sha256:" + "0" * 64
    cifar = ("fetch_data", {"dataset": "cifar100"})
    assert key(*cifar) == key(*cifar, mirror) != key(*cifar, other)


def test_data_named_by_content_are_the_same_from_every_archive():
    first, other = config(), config()
    first["datasets"]["cifar10"]["content"] = "sha256:" + "1" * 64
    other["datasets"]["cifar10"] |= {"content": "sha256:" + "1" * 64, "checksum": "md5:" + "0" * 32, "url": "mine.tgz"}
    cifar = ("fetch_data", {"dataset": "cifar10"})
    assert key(*cifar, first) == key(*cifar, other)
    other["datasets"]["cifar10"]["content"] = "sha256:" + "2" * 64
    assert key(*cifar, first) != key(*cifar, other)


@pytest.fixture
def local():
    """A config whose digits are a local file."""
    _arrays(Path("mine.npz"), 1)
    found = config()
    found["datasets"]["digits"] = {"use": "npz", "path": "mine.npz"}
    return found


def _arrays(path, value):
    x, y = np.full((2, 4, 4), value, np.uint8), np.zeros(2, np.int64)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    os.utime(path, (1e9, 1e9))


def test_the_content_of_local_data_matters_and_its_time_does_not(local):
    before = key(*DATA, local)
    Path("mine.npz").touch()
    assert key(*DATA, local) == before
    _arrays("mine.npz", 2)
    os.utime("mine.npz", (1e9 + 1, 1e9 + 1))
    assert key(*DATA, local) != before


def test_local_data_may_be_moved(local):
    before = key(*ENDPOINT, local)
    Path("mine.npz").rename("moved.npz")
    local["datasets"]["digits"]["path"] = "moved.npz"
    assert key(*ENDPOINT, local) == before


def test_a_change_upstream_changes_every_key_downstream_and_no_other():
    changed = config()
    changed["datasets"]["digits"]["size"] = 20
    assert key(*ENDPOINT) != key(*ENDPOINT, changed)
    other = ("fetch_data", {"dataset": "cifar10"})
    assert key(*other) == key(*other, changed)


@pytest.fixture
def mine():
    """A config with a network file and a checkpoint of one's own, which need not be a good one here."""
    Path("nets.py").write_text("class Net: pass\n")
    Path("a.pt").write_bytes(b"weights")
    os.utime("a.pt", (1e9, 1e9))
    found = config()
    found["networks"]["own"] = {"use": "nets.py:Net", "options": {"width": 2}}
    found["checkpoints"] = {"mine_a": {"file": "a.pt"}}
    return found


PLACE = {"dataset": "digits", "network": "own", "regime": "plain"}
IMPORT = ("import_endpoint", PLACE | {"checkpoint": "mine_a"})


def test_a_checkpoint_counts_by_its_content(mine):
    before = key(*IMPORT, mine)
    os.utime("a.pt", (1e9 + 5, 1e9 + 5))
    assert key(*IMPORT, mine) == before
    Path("a.pt").write_bytes(b"others!")
    os.utime("a.pt", (1e9 + 10, 1e9 + 10))
    assert key(*IMPORT, mine) != before


def test_the_digest_of_a_checkpoint_is_computed_once(mine, monkeypatch):
    before = key(*IMPORT, mine)
    monkeypatch.setattr("neuralign.datasets.reading.locations.sha256", lambda path: pytest.fail("read again"))
    assert key(*IMPORT, mine) == before


def test_a_checkpoint_may_be_moved_and_says_where_in_the_file_it_lies(mine):
    before = key(*IMPORT, mine)
    Path("a.pt").rename("b.pt")
    mine["checkpoints"]["mine_a"]["file"] = "b.pt"
    assert key(*IMPORT, mine) == before
    mine["checkpoints"]["mine_a"]["inside"] = "ema"
    assert key(*IMPORT, mine) != before


def test_a_key_tells_where_bytes_lie_from_what_they_are(mine):
    recipe = made(mine).of(*IMPORT)
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


def test_the_regime_of_training_is_no_business_of_a_checkpoint_but_normalisation_is(mine):
    before = key(*IMPORT, mine)
    mine["regimes"]["plain"]["endpoint"]["lr"] = 0.5
    assert key(*IMPORT, mine) == before
    mine["networks"]["own"] |= {"mean": [0.5], "std": [0.5]}
    assert key(*IMPORT, mine) != before


def test_ends_of_a_pair_may_be_a_seed_and_a_checkpoint(mine):
    found = made(mine).of("align", PLACE | {"pair": "1-mine_a", "alignment": "correlation"})
    assert found["upstream"]["source"] == key(*IMPORT, mine)
    assert found["upstream"]["target"] == key("train_endpoint", PLACE | {"seed": "1"}, mine)
    assert found["code"]["nets.py"]


def test_of_an_installed_network_the_version_of_its_package_counts(mine, monkeypatch):
    def with_version(text):
        recipes.code.cache_clear()
        monkeypatch.setattr(
            "neuralign.workflow.provenance.code_digests.importlib.metadata.version", lambda package: text
        )
        return key(*IMPORT, mine)

    mine["networks"]["own"] = {"use": "torchvision.models:resnet18"}
    one, same, other = (with_version(v) for v in ("0.29.1+cpu", "0.29.1", "0.30.0"))
    recipes.code.cache_clear()
    assert one == same != other


def test_augmentation_is_no_business_of_the_data():
    changed = config()
    changed["datasets"]["digits"]["augment"] = []
    assert key(*DATA) == key(*DATA, changed) and key(*ENDPOINT) != key(*ENDPOINT, changed)


def test_seeds_have_keys_of_their_own():
    assert key(*ENDPOINT) != key("train_endpoint", ENDPOINT[1] | {"seed": "2"})


def test_a_release_of_torch_counts_but_not_its_build(monkeypatch):
    def with_version(text):
        recipes._version.cache_clear()
        monkeypatch.setattr(recipes, "version", lambda package: text)
        return key(*ENDPOINT), key(*DATA)

    cpu, gpu, next_release = (with_version(v) for v in ("2.14.1+cpu", "2.14.1+cu130", "2.15.0"))
    recipes._version.cache_clear()
    assert cpu == gpu and cpu[0] != next_release[0] and cpu[1] == next_release[1]


# ---- writing, and file times


RECIPE = Path(recipe_path(paths(*ENDPOINT)["network"]))
OUTPUT_FILES = [Path(p) for p in paths(*ENDPOINT).values()]


def write(settings=None):
    made(settings).write(*ENDPOINT)
    return RECIPE.read_text()


def finish(when, settings=None, noted=None):
    """The endpoint and its data as a finished job leaves them: the outputs, their notes, `when` (seconds ago)."""
    for rule, wildcards in (DATA, ENDPOINT):
        for output in paths(rule, wildcards).values():
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            Path(output).write_text("made")
            note = {"key": noted or key(rule, wildcards, settings), "started": "then", "sha256": sha256(output)}
            Path(note_path(output)).write_text(json.dumps(note))
            os.utime(output, (time.time() - when,) * 2)


def faster():
    changed = config()
    changed["regimes"]["plain"]["endpoint"]["lr"] = 0.5
    return changed


def newer():
    """Whether Snakemake finds the recipe newer than the outputs."""
    return RECIPE.stat().st_mtime > min(p.stat().st_mtime for p in OUTPUT_FILES)


def test_a_new_recipe_is_written():
    assert json.loads(write())["key"] == key(*ENDPOINT)


def test_an_unchanged_recipe_is_left_alone():
    write()
    before = RECIPE.stat().st_ino
    write()
    assert RECIPE.stat().st_ino == before


def test_recipes_upstream_are_written_too():
    write()
    assert Path(recipe_path(paths(*DATA)["data"])).exists()


def test_a_changed_recipe_is_newer_than_the_outputs_even_if_they_come_from_the_future():
    for when in (100, -1e6):
        write()
        finish(when)
        write()
        assert not newer()
        write(faster())
        assert newer()


def test_a_recipe_changed_back_is_older_again():
    write()
    finish(100)
    before = write()
    assert write(faster()) != before
    assert write() == before and not newer()


def test_a_lost_recipe_comes_back_older_than_the_outputs_it_made():
    finish(100)
    write()
    assert not newer()


def test_a_lost_recipe_comes_back_newer_if_there_is_no_note():
    finish(100)
    for output in OUTPUT_FILES:
        Path(note_path(output)).unlink()
    write()
    assert newer()


def test_without_outputs_a_recipe_is_older_than_anything_further_down():
    write()
    assert RECIPE.stat().st_mtime == recipes.LONG_AGO
    write(faster())
    assert RECIPE.stat().st_mtime == recipes.LONG_AGO


def test_with_some_of_the_outputs_a_changed_recipe_is_newer_than_these():
    write()
    finish(-100)
    OUTPUT_FILES[0].unlink()
    write(faster())
    assert RECIPE.stat().st_mtime > OUTPUT_FILES[1].stat().st_mtime


@pytest.mark.parametrize("damaged", ["", "{", "[]", "5", "{}", '{"key": "another"}'])
def test_a_damaged_note_is_no_note(damaged):
    finish(100)
    for output in OUTPUT_FILES:
        Path(note_path(output)).write_text(damaged)
    write()
    assert newer()


def test_a_missing_note_alone_changes_nothing():
    write()
    finish(-100)
    write()
    for output in OUTPUT_FILES:
        Path(note_path(output)).unlink()
    before = RECIPE.stat().st_mtime
    write()
    assert RECIPE.stat().st_mtime == before and not newer()


def test_an_output_of_another_key_is_named_so_that_no_recorded_checksum_fits():
    plain = write()
    finish(-100, noted="another")
    replacing = write()
    assert json.loads(replacing) == json.loads(plain) | {"replaces": {"key": "another", "started": "then"}}
    assert newer()
    assert write() == replacing, "planning twice changes nothing"
    finish(-200)
    assert write() == plain and not newer()


def test_outputs_are_dated_after_inputs_that_copying_made_newer():
    write()
    finish(100)
    data = Path(paths(*DATA)["data"])
    os.utime(data, (time.time() + 50,) * 2)
    write()
    assert min(p.stat().st_mtime for p in OUTPUT_FILES) >= data.stat().st_mtime and not newer()
    assert Path(recipe_path(data)).stat().st_mtime < data.stat().st_mtime


def test_outputs_keep_their_date_if_an_input_is_not_what_its_note_says():
    write()
    finish(100)
    data = Path(paths(*DATA)["data"])
    data.write_text("something else")
    before = [p.stat().st_mtime for p in OUTPUT_FILES]
    write()
    assert [p.stat().st_mtime for p in OUTPUT_FILES] == before and data.stat().st_mtime > max(before)
