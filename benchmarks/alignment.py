"""Alignment: its time relative to two forward passes alone, and to the published code for activation matching."""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from benchmarks.problems import CLASSES, MEAN, NETWORKS, SMALL, STD, pictures
from benchmarks.timing import Row, interleaved, row
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.algorithms.transport import transport
from neuralign.alignment.problem import Problem
from neuralign.config.plugins import Entry
from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import buffers, build, parameters
from neuralign.symmetry.tracing.trace import trace

IMAGES = {"TinyTen": 1024, "ResNet32": 512}
SAMPLE = 64  # images from which the batch-norm statistics are estimated
BATCHES = (64, 256)  # batch sizes of the forward passes: the library's, and the fastest for large convolutions


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """For each network, alignment against two forward passes; for TinyTen also against the published code."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        problem = alignment_problem(entry, pictures(20 if quick else IMAGES[name], device), device)
        rows += _bare_passes(name, problem, 2 if quick else 7, device)
        if name == "TinyTen":
            rows += _published(problem, 2 if quick else 5, device)
    return rows


def alignment_problem(entry: Entry, images: Images, device: str) -> Problem:
    """Two random networks whose batch-norm statistics are those of the images, as in trained networks."""
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        ends.append(build(entry, classes=CLASSES, channels=3, mean=MEAN, std=STD).to(torch.device(device)))
        for layer in ends[-1].network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0  # running statistics become those of the next batch
        with torch.no_grad():
            ends[-1].network.train()(ends[-1].normalise(as_float(images.pixels[:SAMPLE])))
    model = ends[0]
    symmetry = trace(model.network, model.normalise(as_float(images.pixels[:2])))
    return Problem(model, symmetry, *({**parameters(e.network), **buffers(e.network)} for e in ends), images)


def _bare_passes(name: str, problem: Problem, repeats: int, device: str) -> list[Row]:
    """Alignment against forward passes of both networks alone, at the faster of two batch sizes, channels last."""
    networks = [network.to(memory_format=torch.channels_last) for network in _copy_networks(problem)]

    def passes(size: int) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            for pixels, _ in problem.examples.batches(size):
                x = problem.model.normalise(pixels)
                for network in networks:
                    network(x)

        return run

    ways = {
        "correlation": lambda: correlation(problem),
        "correlation, pre-activations": lambda: correlation(problem, read="pre"),
        "transport": lambda: transport(problem),
    }
    *bare, post, pre, distance = interleaved(*map(passes, BATCHES), *ways.values(), repeats=repeats, device=device)
    fastest = [min(seconds) for seconds in zip(*bare, strict=True)]
    note = f"{len(problem.examples)} images, all groups of both networks, with probes and assignments"
    return [
        row(f"{name}: {way} / two bare forward passes", baseline=fastest, ours=ours, target="<= 1.4", note=note)
        for way, ours in zip(ways, (post, pre, distance), strict=True)
    ]


def _published(problem: Problem, repeats: int, device: str) -> list[Row]:
    """Alignment against two options of the published code, which matches layer by layer.

    It computes the activations of each layer from the images, or, by default, from the stored activations of the layer
    before.
    """
    networks = _copy_networks(problem)
    depths = [i + 1 for i, layer in enumerate(networks[0].features) if isinstance(layer, nn.ReLU)]

    def from_images() -> list[np.ndarray]:
        return [_match([_run_layers(network, _batches(problem), 0, end) for network in networks]) for end in depths]

    def from_layer_before() -> list[np.ndarray]:
        activations, permutations = [_batches(problem)] * 2, []
        for start, end in pairwise([0, *depths]):
            pairs = zip(networks, activations, strict=True)
            activations = [_run_layers(network, batches, start, end) for network, batches in pairs]
            permutations.append(_match(activations))
        return permutations

    first, default, ours = interleaved(
        from_images, from_layer_before, lambda: correlation(problem), repeats=repeats, device=device
    )
    note = f"{len(problem.examples)} images; activations of all images in memory, z-scores; "
    return [
        row(
            "TinyTen: published way, from the images for each layer / correlation",
            baseline=first,
            ours=ours,
            target=">= 5",
            note=note + "its option without cached activations",
        ),
        row(
            "TinyTen: published way, from the layer before / correlation",
            baseline=default,
            ours=ours,
            target=">= 1.2",
            note=note + "its default",
        ),
    ]


def _batches(problem: Problem, size: int = 128) -> list[Tensor]:
    """All images, normalised."""
    return [problem.model.normalise(pixels.float() / 255) for pixels in problem.examples.pixels.split(size)]


@torch.no_grad()
def _run_layers(network: nn.Module, batches: list[Tensor], start: int, end: int) -> list[Tensor]:
    """The output of the layers from `start` to `end`, for every batch of input to `start`."""
    return [network.features[start:end](x) for x in batches]  # type: ignore[index]


def _match(activations: list[list[Tensor]]) -> np.ndarray:
    """The permutation of one layer, from the activations of both networks, in batches (n, c, h, w)."""
    scores = []
    for batches in activations:
        units = torch.cat([x.permute(0, 2, 3, 1) for x in batches]).cpu().numpy().reshape(-1, batches[0].shape[1])
        deviations = units.std(0)
        scores.append((units - units.mean(0)) / np.where(deviations > 0, deviations, 1))
    first, second = scores
    return linear_sum_assignment(first.T @ second / len(first), maximize=True)[1]


def _copy_networks(problem: Problem) -> list[nn.Module]:
    """The target's and the source's network, in evaluation mode."""
    networks = [deepcopy(problem.model.network).eval() for _ in range(2)]
    for network, state in zip(networks, (problem.target, problem.source), strict=True):
        network.load_state_dict(dict(state))
    return networks
