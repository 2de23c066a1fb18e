"""The config check and the entries of a config. Refused configs, with their messages, are in hostile_configs.py."""

import copy
from collections import Counter

import pytest
from hostile_configs import DROP, GRID, SMALL, changed
from workflow_project import OVERLAY, REPOSITORY

from neuralign.config.catalogue import SECTIONS, Catalogue, ConfigError
from neuralign.config.checking.check import check
from neuralign.config.checking.entries import read_entry
from neuralign.config.files import read

SHIPPED = read(REPOSITORY / "config.yaml")


def test_a_valid_config_has_no_problems():
    assert check(SMALL) == []


@pytest.mark.parametrize("name", ["config.yaml", OVERLAY])
def test_the_shipped_configs_are_valid(name):
    Catalogue(_merged(SHIPPED, read(REPOSITORY / name)))


def _merged(base, over):
    """As `snakemake --configfile` does."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {k: _merged(base.get(k), v) for k, v in over.items()}


def test_all_mistakes_are_reported_at_once():
    config = changed("regimes.standard.endpoint.lr", -1)
    config["networks"]["resnet32"]["depth"] = 31
    config["studies"]["small"]["grids"][0]["pair"] = ["1-1"]
    with pytest.raises(ConfigError) as error:
        Catalogue(config)
    assert error.value.problems == check(config) and len(check(config)) >= 3
    assert str(error.value).startswith("the config is refused:\n  ")


def test_a_mistake_is_reported_once():
    with pytest.raises(ConfigError) as error:
        Catalogue(changed("networks.tinyten", {"widht": 3, "overrides": [{"when": {"dataset": "digits"}, "depth": 7}]}))
    assert len(error.value.problems) == 1


def test_the_check_reads_each_entry_once_and_once_more_for_each_override(monkeypatch):
    reads = Counter()

    def counted(section, name, place, path, problems):
        reads[path] += 1
        return read_entry(section, name, place, path, problems)

    monkeypatch.setattr("neuralign.config.checking.check.read_entry", counted)
    override = {"when": {"dataset": "digits"}, "width": 3}
    assert check(changed("networks.tinyten.overrides", [override])) == []
    entries = [f"{section}.{name}" for section in SECTIONS for name in SMALL[section]]
    assert reads == Counter([*entries, "networks.tinyten.overrides[0]"])


def test_the_check_leaves_the_config_as_it_is():
    config = copy.deepcopy(SMALL)
    Catalogue(config).studies["small"]["grids"].clear()
    assert config == SMALL


WRONG = (5, "x", [], [1], {1: 2}, {"a": [1]}, {"a": {"overrides": {"when": 1}}})


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("section", SMALL)
def test_a_section_of_a_wrong_type_is_refused(section, wrong):
    with pytest.raises(ConfigError, match="^the config is refused:"):
        Catalogue(changed(section, wrong))


@pytest.mark.parametrize(
    ("path", "written", "meant"),
    [
        ("regimes.standard.endpoint.lr", "1e-3", 0.001),  # YAML 1.1 reads 1e-3 as a string
        ("regimes.standard.endpoint.lr", "8/255", 8 / 255),
        ("regimes.standard.endpoint.lr", 1, 1.0),
        ("regimes.standard.endpoint.epochs", 3.0, 3),
        ("regimes.standard.endpoint.epochs", "3", 3),
    ],
)
def test_numbers_may_be_written_in_several_ways(path, written, meant):
    section, name, kind, key = path.split(".")
    value = Catalogue(changed(path, written)).entry(section, name)[kind][key]
    assert value == meant and type(value) is type(meant)


@pytest.mark.parametrize("section", SECTIONS)
def test_an_empty_section_counts_as_a_missing_one(section):
    assert check(changed(section, None)) == check(changed(section, DROP))


def test_two_grids_of_a_study_may_not_hold_the_same_run():
    again = dict(SMALL["studies"]["small"]["grids"][0], pair=["3-4"], curve_seed=[1], evaluation="robust")
    with pytest.raises(
        ConfigError, match=r"studies\.small\.grids\[1\]: repeats digits/tinyten/standard/3-4/unaligned of"
    ):
        Catalogue(changed("studies.small.grids", [SMALL["studies"]["small"]["grids"][0], again]))


def test_a_study_may_give_one_value_for_a_list():
    grid = Catalogue(changed(f"{GRID}.curve_seed", 7)).studies["small"]["grids"][0]
    assert grid["dataset"] == ["digits"] and grid["curve_seed"] == [7, 7]


def test_the_first_study_is_the_default():
    assert Catalogue(changed("default_study", DROP)).default_study == "small"


# ---- entries: overrides and defaults


PLACE = {"dataset": "digits", "network": "resnet32", "regime": "standard"}
ELSEWHERE = PLACE | {"network": "tinyten"}


def overridden(*overrides, section="regimes", name="standard", place=PLACE):
    config = copy.deepcopy(SMALL)
    config[section][name]["overrides"] = list(overrides)
    return Catalogue(config).entry(section, name, **place)


def test_an_override_is_merged_where_it_fits_and_nowhere_else():
    override = {"when": {"network": "resnet32"}, "endpoint": {"lr": 0.5}}
    here, there = overridden(override), overridden(override, place=ELSEWHERE)
    assert here["endpoint"]["lr"] == 0.5 and there["endpoint"]["lr"] == 0.1
    assert here["endpoint"]["epochs"] == 3, "the other keys stay"
    assert here["endpoint"]["schedule"]["every"] == 20


def test_an_override_needs_all_of_its_conditions():
    override = {"when": {"network": "resnet32", "dataset": "digits"}, "endpoint": {"lr": 0.5}}
    assert overridden(override)["endpoint"]["lr"] == 0.5
    assert overridden(override, place=ELSEWHERE)["endpoint"]["lr"] == 0.1


def test_a_later_override_wins():
    first = {"when": {"dataset": "digits"}, "endpoint": {"lr": 0.5, "momentum": 0.5}}
    second = {"when": {"network": "resnet32"}, "endpoint": {"lr": 0.7}}
    assert overridden(first, second)["endpoint"]["lr"] == 0.7
    assert overridden(first, second)["endpoint"]["momentum"] == 0.5
    assert overridden(second, first)["endpoint"]["lr"] == 0.5


def test_an_override_deep_inside_merges_but_another_plug_in_replaces():
    when = {"when": {"dataset": "digits"}}
    merged = overridden(when | {"endpoint": {"schedule": {"factor": 0.1}}})
    assert merged["endpoint"]["schedule"] == {"use": "halving", "every": 20, "factor": 0.1, "drift": 0.9996}
    replaced = overridden(when | {"endpoint": {"schedule": {"use": "constant"}}})
    assert replaced["endpoint"]["schedule"] == {"use": "constant"}
    other_plugin = overridden(when | {"use": "tinyten"}, section="networks", name="resnet32")
    assert other_plugin["use"] == "tinyten" and other_plugin["depth"] == 8


def test_attention_is_compared_with_that_of_the_start_at_the_same_place():
    config = changed("alignments.correlation.overrides", [{"when": {"network": "tinyten"}, "attention": True}])
    config["alignments"]["second"] = {"use": "correlation", "start": "correlation"}
    with pytest.raises(ConfigError, match="second.attention: found False; it must be the same as that of correlation"):
        Catalogue(config).entry("alignments", "second", network="tinyten")
    config["alignments"]["second"]["overrides"] = config["alignments"]["correlation"]["overrides"]
    assert Catalogue(config).entry("alignments", "second", network="tinyten")["attention"]


def test_overrides_that_are_valid_alone_but_not_together_are_refused_where_both_apply():
    overrides = [{"when": {"dataset": "digits"}, "use": "resnet"}, {"when": {"regime": "standard"}, "depth": 9}]
    catalogue = Catalogue(changed("networks.tinyten.overrides", overrides))
    with pytest.raises(ConfigError, match=r"networks\.tinyten\.depth: found 9: allowed are 8, 14, 20"):
        catalogue.entry("networks", "tinyten", **ELSEWHERE)


def test_defaults_are_filled_in_so_that_spelling_one_out_changes_nothing():
    short, spelled = Catalogue(SMALL), copy.deepcopy(SMALL)
    entries = [(section, name) for section in SECTIONS if section != "studies" for name in SMALL[section]]
    for section, name in entries:
        spelled[section][name] = short.entry(section, name)
    assert spelled != SMALL
    long = Catalogue(spelled)
    assert all(long.entry(section, name) == short.entry(section, name) for section, name in entries)


def test_the_order_of_keys_and_the_spelling_of_numbers_change_nothing():
    other = changed(
        "regimes.standard.endpoint",
        {"lr": "1/10", "batch_size": 64.0, "schedule": {"every": 20, "use": "halving"}, "epochs": 3},
    )
    assert Catalogue(other).entry("regimes", "standard") == Catalogue(SMALL).entry("regimes", "standard")


def test_a_curve_without_bends_is_not_trained():
    assert [Catalogue(SMALL).trained(curve) for curve in ("linear", "bezier")] == [False, True]
