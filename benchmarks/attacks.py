"""Adversarial training: a step with PGD against the forward and backward passes that it needs."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, Ready, pictures
from benchmarks.timing import Row, interleaved, row
from neuralign.config.plugins import plugin
from neuralign.datasets.images import as_is
from neuralign.networks.model import criterion

STEPS = 5
PGD = {"use": "pgd", "eps": 8 / 255, "step": 2 / 255, "steps": STEPS}  # the paper's
SIZE = 64


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Two rows for each network: an endpoint and a curve."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        problem = Problem.of(name, entry, device, normalise=False)
        images = pictures(SIZE * (1 if quick else 3), device)
        rows += _steps(problem, Ready.of(images, SIZE), 2 if quick else 9, device)
    return rows


def _steps(problem: Problem, ready: Ready, repeats: int, device: str) -> list[Row]:
    """Steps of an endpoint and of a curve, against the passes that they need, each timed alone."""
    count, attack = len(ready) // SIZE, plugin("attacks", PGD)
    batches = [next(ready.prepared) for _ in range(count)]
    attacked = [(x.clone().requires_grad_(), y) for x, y in batches]
    network = deepcopy(problem.model.network).train().to(memory_format=torch.channels_last)
    frozen = deepcopy(network).requires_grad_(False)
    endpoint, curve, inputs, weights = interleaved(
        problem.endpoint(ready, REGIME, as_is, attack),
        problem.bezier(ready, REGIME, as_is, attack),
        lambda: [_pass(frozen, x, y, [x]) for x, y in attacked],
        lambda: [_pass(network, x, y, list(network.parameters())) for x, y in batches],
        repeats=repeats,
        device=device,
    )
    baseline = [STEPS * i + w for i, w in zip(inputs, weights, strict=True)]
    note = f"{count} steps of {SIZE} images; {STEPS} passes forward and back to the inputs, 1 back to the parameters"
    kinds = (("endpoint", endpoint), ("curve", curve))
    return [
        row(
            f"{problem.name}: PGD-{STEPS} {k} step / its passes", baseline=baseline, ours=s, target="<= 1.15", note=note
        )
        for k, s in kinds
    ]


def _pass(network: nn.Module, x: Tensor, y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """A forward pass and the gradients of the tensors in `inputs`."""
    return torch.autograd.grad(criterion(network(x), y), inputs)
