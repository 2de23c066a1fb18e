"""Training: a curve against an endpoint, augmented epochs against steps alone, and against the plain baseline."""

from copy import deepcopy
from dataclasses import replace
from statistics import median

import torch

from benchmarks import plain
from benchmarks.problems import MEAN, NETWORKS, REGIME, SMALL, STD, Problem, Ready, augment, pictures
from benchmarks.timing import Action, Row, interleaved, row
from neuralign.datasets.images import Images, as_is
from neuralign.networks.model import Model

LIMITS = {"TinyTen": "<= 1.10", "ResNet32": "<= 1.15"}
COUNTS = {"TinyTen": (10, 40), "ResNet32": (3, 20)}  # number of steps that are timed; of an epoch
SIZE, DECAY = REGIME.batch_size, REGIME.weight_decay


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Rows for each network."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        problem = Problem.of(name, entry, device)
        few, many = (1, 2) if quick else COUNTS[name]
        repeats = 2 if quick else 15
        rows += _steps(problem, pictures(SIZE * few, device), repeats, device)
        rows += _epochs(problem, pictures(SIZE * many, device), 2 if quick else 5, device)
    return rows


def _steps(problem: Problem, images: Images, repeats: int, device: str) -> list[Row]:
    """Steps on prepared batches: of an endpoint, of a curve, and of an endpoint by the plain baseline."""
    ready, name = Ready.of(images, SIZE), problem.name
    endpoint, curve, first, last = interleaved(
        problem.endpoint(ready, REGIME, as_is),
        problem.bezier(ready, REGIME, as_is),
        _bare(problem.model, ready, torch.contiguous_format),
        _bare(problem.model, ready, torch.channels_last),
        repeats=repeats,
        device=device,
    )
    note = f"{len(images) // SIZE} steps of {SIZE} images"
    return [
        row(f"{name}: curve step / endpoint step", baseline=endpoint, ours=curve, target=LIMITS[name], note=note),
        row(f"{name}: endpoint step / plain step, channels first", baseline=first, ours=endpoint, note=note),
        row(f"{name}: endpoint step / plain step, channels last", baseline=last, ours=endpoint, note=note),
    ]


def _bare(model: Model, ready: Ready, layout: torch.memory_format) -> Action:
    """Steps of the plain baseline on the same batches."""
    network = deepcopy(model.network).to(memory_format=layout)
    sgd = plain.optimiser(network, DECAY)
    prepared = [next(ready.prepared) for _ in range(len(ready) // SIZE)]
    batches = [(model.normalise(x).contiguous(memory_format=layout), y) for x, y in prepared]
    return lambda: plain.endpoint_epoch(network, sgd, batches)


def _epochs(problem: Problem, images: Images, repeats: int, device: str) -> list[Row]:
    """Epochs with augmentation, against steps alone and against the plain baseline with its augmentation."""
    ready, name = Ready.of(images, SIZE), problem.name
    network = deepcopy(problem.model.network)
    twin = plain.CurveNetwork(network, deepcopy(network))
    sgd, curve_sgd = plain.optimiser(network, DECAY), plain.optimiser(twin, 0.0)
    loaders = [plain.loader(images, MEAN, STD, batch_size=SIZE, workers=w) for w in (0, 1)]
    bare, endpoint, curve_bare, curve, half, curve_half, *theirs = interleaved(
        problem.endpoint(ready, REGIME, as_is),
        problem.endpoint(images, REGIME, augment()),
        problem.bezier(ready, REGIME, as_is),
        problem.bezier(images, REGIME, augment()),
        problem.endpoint(images, replace(REGIME, precision="bfloat16"), augment()),
        problem.bezier(images, replace(REGIME, precision="bfloat16"), augment()),
        *(lambda batches=batches: plain.endpoint_epoch(network, sgd, batches) for batches in loaders),
        *(lambda batches=batches: plain.curve_epoch(twin, curve_sgd, batches, DECAY) for batches in loaders),
        repeats=repeats,
        device=device,
    )
    note = f"{len(images)} images in batches of {SIZE}"
    rows = [
        row(f"{name}: bare endpoint steps / epoch", baseline=bare, ours=endpoint, target=">= 0.9", note=note),
        row(f"{name}: bare curve steps / epoch", baseline=curve_bare, ours=curve, target=">= 0.9", note=note),
    ]
    for kind, ours, in_half, plain_seconds in (
        ("endpoint", endpoint, half, theirs[:2]),
        ("curve", curve, curve_half, theirs[2:]),
    ):
        baseline = min(plain_seconds, key=median)
        where = f"{note}; DataLoader with {plain_seconds.index(baseline)} workers, the faster of 0 and 1"
        rows.append(row(f"{name}: plain {kind} epoch / epoch", baseline=baseline, ours=ours, target=">= 2", note=where))
        rows.append(row(f"{name}: the same in bfloat16", baseline=baseline, ours=in_half, target=">= 2", note=where))
    return rows
