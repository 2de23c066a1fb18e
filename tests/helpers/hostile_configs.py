"""Configs that must be refused at planning, and the words that the message must contain: one row each."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hostile import PLANNING, Case

from neuralign.config.catalogue import Catalogue

SMALL = yaml.safe_load(
    """
default_study: small
datasets: {digits: {size: 16, augment: [{use: flip}]}}
networks:
  tinyten: {}
  resnet32: {use: resnet, depth: 32}
  theirs: {use: "torchvision.models:resnet18", options: {norm_layer: null}, input_size: 64, mean: [0.5], std: [0.25]}
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
cohorts: {mean: {inner: correlation}}
repairs: {reset: {}, rescale: {use: repair, match: scale}}
merges: {brief: {repairs: [reset], points: 5}}
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

# (path of the key in SMALL, its value, words of the message)
ENTRIES: list[tuple[Any, ...]] = [
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
    ("regimes.standard.endpoint.epochs", True, "endpoint.epochs: found True: a number is needed, not true or false"),
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
    (
        "regimes.standard.augment",
        [{"use": "flop"}],
        "regimes.standard.augment[0].use: no such plug-in 'flop'",
        "'flip'?",
    ),
    ("studies.small.compared", ["standart"], "studies.small.compared[0]: no such entry of 'regimes': 'standart'"),
    ("datasets.digits.augment.0", "flip", "datasets.digits.augment[0]: must be a mapping with `use`, one of affine,"),
    ("studies.small.grids", {}, "studies.small.grids: found {}", "valid list"),
    (GRID, "digits", "studies.small.grids[0]: must be a mapping, found 'digits'"),
    # ranges
    ("regimes.standard.endpoint.epochs", 0, "regimes.standard.endpoint.epochs: found 0", "greater than or equal to 1"),
    ("regimes.standard.endpoint.lr", -1, "regimes.standard.endpoint.lr: found -1", "greater than 0"),
    ("regimes.standard.endpoint.lr", float("nan"), "regimes.standard.endpoint.lr: found nan", "finite number"),
    ("regimes.standard.endpoint.lr", float("inf"), "regimes.standard.endpoint.lr: found inf", "finite number"),
    ("regimes.standard.endpoint.lr", "1/0", "regimes.standard.endpoint.lr: found '1/0'", "valid number"),
    (
        "regimes.standard.endpoint.momentum",
        1,
        "regimes.standard.endpoint.momentum: found 1: input should be less than 1",
    ),
    ("regimes.standard.endpoint.momentum", 1.5, "endpoint.momentum: found 1.5", "less than 1"),
    ("regimes.standard.endpoint.weight_decay", -0.1, "endpoint.weight_decay: found -0.1", "greater than or equal to 0"),
    ("networks.resnet32.depth", 31, "networks.resnet32.depth: found 31: allowed are 8, 14, 20, ..."),
    ("datasets.digits.augment.0", {"use": "affine", "scale": [2, 1]}, "[0].scale: found [2, 1]: the smaller number"),
    ("datasets.digits.test_fraction", 1.5, "datasets.digits.test_fraction: found 1.5", "less than 1"),
    ("datasets.digits.mean", [2], "datasets.digits.mean.0: found 2", "less than or equal to 1"),
    ("evaluations.standard.points", 1, "evaluations.standard.points: found 1", "greater than or equal to 2"),
    ("evaluations.standard.full_passes", 1, "evaluations.standard.full_passes: found 1", "greater than or equal to 2"),
    ("evaluations.robust.full_passes", 3, "evaluations.robust.full_passes: found 3: needs `images`"),
    ("evaluations.standard.seed", 2**31, f"evaluations.standard.seed: found {2**31}", f"less than {2**31}"),
    # optimisers
    ("regimes.standard.endpoint.optimiser", "adamw", "endpoint.optimiser: must be a mapping with `use`, one of adamw;"),
    ("regimes.standard.endpoint.optimiser", {"use": "adam"}, "endpoint.optimiser.use: no such plug-in 'adam'; did you"),
    (
        "regimes.standard.endpoint.optimiser",
        {"use": "adamw", "epps": 1e-8},
        "regimes.standard.endpoint.optimiser: unknown key 'epps'; did you mean 'eps'? (allowed: beta1, beta2, eps)",
    ),
    ("regimes.standard.endpoint.optimiser", {"use": "adamw", "beta1": 1}, "optimiser.beta1: found 1", "less than 1"),
    ("regimes.standard.endpoint.clip", 0, "regimes.standard.endpoint.clip: found 0", "greater than 0"),
    ("regimes.standard.endpoint.warm_up", -1, "endpoint.warm_up: found -1", "greater than or equal to 0"),
    ("regimes.standard.endpoint.schedule_by", "batch", "schedule_by: found 'batch'", "'epoch' or 'step'"),
    ("regimes.standard.endpoint.gpus", 0, "regimes.standard.endpoint.gpus: found 0", "greater than or equal to 1"),
    ("regimes.standard.endpoint.gpus", 1.5, "regimes.standard.endpoint.gpus: found 1.5", "integer"),
    ("regimes.standard.curve.gpus", 65, "regimes.standard.curve.gpus: found 65", "less than or equal to 64"),
    (
        "regimes.standard.curve",
        {"epochs": 2, "batch_size": 3, "lr": 0.1, "gpus": 4},
        "regimes.standard.curve.gpus: found 4, more than the 3 images of a batch",
    ),
    (
        "regimes.standard.curve.batch_norm",
        "per_process",
        "regimes.standard.curve.batch_norm: found 'per_process', which is about several `gpus`, and there is 1; remove",
    ),
    (
        "regimes.standard.curve",
        {"epochs": 2, "batch_size": 8, "lr": 0.1, "gpus": 4, "batch_norm": "local"},
        "regimes.standard.curve.batch_norm: found 'local'",
        "'synchronised' or 'per_process'",
    ),
    # plug-ins that do not exist
    ("networks.tinyten.use", "resnt", "networks.tinyten.use: no such plug-in 'resnt'; did you mean 'resnet'?"),
    ("networks.other", {}, "networks.other.use: no such plug-in 'other' (allowed: googlenet, gpt, mlp, resnet,"),
    ("datasets.digits.use", "checks", "datasets.digits.use: no such plug-in 'checks' (allowed: cifar, diabetes,"),
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
    # sections and lists that are missing or empty
    ("studies", DROP, "default_study: no such entry of 'studies': 'small' (allowed: none)"),
    ("methods", DROP, "grids[0].method: no such entry of 'methods': 'unaligned' (allowed: none)"),
    ("studies.small.grids", [], "studies.small.grids: found []", "at least 1 item"),
    (f"{GRID}.pair", [], "studies.small.grids[0].pair: is empty; at least one is needed"),
    (f"{GRID}.dataset", [], "studies.small.grids[0].dataset: is empty"),
    # pairs and seeds
    (f"{GRID}.pair", ["1-2", "1-2"], "studies.small.grids[0].pair: has a value twice: ['1-2', '1-2']"),
    (f"{GRID}.method", ["aligned", "aligned"], "studies.small.grids[0].method: has a value twice"),
    (f"{GRID}.pair", ["1-2", "mine_a-mine_a"], "found 'mine_a-mine_a': a pair is two different seeds or checkpoints"),
    (f"{GRID}.pair", ["1-2", "mine-mine_b"], "no such entry of 'checkpoints': 'mine'; did you mean 'mine_b'?"),
    (f"{GRID}.pair", ["mine_a-1", "1-mine_a"], "grids[0].pair: mine_a-1 and 1-mine_a are the same two networks"),
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
    ("networks.theirs.std", DROP, "networks.theirs: `mean` and `std` must both have one number", "found 1 and none"),
    ("networks.theirs.std", [0.2, 0.2], "networks.theirs: `mean` and `std` must both have one number", "found 1 and 2"),
    ("networks.theirs.std", [2], "networks.theirs.std.0: found 2", "less than or equal to 1"),
    (
        "checkpoints.mine-a",
        {"file": "a.pt"},
        "checkpoints.mine-a: a checkpoint's name has letters, digits, '_' and '.',",
    ),
    ("checkpoints.1", {"file": "a.pt"}, "checkpoints.1: a checkpoint's name has"),
    ("checkpoints.mine_a.path", "a.pt", "checkpoints.mine_a: unknown key 'path' (allowed: file, inside)"),
    ("checkpoints.mine_a.file", DROP, "checkpoints.mine_a: the key 'file' is missing"),
    ("checkpoints.mine_a.file", "", "checkpoints.mine_a.file: found ''", "at least 1 character"),
    (f"{GRID}.pair", ["1-2", "3-3"], "studies.small.grids[0].pair: found '3-3': a pair is two different seeds"),
    (f"{GRID}.pair", ["1-2", "03-4"], "studies.small.grids[0].pair: found '03-4'"),
    (f"{GRID}.pair", ["1-2", "3_4"], "studies.small.grids[0].pair: found '3_4'"),
    (f"{GRID}.pair", ["1-2", 34], "studies.small.grids[0].pair.1: found 34", "valid string"),
    (f"{GRID}.curve_seed", [1, 2, 3], "grids[0].curve_seed: found 3 seeds for 2 pairs; one for each pair, or one"),
    (f"{GRID}.curve_seed", [], "studies.small.grids[0].curve_seed: is empty"),
    (f"{GRID}.curve_seed", [1, -2], "studies.small.grids[0].curve_seed.1: found -2", "greater than or equal to 0"),
    # names, which become folders
    ("networks.a/b", {"use": "tinyten"}, "networks.a/b: a name has letters, digits"),
    (("studies", ""), {}, "studies.: a name has letters, digits"),
    (("attacks", ".."), {"use": "pgd", "eps": 1, "step": 1}, "attacks...: a name has letters"),
    # overrides
    ("networks.tinyten.overrides", 5, "networks.tinyten.overrides: must be a list, found 5"),
    ("networks.tinyten.overrides", 0, "networks.tinyten.overrides: must be a list, found 0"),
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
    # absurd values
    ("regimes.standard.endpoint.lr", 0, "regimes.standard.endpoint.lr: found 0", "greater than 0"),
    ("regimes.standard.endpoint.lr", "1e400", "regimes.standard.endpoint.lr: found '1e400'", "finite number"),
    ("regimes.standard.endpoint.lr", "nan", "regimes.standard.endpoint.lr: found 'nan'", "finite number"),
    ("regimes.standard.endpoint.lr", 10**400, "regimes.standard.endpoint.lr: found 1000", "..."),
    (
        "regimes.standard.endpoint.epochs",
        -3,
        "regimes.standard.endpoint.epochs: found -3",
        "greater than or equal to 1",
    ),
    ("regimes.standard.endpoint.epochs", 10**9, "endpoint.epochs: found 1000000000", "less than or equal to 100000"),
    ("regimes.standard.endpoint.batch_size", 0, "endpoint.batch_size: found 0", "greater than or equal to 1"),
    (
        "regimes.standard.endpoint.batch_size",
        10**12,
        "endpoint.batch_size: found 1000000000000",
        "or equal to 100000000",
    ),
    ("regimes.standard.endpoint.momentum", -0.1, "endpoint.momentum: found -0.1", "greater than or equal to 0"),
    ("regimes.standard.endpoint.schedule.every", 0, "endpoint.schedule.every: found 0", "greater than or equal to 1"),
    ("datasets.digits.test_fraction", 0, "datasets.digits.test_fraction: found 0", "greater than 0"),
    ("datasets.digits.test_fraction", 1, "datasets.digits.test_fraction: found 1", "less than 1"),
    ("datasets.digits.size", 0, "datasets.digits.size: found 0", "greater than or equal to 1"),
    ("datasets.digits.size", 10**6, "datasets.digits.size: found 1000000", "less than or equal to 4096"),
    ("datasets.digits.augment.0.probability", 1.5, "augment[0].probability: found 1.5", "less than or equal to 1"),
    ("networks.tinyten.input_size", 10**5, "networks.tinyten.input_size: found 100000", "less than or equal to 4096"),
    ("networks.tinyten.width", -16, "networks.tinyten.width: found -16", "greater than or equal to 1"),
    ("attacks.pgd5.eps", 8, "attacks.pgd5.eps: found 8", "less than or equal to 1"),  # instead of 8/255
    ("attacks.pgd5.eps", 0, "attacks.pgd5.eps: found 0", "greater than 0"),
    ("attacks.pgd5.step", 0.1, "attacks.pgd5: found step 0.1 and eps 0.0313725: the step must be at most 2 eps"),
    (
        "attacks.pgd5.overrides",
        [{"when": {"dataset": "digits"}, "eps": 0.001}],
        "attacks.pgd5.overrides[0]: found step 0.00784314 and eps 0.001",
    ),
    ("attacks.pgd5.steps", 0, "attacks.pgd5.steps: found 0", "greater than or equal to 1"),
    ("alignments.correlation.images", 0, "alignments.correlation.images: found 0", "greater than or equal to 1"),
    ("curves.bezier.bends", 0, "curves.bezier.bends: found 0", "greater than or equal to 1"),
    ("evaluations.standard.points", 10**6, "evaluations.standard.points: found 1000000", "or equal to 10001"),
    ("evaluations.standard.points", True, "evaluations.standard.points: found True: a number is needed"),
    ("planes.coarse.points", 5000, "planes.coarse.points: found 5000", "less than or equal to 1001"),
    ("planes.coarse.initial", {"t1": [1, 0]}, "planes.coarse.initial.t1: found [1, 0]: the smaller number comes first"),
    # values that do not fit each other
    ("datasets.digits.mean", [0.5], "datasets.digits: `mean` and `std` must both have one number", "found 1 and none"),
    (
        "datasets.digits",
        {"mean": [0.5], "std": [0.2, 0.2]},
        "`mean` and `std` must both have one number",
        "found 1 and 2",
    ),
    ("datasets.digits", {"mean": [0.5], "std": [63]}, "datasets.digits.std.0: found 63", "less than or equal to 1"),
    ("evaluations.robust.attacks", ["pgd5", "pgd5"], "evaluations.robust.attacks[1]: is 'pgd5', which occurs before"),
    (
        "alignments.correlation.start",
        "correlation",
        "alignments.correlation.start: leads in a circle: correlation",
    ),
    (
        "alignments",
        {"none": None, "a": {"use": "correlation", "start": "b"}, "b": {"use": "correlation", "start": "a"}},
        "alignments.a.start: leads in a circle: a -> b -> a",
    ),
    (
        "alignments",
        {"none": None, "correlation": {}, "a": {"use": "correlation", "start": "correlation", "attention": True}},
        "alignments.a.attention: found True; it must be the same as that of correlation, its start",
    ),
    (
        "alignments",
        {"none": None, "correlation": 3, "a": {"use": "correlation", "start": "correlation"}},
        "alignments.correlation: must be a mapping, found 3",
    ),
    (
        "alignments",
        {"none": None, "correlation": {"start": ["a"]}, "a": {"use": "correlation", "start": "correlation"}},
        "alignments.correlation.start: found ['a']: input should be a valid string",
    ),
    (
        "alignments.correlation.overrides",
        [{"when": "tinyten"}],
        "alignments.correlation.overrides[0]: needs `when`, a mapping",
    ),
    ("alignments.correlation.start", "non", "alignments.correlation.start: no such entry of 'alignments': 'non'"),
    (f"{GRID}.plane", "fine", "grids[0].plane: no such entry of 'planes': 'fine' (allowed: coarse)"),
    (f"{GRID}.measures", ["bounds"], "grids[0].measures.0: found 'bounds'", "'signature', 'midpoint' or 'bound'"),
    ("networks.tinyten.on_curve", {"widht": 3}, "networks.tinyten.on_curve: unknown key 'widht'", "'width'?"),
    ("default_study", None, "default_study: no such entry of 'studies': None (allowed: small)"),
    # pairs of the same networks, seeds that are too large
    (f"{GRID}.pair", ["1-2", "2-1"], "grids[0].pair: 1-2 and 2-1 are the same two networks"),
    (f"{GRID}.pair", ["1-2", "3-99999999999"], "grids[0].pair: found '3-99999999999': a seed is less than 2147483648"),
    (f"{GRID}.pair", ["1--2", "3-4"], "grids[0].pair: found '1--2': a pair is two different seeds"),
    (
        "studies.small.grids",
        [SMALL["studies"]["small"]["grids"][0], SMALL["studies"]["small"]["grids"][0] | {"pair": ["2-1", "4-3"]}],
        "studies.small.grids[1]: repeats digits/tinyten/standard/2-1/unaligned of grids[0]",
    ),
    # several networks
    *[
        ("studies.small.grids", [SMALL["studies"]["small"]["grids"][0] | merged], *words)
        for merged, *words in [
            ({"members": "1-2-3"}, "studies.small.grids[0]: `members` needs `cohort`: which networks are merged"),
            ({"cohort": "mean"}, "studies.small.grids[0]: `cohort` needs `members`"),
            ({"members": "1-2-3", "cohort": "men"}, "grids[0].cohort: no such entry of 'cohorts': 'men'", "'mean'?"),
            ({"members": "1", "cohort": "mean"}, "members: found '1': members are two or more different seeds"),
            ({"members": "1-2-1", "cohort": "mean"}, "members: found '1-2-1': members are two or more different"),
            ({"members": "1-2-99999999999", "cohort": "mean"}, "found '1-2-99999999999': a seed is less than"),
            ({"members": "1-mine", "cohort": "mean"}, "members: no such entry of 'checkpoints': 'mine'", "'mine_b'?"),
            ({"members": ["1-2-3", "3-2-1"], "cohort": "mean"}, "members: 1-2-3 and 3-2-1 are the same networks"),
            ({"members": ["1-2", "1-2"], "cohort": "mean"}, "grids[0].members: has a value twice: ['1-2', '1-2']"),
        ]
    ],
    ("cohorts.mean.inner", "non", "cohorts.mean.inner: no such entry of 'alignments': 'non'", "'none'?"),
    ("cohorts.mean.inner", "none", "cohorts.mean.inner: found 'none', which is null; a method is needed"),
    ("cohorts.mean.inner", DROP, "cohorts.mean: the key 'inner' is missing"),
    ("cohorts.mean.sweep", 3, "cohorts.mean: unknown key 'sweep'; did you mean 'sweeps'?"),
    ("alignments.correlation.start", "none", "cohorts.mean.inner: found 'correlation', which starts at 'none'"),
    # merged pairs
    (f"{GRID}.merge", "brif", "studies.small.grids[0].merge: no such entry of 'merges': 'brif'", "'brief'?"),
    ("merges.brief.repairs", ["reset", "rescal"], "merges.brief.repairs[1]: no such entry of 'repairs': 'rescal'"),
    ("merges.brief.repairs", ["reset", "reset"], "merges.brief.repairs[1]: is 'reset', which occurs before"),
    ("merges.brief.points", 2, "merges.brief.points: found 2", "greater than or equal to 3"),
    ("merges.brief.attacks", ["clean"], "merges.brief.attacks[0]: 'clean' is always measured"),
    ("repairs.rescale.match", "shift", "repairs.rescale.match: found 'shift'", "'both' or 'scale'"),
    (("repairs", "mean"), {"use": "reset"}, "repairs.mean: the tables have a network of this name without any repair"),
    # names that would leave their folder, break a wildcard, or be taken for something else
    *[
        (("networks", name), {"use": "tinyten"}, f"networks.{name}: a name has letters, digits, '_', '-' and '.'")
        for name in ("../x", "/x", "a b", "-x", ".x", "x{seed}", "x*", "ü", "a\\b", "$(id)")
    ],
    (("networks", "x\n"), {"use": "tinyten"}, "networks.'x\\n': a name has letters"),
    (("networks", "x" * 65), {"use": "tinyten"}, "a name has at most 64 characters, found 65"),
    (("networks", False), {"use": "tinyten"}, "networks.False: the name is not a text", "quote it: 'False'"),
    (("networks", 32), {"use": "tinyten"}, "networks.32: the name is not a text", "quote it: '32'"),
    (("methods", "endpoints"), {"alignment": "none", "curve": "bezier"}, "methods.endpoints: the tables have rows of"),
    (("studies", "report"), SMALL["studies"]["small"], "studies.report: the workflow has a rule of this name"),
    (("studies", "small_incomplete"), SMALL["studies"]["small"], "names that end in '_incomplete' are reserved"),
    (
        ("alignments", "correlation.layers"),
        {"use": "correlation"},
        "'correlation' and 'correlation.layers' would write the same files",
    ),
    (f"{GRID}.regime", False, "studies.small.grids[0].regime.0: found False", "valid string"),  # regime: no
    # where data comes from
    *[
        (("datasets", "own"), {"use": "cifar", "classes": 10, "checksum": "md5:" + "0" * 32} | entry, *words)
        for entry, *words in [
            ({"url": "a.tar.gz", "checksum": "md5:xyz"}, "datasets.own.checksum: found 'md5:xyz': must be sha256:<64"),
            (
                {"url": "a.tar.gz", "checksum": "sha1:" + "0" * 40},
                "datasets.own.checksum: found 'sha1:0",
                "or md5:<32",
            ),
            ({"url": "a.tar.gz", "checksum": "md5:" + "g" * 32}, "datasets.own.checksum: found 'md5:g", "or md5:<32"),
            ({"url": "a.tar.gz", "checksum": ""}, "datasets.own.checksum: found ''", "at least 1 character"),
            (
                {"url": "ftp://x/y"},
                "datasets.own.url: found 'ftp://x/y': a source is http://host/..., https://host/...",
            ),
            ({"url": "http:///y"}, "datasets.own.url: found 'http:///y': a source is"),
            ({"url": "file:y"}, "datasets.own.url: found 'file:y': a source is"),
            ({"url": "file://host/y"}, "datasets.own.url: found 'file://host/y': a source is"),
            ({"url": "a\0b"}, "datasets.own.url: found 'a\\x00b': control characters such as"),
            ({"url": "a", "classes": 11}, "datasets.own.classes: found 11", "10 or 100"),
        ]
    ],
    (("datasets", "own"), {"use": "folder", "path": ""}, "datasets.own.path: found ''", "at least 1 character"),
    (("datasets", "own"), {"use": "npz", "path": 5}, "datasets.own.path: found 5", "valid string"),
]


def changed(path: Any, value: Any) -> Any:
    """The small config with one key set, added or dropped."""
    parent = config = copy.deepcopy(SMALL)
    *parents, last = path.split(".") if isinstance(path, str) else path
    for key in parents:
        parent = parent[int(key) if isinstance(parent, list) else key]
    if value is DROP:
        del parent[last]
    else:
        parent[int(last) if isinstance(parent, list) else last] = value
    return config


def _plan(config: Any, folder: Path) -> None:
    Catalogue(config)


CASES = [
    Case(f"config: {' '.join(words)}"[:160], PLANNING, partial(_plan, changed(path, value)), tuple(words))
    for path, value, *words in ENTRIES
]
