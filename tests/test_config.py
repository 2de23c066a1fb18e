"""The config check: every mistake is named with its place, what was found, what is allowed, and the nearest name."""

import copy

import pytest
import yaml
from workflow_project import OVERLAY, REPOSITORY

from neuralign.config import SECTIONS, Catalogue, ConfigError

SHIPPED = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
SMALL = yaml.safe_load(
    """
default_study: small
datasets: {digits: {size: 16, augment: [{use: flip}]}}
networks:
  tinyten: {}
  resnet32: {use: resnet, depth: 32}
  theirs: {use: "torchvision.models:resnet18", options: {norm_layer: null}, input_size: 64, mean: [0.5, 0.5, 0.5]}
attacks: {pgd5: {use: pgd, eps: 8/255, step: 2/255}}
regimes:
  standard:
    endpoint: {epochs: 3, batch_size: 64, lr: 0.1, schedule: {use: halving, every: 20}}
    curve: {epochs: 2, batch_size: 64, lr: 0.1}
  robust:
    attack: pgd5
    endpoint: {epochs: 3, batch_size: 64, lr: 0.1}
    curve: {epochs: 2, batch_size: 64, lr: 0.1}
alignments: {none: null, correlation: {images: 100}}
curves: {linear: {use: segment}, bezier: {}}
methods: {unaligned: {alignment: none, curve: bezier}, aligned: {alignment: correlation, curve: bezier}}
evaluations: {standard: {points: 5}, robust: {points: 5, attacks: [pgd5]}}
planes: {coarse: {points: 5}}
checkpoints: {mine_a: {file: a.pt}, mine_b: {file: b.safetensors, inside: model}}
studies:
  small:
    title: Small
    grids:
      - {dataset: digits, network: tinyten, regime: standard, pair: [1-2, 3-4], curve_seed: [1, 2], method: [unaligned],
         evaluation: standard}
"""
)
GRID = "studies.small.grids.0"
DROP = object()  # as a value: remove the key

# (path of the key, its new value, what the message must contain)
WRONG = [
    # unknown keys and sections, at each level
    ("datsets", {}, "datsets: unknown section 'datsets'; did you mean 'datasets'?", "(allowed: datasets, networks,"),
    ("datasets.digits.sise", 8, "datasets.digits: unknown key 'sise'; did you mean 'size'?", "(allowed: size, test_"),
    ("datasets.digits.augment.0.p", 1, "datasets.digits.augment[0]: unknown key 'p' (allowed: probability)"),
    ("networks.resnet32.dept", 8, "networks.resnet32: unknown key 'dept'; did you mean 'depth'?"),
    ("attacks.pgd5.epsilon", 1, "attacks.pgd5: unknown key 'epsilon'", "allowed: eps, step, steps"),
    ("regimes.standard.endpoints", {}, "regimes.standard: unknown key 'endpoints'; did you mean 'endpoint'?"),
    ("regimes.standard.endpoint.lrr", 1, "regimes.standard.endpoint: unknown key 'lrr'; did you mean 'lr'?"),
    (
        "regimes.standard.endpoint.schedule.evry",
        1,
        "regimes.standard.endpoint.schedule: unknown key 'evry'",
        "'every'?",
    ),
    ("alignments.correlation.image", 1, "alignments.correlation: unknown key 'image'; did you mean 'images'?"),
    ("curves.bezier.bend", 1, "curves.bezier: unknown key 'bend'; did you mean 'bends'?"),
    ("methods.aligned.seed", 1, "methods.aligned: unknown key 'seed' (allowed: alignment, curve)"),
    ("evaluations.standard.point", 1, "evaluations.standard: unknown key 'point'; did you mean 'points'?"),
    ("studies.small.titel", "x", "studies.small: unknown key 'titel'; did you mean 'title'?"),
    (f"{GRID}.pairs", ["1-2"], "studies.small.grids[0]: unknown key 'pairs'; did you mean 'pair'?"),
    # missing keys
    ("regimes.standard.curve", DROP, "regimes.standard: the key 'curve' is missing (allowed: endpoint, curve,"),
    ("regimes.standard.endpoint.lr", DROP, "regimes.standard.endpoint: the key 'lr' is missing (allowed: epochs,"),
    ("attacks.pgd5.eps", DROP, "attacks.pgd5: the key 'eps' is missing"),
    ("methods.aligned.curve", DROP, "methods.aligned: the key 'curve' is missing"),
    ("studies.small.title", DROP, "studies.small: the key 'title' is missing"),
    ("studies.small.grids", DROP, "studies.small: the key 'grids' is missing"),
    (f"{GRID}.evaluation", DROP, "studies.small.grids[0]: the key 'evaluation' is missing"),
    # types
    ("regimes.standard.endpoint.epochs", "ten", "regimes.standard.endpoint.epochs: found 'ten'", "valid integer"),
    ("regimes.standard.endpoint.epochs", 2.5, "regimes.standard.endpoint.epochs: found 2.5", "integer"),
    ("regimes.standard.endpoint.epochs", True, "endpoint.epochs: found True: a number is wanted, not true or false"),
    ("regimes.standard.endpoint.lr", "fast", "regimes.standard.endpoint.lr: found 'fast'", "valid number"),
    ("regimes.standard.endpoint.lr", [0.1], "regimes.standard.endpoint.lr: found [0.1]", "valid number"),
    ("regimes.standard.endpoint.nesterov", "maybe", "regimes.standard.endpoint.nesterov: found 'maybe'", "boolean"),
    ("regimes.standard.endpoint.nesterov", 1, "regimes.standard.endpoint.nesterov: found 1", "boolean"),
    ("regimes.standard.endpoint.precision", "half", "endpoint.precision: found 'half'", "'float32' or 'bfloat16'"),
    ("regimes.standard.endpoint", [1], "regimes.standard.endpoint: found [1]", "dictionary"),
    ("studies.small.title", 5, "studies.small.title: found 5", "valid string"),
    ("networks.tinyten", 5, "networks.tinyten: must be a mapping, found 5"),
    ("networks", ["tinyten"], "networks: must map names to entries, found ['tinyten']"),
    ("regimes", "standard", "regimes: must map names to entries, found 'standard'"),
    ("datasets.digits.augment", {"use": "flip"}, "datasets.digits.augment: found {'use': 'flip'}", "valid list"),
    ("datasets.digits.augment.0", "flip", "datasets.digits.augment[0]: must be a mapping with `use`, one of affine,"),
    ("studies.small.grids", {}, "studies.small.grids: found {}", "valid list"),
    (GRID, "digits", "studies.small.grids[0]: must be a mapping, found 'digits'"),
    # ranges
    ("regimes.standard.endpoint.epochs", 0, "regimes.standard.endpoint.epochs: found 0", "greater than or equal to 1"),
    ("regimes.standard.endpoint.lr", -1, "regimes.standard.endpoint.lr: found -1", "greater than 0"),
    ("regimes.standard.endpoint.lr", float("nan"), "regimes.standard.endpoint.lr: found nan", "finite number"),
    ("regimes.standard.endpoint.lr", float("inf"), "regimes.standard.endpoint.lr: found inf", "finite number"),
    ("regimes.standard.endpoint.lr", "1/0", "regimes.standard.endpoint.lr: found '1/0'", "valid number"),
    ("regimes.standard.endpoint.momentum", 1, "regimes.standard.endpoint.momentum: found 1: must be less than 1"),
    ("regimes.standard.endpoint.momentum", 1.5, "endpoint.momentum: found 1.5", "less than or equal to 1"),
    ("regimes.standard.endpoint.weight_decay", -0.1, "endpoint.weight_decay: found -0.1", "greater than or equal to 0"),
    ("networks.resnet32.depth", 31, "networks.resnet32.depth: found 31: allowed are 8, 14, 20, ..."),
    ("datasets.digits.augment.0", {"use": "affine", "scale": [2, 1]}, "[0].scale: found [2, 1]: the smaller number"),
    ("datasets.digits.test_fraction", 1.5, "datasets.digits.test_fraction: found 1.5", "less than or equal to 1"),
    ("datasets.digits.mean", [2], "datasets.digits.mean.0: found 2", "less than or equal to 1"),
    ("evaluations.standard.points", 1, "evaluations.standard.points: found 1", "greater than or equal to 2"),
    ("evaluations.standard.seed", 2**31, f"evaluations.standard.seed: found {2**31}", f"less than {2**31}"),
    # plug-ins that do not exist
    ("networks.tinyten.use", "resnt", "networks.tinyten.use: no such plug-in 'resnt'; did you mean 'resnet'?"),
    ("networks.other", {}, "networks.other.use: no such plug-in 'other' (allowed: googlenet, resnet, tinyten)"),
    ("datasets.digits.use", "checks", "datasets.digits.use: no such plug-in 'checks' (allowed: cifar, digits,"),
    ("datasets.digits.use", "../digits", "datasets.digits.use: no such plug-in '../digits'"),
    ("datasets.digits.use", 5, "datasets.digits: must be a mapping with `use`"),
    ("datasets.digits.augment.0.use", "flop", "datasets.digits.augment[0].use: no such plug-in 'flop'", "'flip'?"),
    (
        "regimes.standard.curve.schedule",
        {"use": "halfing"},
        "regimes.standard.curve.schedule.use: no such",
        "'halving'?",
    ),
    ("regimes.standard.curve.schedule", "halving", "regimes.standard.curve.schedule: must be a mapping with `use`"),
    # references
    ("default_study", "smal", "default_study: no such entry of 'studies': 'smal'; did you mean 'small'?"),
    ("default_study", ["small"], "default_study: no such entry of 'studies': ['small']"),
    (
        "regimes.robust.attack",
        "pgd",
        "regimes.robust.attack: no such entry of 'attacks': 'pgd'",
        "'pgd5'? (allowed: pgd5)",
    ),
    ("methods.aligned.alignment", "non", "methods.aligned.alignment: no such entry of 'alignments': 'non'", "'none'?"),
    ("methods.aligned.curve", "line", "methods.aligned.curve: no such entry of 'curves': 'line'", "'linear'?"),
    ("evaluations.robust.attacks", ["pg5"], "evaluations.robust.attacks[0]: no such entry of 'attacks': 'pg5'"),
    ("evaluations.robust.attacks", ["clean"], "evaluations.robust.attacks[0]: 'clean' is always measured"),
    (f"{GRID}.dataset", "digit", "grids[0].dataset: no such entry of 'datasets': 'digit'; did you mean 'digits'?"),
    (f"{GRID}.network", ["ten"], "grids[0].network: no such entry of 'networks': 'ten'", "'tinyten'?"),
    (f"{GRID}.regime", "standrd", "grids[0].regime: no such entry of 'regimes': 'standrd'", "'standard'?"),
    (f"{GRID}.method", "alined", "grids[0].method: no such entry of 'methods': 'alined'", "'aligned'?"),
    (f"{GRID}.evaluation", "fast", "grids[0].evaluation: no such entry of 'evaluations': 'fast' (allowed: standard,"),
    # sections and lists that are not there
    ("studies", DROP, "default_study: no such entry of 'studies': 'small' (allowed: none)"),
    ("methods", DROP, "grids[0].method: no such entry of 'methods': 'unaligned' (allowed: none)"),
    ("studies.small.grids", [], "studies.small.grids: found []", "at least 1 item"),
    (f"{GRID}.pair", [], "studies.small.grids[0].pair: is empty; a study needs at least one"),
    (f"{GRID}.dataset", [], "studies.small.grids[0].dataset: is empty"),
    # pairs and seeds
    (f"{GRID}.pair", ["1-2", "1-2"], "studies.small.grids[0].pair: names something twice: ['1-2', '1-2']"),
    (f"{GRID}.method", ["aligned", "aligned"], "studies.small.grids[0].method: names something twice"),
    (f"{GRID}.pair", ["1-2", "mine_a-mine_a"], "found 'mine_a-mine_a': a pair is two different seeds or checkpoints"),
    (f"{GRID}.pair", ["1-2", "mine-mine_b"], "no such entry of 'checkpoints': 'mine'; did you mean 'mine_b'?"),
    # networks and checkpoints of other people
    ("networks.theirs.use", "torchvision.modls:resnet18", "networks.theirs.use: no module 'torchvision.modls'"),
    ("networks.theirs.use", "nets.py:Net", "networks.theirs.use: nets.py:Net: no such file as"),
    (
        "networks.theirs.option",
        {},
        "networks.theirs: unknown key 'option'; did you mean 'options'? (allowed: options, in",
    ),
    ("networks.theirs.options", [1], "networks.theirs.options: found [1]", "dictionary"),
    ("networks.theirs.on_curve", {"width": 2}, "networks.theirs.on_curve: unknown key 'width' (allowed: options)"),
    (
        "checkpoints.mine-a",
        {"file": "a.pt"},
        "checkpoints.mine-a: a checkpoint's name has letters, digits, '_' and '.',",
    ),
    ("checkpoints.1", {"file": "a.pt"}, "checkpoints.1: a checkpoint's name has"),
    ("checkpoints.mine_a.path", "a.pt", "checkpoints.mine_a: unknown key 'path' (allowed: file, inside)"),
    ("checkpoints.mine_a.file", DROP, "checkpoints.mine_a: the key 'file' is missing"),
    (f"{GRID}.pair", ["1-2", "3-3"], "studies.small.grids[0].pair: found '3-3': a pair is two different seeds"),
    (f"{GRID}.pair", ["1-2", "03-4"], "studies.small.grids[0].pair: found '03-4'"),
    (f"{GRID}.pair", ["1-2", "3_4"], "studies.small.grids[0].pair: found '3_4'"),
    (f"{GRID}.pair", ["1-2", 34], "studies.small.grids[0].pair.1: found 34", "valid string"),
    (f"{GRID}.curve_seed", [1, 2, 3], "grids[0].curve_seed: found 3 seeds for 2 pairs: give one for each pair, or one"),
    (f"{GRID}.curve_seed", [], "studies.small.grids[0].curve_seed: is empty"),
    (f"{GRID}.curve_seed", [1, -2], "studies.small.grids[0].curve_seed.1: found -2", "greater than or equal to 0"),
    # names, which become folders
    ("networks.a/b", {"use": "tinyten"}, "networks.a/b: a name has letters, digits"),
    (("studies", ""), {}, "studies.: a name has letters, digits"),
    (("attacks", ".."), {"use": "pgd", "eps": 1, "step": 1}, "attacks...: a name has letters"),
    # overrides
    ("networks.tinyten.overrides", 5, "networks.tinyten.overrides: must be a list, found 5"),
    ("networks.tinyten.overrides", [5], "networks.tinyten.overrides[0]: needs `when`, a mapping", "found 5"),
    ("networks.tinyten.overrides", [{"width": 3}], "networks.tinyten.overrides[0]: needs `when`", "dataset, network"),
    ("networks.tinyten.overrides", [{"when": {}, "width": 3}], "networks.tinyten.overrides[0]: needs `when`"),
    (
        "networks.tinyten.overrides",
        [{"when": {"pair": "1-2"}}],
        "overrides[0].when: unknown key 'pair' (allowed: dataset",
    ),
    (
        "networks.tinyten.overrides",
        [{"when": {"dataset": "digts"}}],
        "overrides[0].when.dataset: no such entry",
        "'digits'?",
    ),
    (
        "networks.tinyten.overrides",
        [{"when": {"dataset": ["digits"]}}],
        "when.dataset: no such entry of 'datasets': ['d",
    ),
    (
        "networks.tinyten.overrides",
        [{"when": {"dataset": "digits"}, "widht": 3}],
        "overrides[0]: unknown key 'widht'",
        "'width'?",
    ),
    ("networks.tinyten.overrides", [{"when": {"dataset": "digits"}, "width": 0}], "overrides[0].width: found 0"),
    (
        "datasets.digits.overrides",
        [{"when": {"network": "tinyten"}, "size": 8}],
        "datasets.digits.overrides: datasets are",
    ),
]


def changed(path, value):
    """The small config with one key set, added or dropped."""
    place = config = copy.deepcopy(SMALL)
    *parents, last = path.split(".") if isinstance(path, str) else path
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is DROP:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return config


@pytest.mark.parametrize(("path", "value", "expected"), [(p, v, e) for p, v, *e in WRONG])
def test_a_mistake_is_named(path, value, expected):
    with pytest.raises(ConfigError) as refused:
        Catalogue(changed(path, value))
    for text in expected:
        assert text in str(refused.value)


def test_the_small_config_is_valid():
    Catalogue(SMALL)


@pytest.mark.parametrize("name", ["config.yaml", OVERLAY])
def test_the_shipped_configs_are_valid(name):
    Catalogue(_merged(SHIPPED, yaml.safe_load((REPOSITORY / name).read_text())))


def _merged(base, over):
    """As `snakemake --configfile` does."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {k: _merged(base.get(k), v) for k, v in over.items()}


def test_all_mistakes_are_reported_at_once():
    config = changed("regimes.standard.endpoint.lr", -1)
    config["networks"]["resnet32"]["depth"] = 31
    config["studies"]["small"]["grids"][0]["pair"] = ["1-1"]
    with pytest.raises(ConfigError) as refused:
        Catalogue(config)
    assert len(refused.value.problems) >= 3
    assert str(refused.value).startswith("the config is refused:\n  ")


def test_a_mistake_is_reported_once():
    with pytest.raises(ConfigError) as refused:
        Catalogue(changed("networks.tinyten", {"widht": 3, "overrides": [{"when": {"dataset": "digits"}, "depth": 7}]}))
    assert len(refused.value.problems) == 1


def test_an_unhashable_or_odd_config_is_refused_not_crashed_on():
    for section in SMALL:
        for odd in (5, "x", [], [1], {1: 2}, {"a": [1]}, None, {"a": {"overrides": {"when": 1}}}):
            try:
                Catalogue(changed(section, odd))
            except ConfigError:
                pass


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
    found = Catalogue(changed(path, written)).entry(section, name)[kind][key]
    assert found == meant and type(found) is type(meant)


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


# ---- what an entry is


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
    whole = overridden(when | {"use": "tinyten"}, section="networks", name="resnet32")
    assert whole["use"] == "tinyten" and "depth" in whole and whole["depth"] == 8


def test_overrides_that_are_sound_alone_but_not_together_are_refused_when_they_meet():
    overrides = [{"when": {"dataset": "digits"}, "use": "resnet"}, {"when": {"regime": "standard"}, "depth": 9}]
    catalogue = Catalogue(changed("networks.tinyten.overrides", overrides))
    with pytest.raises(ConfigError, match=r"networks\.tinyten\.depth: found 9: allowed are 8, 14, 20"):
        catalogue.entry("networks", "tinyten", **ELSEWHERE)


def test_defaults_are_filled_in_so_that_spelling_one_out_changes_nothing():
    short, spelled = Catalogue(SMALL), copy.deepcopy(SMALL)
    named = [(section, name) for section in SECTIONS if section != "studies" for name in SMALL[section]]
    for section, name in named:
        spelled[section][name] = short.entry(section, name)
    assert spelled != SMALL
    long = Catalogue(spelled)
    assert all(long.entry(section, name) == short.entry(section, name) for section, name in named)


def test_the_order_of_keys_and_the_spelling_of_numbers_change_nothing():
    other = changed(
        "regimes.standard.endpoint",
        {"lr": "1/10", "batch_size": 64.0, "schedule": {"every": 20, "use": "halving"}, "epochs": 3},
    )
    assert Catalogue(other).entry("regimes", "standard") == Catalogue(SMALL).entry("regimes", "standard")


def test_a_curve_without_bends_is_not_trained():
    assert [Catalogue(SMALL).trained(curve) for curve in ("linear", "bezier")] == [False, True]
