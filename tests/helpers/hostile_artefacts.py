"""Prepared data, networks, permutations and bends that a job must refuse when it starts, and trainings that diverge."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hostile import STARTING, TRAINING, Case, Trap
from safetensors.torch import load_file, save_file
from tiny import pictures, plain, randomised, shifts, small, whole
from torch import Tensor

from neuralign.curves.curve import straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.curves.storage import load_bends, load_ends, name_bends
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.images import Data
from neuralign.datasets.storage import save as save_dataset
from neuralign.networks.model import Model, buffers, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.storage import save_permutation
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Regime
from neuralign.training.schedules.constant import constant

SETTINGS = {"input_size": None, "normalise": True, "mean": None, "std": None, "network": {"use": "tinyten", "width": 4}}
DATA = Data(pictures(10), pictures(4), tuple("abcde"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
Tensors = dict[str, Tensor]


def torch_pickle(path: Path) -> None:
    """What torch.save writes, with code in it."""
    torch.save({"fc.weight": Trap(path.parent / "executed")}, path)
    pickle.loads(pickle.dumps(Trap(path.parent / "armed")))
    assert (path.parent / "armed").exists(), "the trap does work"


def cut_off(path: Path) -> None:
    save_file({"fc.weight": torch.rand(100, 5)}, path)
    path.write_bytes(path.read_bytes()[:-100])


FILES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a pickle with code in it", torch_pickle, "not a safetensors file, or damaged"),
    ("a plain pickle", lambda path: path.write_bytes(pickle.dumps([1])), "not a safetensors file, or damaged"),
    ("an empty file", lambda path: path.touch(), "not a safetensors file, or damaged"),
    ("cut off", cut_off, "not a safetensors file, or damaged"),
    ("an absurd header", lambda path: path.write_bytes(b"\xff" * 8 + b"{}"), "not a safetensors file, or damaged"),
    ("a header of no length", lambda path: path.write_bytes(bytes(8)), "not a safetensors file, or damaged"),
    ("a folder", lambda path: path.mkdir(), "is a folder; a safetensors file is needed"),
]


def file(make: Callable[[Path], Any], folder: Path) -> None:
    """Read a network from a file that is not a network."""
    path = folder / "network.safetensors"
    make(path)
    try:
        load_state(str(path), small("tinyten"))
    finally:
        assert not (folder / "executed").exists()


# ---- networks


def state(damage: Callable[[Tensors], Any], folder: Path) -> None:
    """Read a network whose tensors are not those it should have."""
    model = small("tinyten")
    tensors = randomised(model.network)
    damage(tensors)
    save_file(tensors, folder / "network.safetensors")
    load_state(str(folder / "network.safetensors"), model)


def missing(tensors: Tensors) -> None:
    del tensors["fc.bias"], tensors["features.bn1.running_mean"]


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors[name].__setitem__(place, value)


STATES: list[tuple[str, Callable[[Tensors], Any], str]] = [
    ("missing tensors", missing, "tensors are missing for this network: fc.bias, features.bn1.running_mean"),
    ("other tensors", lambda t: t.update({"fc2.weight": torch.ones(3)}), "this network does not have: fc2.weight"),
    (
        "the classes of another data set",
        lambda t: t.update({"fc.weight": torch.ones(7, 16).double()}),
        "fc.weight has shape (7, 16), the network (5, 16)",
    ),
    ("NaN", put("fc.weight", (2, 3), float("nan")), "fc.weight has values that are not finite"),
    (
        "an infinite variance",
        put("features.bn1.running_var", (0,), float("inf")),
        "running_var has values that are not",
    ),
    (
        "numbers of half the precision",
        lambda t: t.update({"fc.weight": t["fc.weight"].half()}),
        "fc.weight is torch.float16",
    ),
    (
        "whole numbers",
        lambda t: t.update({"fc.bias": t["fc.bias"].long()}),
        "fc.bias is torch.int64, the network torch.float64",
    ),
]


def other_network(folder: Path) -> None:
    """A network of another architecture."""
    save_file(whole(small("resnet").network), folder / "network.safetensors")
    load_state(str(folder / "network.safetensors"), small("tinyten"))


# ---- permutations and bends


def permutation(change: Callable[[Tensors], Any], folder: Path) -> None:
    """Read both ends of a path with a permutation that does not fit the network."""
    model = small("tinyten")
    save_file(randomised(model.network), folder / "network.safetensors")
    spec = trace_model(model, DATA.train).spec
    moved = {group: index.clone() for group, index in shifts(spec).items()}
    change(moved)
    save_permutation(moved, folder / "permutation.safetensors", spec, {"certificate": 1e-15})
    _load_ends(model, folder)


def certified(noted: dict[str, str], folder: Path) -> None:
    """Read both ends of a path with a sound permutation whose file says this of it."""
    model = small("tinyten")
    save_file(randomised(model.network), folder / "network.safetensors")
    save_file(shifts(trace_model(model, DATA.train).spec), folder / "permutation.safetensors", noted)
    _load_ends(model, folder)


def no_permutation(make: Callable[[Path], Any], folder: Path) -> None:
    """Read both ends of a path with a permutation from a file that is not a permutation."""
    model = small("tinyten")
    save_file(randomised(model.network), folder / "network.safetensors")
    make(folder / "permutation.safetensors")
    _load_ends(model, folder)


def _load_ends(model: Model, folder: Path) -> None:
    ends = str(folder / "network.safetensors")
    load_ends(model, DATA.train, ends, ends, str(folder / "permutation.safetensors"))


def of_another(moved: Tensors) -> None:
    moved.update(shifts(trace_model(small("tinyten", width=3), DATA.train).spec))


def cast(dtype: torch.dtype) -> Callable[[Tensors], Any]:
    return lambda moved: moved.update({"features.conv1": moved["features.conv1"].to(dtype)})


NONE = "group 'features.conv1': not a permutation of 4 channels"
PERMUTATIONS: list[tuple[str, Callable[[Tensors], Any], str]] = [
    ("a channel twice", put("features.conv1", (0,), 2), NONE),
    ("a channel that is not there", put("features.conv1", (0,), 99), NONE),
    ("a negative channel", put("features.conv1", (0,), -1), NONE),
    ("of another network", of_another, NONE),
    ("fractions", cast(torch.float32), NONE),
    ("small integers", cast(torch.int32), NONE),
    (
        "an unknown group",
        lambda p: p.update(fc9=torch.arange(4)),
        "group 'fc9' cannot be permuted; the free groups are ['",
    ),
]


UNCERTIFIED = "a permutation without a certificate; only what an alignment wrote may be used"
CERTIFICATES: list[tuple[str, dict[str, str], str]] = [
    ("none", {"format": "pt"}, UNCERTIFIED),
    ("facts without it", {"facts": "{}"}, UNCERTIFIED),
    ("facts that are none", {"facts": "["}, UNCERTIFIED),
    ("facts that are a list", {"facts": "[1]"}, UNCERTIFIED),
    ("a text", {"facts": '{"certificate": "fine"}'}, UNCERTIFIED),
    ("too large", {"facts": '{"certificate": 0.2}'}, "its certificate is 0.2, allowed is at most 1e-09"),
    ("NaN", {"facts": '{"certificate": NaN}'}, "its certificate is nan, allowed is at most 1e-09"),
    ("of another network", {"facts": '{"certificate": 0, "symmetry": "0"}'}, "its certificate is of another network"),
]


def bends(change: Callable[[Tensors, FlatLayout], Tensors], folder: Path) -> None:
    """Read one bend from a file of something else."""
    model = small("tinyten")
    layout = FlatLayout.of(parameters(model.network))
    flat = layout.flatten(parameters(model.network))
    named = change({n: t.contiguous() for n, t in name_bends(layout, flat[None]).items()}, layout)
    save_file(named, folder / "bends.safetensors")
    load_bends(str(folder / "bends.safetensors"), layout, flat[None])


def two_bends(named: Tensors, layout: FlatLayout) -> Tensors:
    flat = layout.flatten({name.removeprefix("1."): tensor for name, tensor in named.items()})
    return {
        n: t.contiguous()
        for n, t in name_bends(layout, straight_line(partial(bezier, bends=2), flat, flat).bends).items()
    }


def with_nan(named: Tensors, layout: FlatLayout) -> Tensors:
    named["1.fc.bias"] = torch.full_like(named["1.fc.bias"], torch.nan)
    return named


BENDS: list[tuple[str, Callable[[Tensors, FlatLayout], Tensors], str]] = [
    ("of another curve", two_bends, "holds other tensors than 1 bends of this network"),
    (
        "none at all",
        lambda named, _: {"x": torch.ones(1)},
        "1 bends of this network; missing: 1.fc.bias, 1.fc.weight, ",
    ),
    (
        "of another shape",
        lambda n, _: n | {"1.fc.weight": n["1.fc.weight"].T.contiguous()},
        "1.fc.weight has shape (16, 5)",
    ),
    ("NaN", with_nan, "1.fc.bias has values that are not finite"),
    (
        "of half the precision",
        lambda n, _: {k: t.half() for k, t in n.items()},
        "is torch.float16, the network torch.float64",
    ),
]


# ---- prepared data


def prepared(change: Callable[[Tensors, dict[str, Any]], Any], settings: dict[str, Any], folder: Path) -> None:
    """Prepare a setting with data that `fetch_data` has not made so."""
    path = folder / "data.safetensors"
    train, test = (Split(s.pixels.numpy(), s.labels.numpy()) for s in (pictures(10), pictures(4)))
    save_dataset(Dataset(train, test, tuple("abcde")), path)
    tensors, facts = load_file(path), {"classes": list("abcde"), "mean": [0.5] * 3, "std": [1] * 3}
    change(tensors, facts)
    save_file(tensors, path, {"facts": json.dumps(facts)})
    load_data_and_model(str(path), SETTINGS | settings)


def nothing(tensors: Tensors, facts: dict[str, Any]) -> None:
    """No change."""


PREPARED: list[tuple[str, Callable[[Tensors, dict[str, Any]], Any], dict[str, Any], str]] = [
    ("no labels", lambda t, f: t.pop("train_labels"), {}, "not a dataset that `fetch_data` wrote, or damaged"),
    ("no class names", lambda t, f: f.pop("classes"), {}, "or damaged: 'classes'"),
    ("class names that are none", lambda t, f: f.update(classes=5), {}, "not a dataset that `fetch_data` wrote"),
    (
        "pixels as fractions",
        lambda t, f: t.update(train_images=t["train_images"].float()),
        {},
        "train_images are torch.float32 of shape (10, 3, 16, 16); uint8 (n, 3, height, width) is needed",
    ),
    (
        "fewer labels",
        lambda t, f: t.update(test_labels=t["test_labels"][:3]),
        {},
        "test_labels are torch.int64 of shape (3,)",
    ),
    (
        "a class too many",
        lambda t, f: t["train_labels"].fill_(5),
        {},
        "train_labels are in 5 .. 5; only 0 .. 4 are allowed",
    ),
    ("negative labels", lambda t, f: t["test_labels"].fill_(-1), {}, "test_labels are in -1 .. -1; only 0 .. 4"),
    (
        "a mean of other channels",
        nothing,
        {"mean": [0.5], "std": [0.5]},
        "images of 3 channels, but `mean` and `std` have 1 numbers",
    ),
]


def too_small(network: dict[str, Any], folder: Path) -> None:
    """Prepare a setting whose images a network cannot take."""
    train, test = (Split(s.pixels[:, :, :4, :4].numpy(), s.labels.numpy()) for s in (pictures(10), pictures(4)))
    save_dataset(Dataset(train, test, tuple("abcde")), folder / "data.safetensors")
    load_data_and_model(str(folder / "data.safetensors"), SETTINGS | {"network": network})


def no_data(make: Callable[[Path], Any], folder: Path) -> None:
    """Prepare a setting from a file that is no data set."""
    make(folder / "data.safetensors")
    load_data_and_model(str(folder / "data.safetensors"), SETTINGS)


# ---- divergence

REGIME = Regime(epochs=3, batch_size=5, lr=0.05, momentum=0.9, weight_decay=0.0, schedule=constant)


def trained(model: Model, start: Tensors, regime: Regime) -> None:
    """Train on 12 images, 3 steps an epoch."""
    layout = FlatLayout.of(parameters(model.network))
    images = pictures(12)
    flat = layout.flatten(start)
    arguments = (model, flat, lambda w, _: w, layout, buffers(model.network), images, regime)
    fit(Training(*arguments, transform=plain, seed=0))


def diverging(lr: float, folder: Path) -> None:
    """Plain SGD at this learning rate."""
    model = small("tinyten")
    trained(model, parameters(model.network), replace(REGIME, lr=lr))


def large(folder: Path) -> None:
    """A loss that is large and finite from the first step."""
    model = small("tinyten")
    start = parameters(model.network)
    trained(model, start | {"fc.weight": 1e7 * start["fc.weight"]}, replace(REGIME, lr=1e-9))


def broken(folder: Path) -> None:
    """A start that is not finite."""
    model = small("tinyten")
    start = parameters(model.network)
    trained(model, start | {"fc.bias": torch.full_like(start["fc.bias"], torch.nan)}, REGIME)


ADVICE = "lower `lr` of this regime, or look for non-finite weights in the networks that it starts from"

CASES = [
    *[
        Case(f"network: {n}", STARTING, partial(file, make), ("network.safetensors: ", words))
        for n, make, words in FILES
    ],
    *[
        Case(f"network: {n}", STARTING, partial(state, act), ("network.safetensors: ", words))
        for n, act, words in STATES
    ],
    Case(
        "network: of another architecture", STARTING, other_network, ("network.safetensors: tensors are missing for",)
    ),
    *[
        Case(f"permutation: {n}", STARTING, partial(permutation, act), ("permutation.safetensors: ", words))
        for n, act, words in PERMUTATIONS
    ],
    *[
        Case(f"permutation file: {n}", STARTING, partial(no_permutation, make), ("permutation.safetensors: ", words))
        for n, make, words in FILES
    ],
    *[
        Case(f"certificate: {n}", STARTING, partial(certified, noted), ("permutation.safetensors: ", words))
        for n, noted, words in CERTIFICATES
    ],
    *[Case(f"bends: {n}", STARTING, partial(bends, act), ("bends.safetensors: ", words)) for n, act, words in BENDS],
    *[
        Case(f"prepared data: {n}", STARTING, partial(prepared, act, more), ("data.safetensors: ", words))
        for n, act, more, words in PREPARED
    ],
    *[
        Case(
            f"prepared data: {n}",
            STARTING,
            partial(no_data, make),
            ("data.safetensors: ", "not a dataset that `fetch_data` wrote"),
        )
        for n, make, _ in FILES
    ],
    Case(
        "prepared data: images too small for the network",
        STARTING,
        partial(too_small, {"use": "tinyten"}),
        (
            "data.safetensors: {'use': 'tinyten'}: the network does not take an input of shape (1, 3, 4, 4): ",
            "Kernel size",
        ),
    ),
    Case(
        "a learning rate far too large",
        TRAINING,
        partial(diverging, 1e30),
        ("in epoch 1, step 2 of 3, at learning rate 1e+30: ", ADVICE),
    ),
    Case(
        "a loss that explodes and stays finite",
        TRAINING,
        large,
        ("nats on average, more than 10000, in epoch 1, step ", "of 3, at learning rate 1e-09: ", ADVICE),
    ),
    Case("a start that is not finite", TRAINING, broken, ("the loss is not finite in epoch 1, step 1 of 3", ADVICE)),
]
