"""One row of the table: the facts of `explain`, the recovery of a planted permutation, and the independent check."""

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import independent
from benchmarks.zoo.networks import make
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.problem import Problem
from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model
from neuralign.symmetry import permutations
from neuralign.symmetry.explain import explain, perturbed_state
from neuralign.symmetry.tracing.trace import trace

LARGEST_RECOVERED = 51_000_000  # parameters: recovery of a planted permutation is not measured for larger networks
LARGEST_WITH_ATTENTION = 100_000_000  # parameters: larger networks are examined without attention only
IMAGES, NOISE = 96, 1e-3  # random images; noise on the permuted weights, of their standard deviation


def examine(library: str, name: str) -> dict[str, Any]:
    """The row of a network. Recovery is measured for networks of torchvision only, because it takes longest."""
    start = time.perf_counter()
    sample = make(library, name)
    network, example = sample.network, sample.draw(2, 0)
    facts = explain(network, example)
    reasons = Counter(entry["reason"] for entry in facts["frozen"] if not entry["reason"].startswith("it is the"))
    row: dict[str, Any] = {"parameters": facts["parameters"], "groups": len(facts["groups"])}
    row |= {"permutable": facts["permutable_fraction"], "fixed": sum(reasons.values())}
    row |= {"reason": reasons.most_common(1)[0][0] if reasons else "", "outputs": facts["outputs"]}
    row |= {"gradients": facts["gradients"], "certified": facts["certified"], "seconds": facts["seconds"]}
    if facts["parameters"] <= LARGEST_WITH_ATTENTION:
        if any("attention" in reason for reason in reasons):
            with_attention = explain(network, example, attention=True)
            row |= {"attention": with_attention["permutable_fraction"], "attention_error": with_attention["max_error"]}
        row |= independent.differences(lambda: make(library, name))
    if library == "torchvision" and facts["parameters"] <= LARGEST_RECOVERED:
        row["recovered"] = recovered_share(network, example)
    return row | {"whole_seconds": time.perf_counter() - start}


def recovered_share(network: nn.Module, example: Tensor) -> float:
    """The share of units that activation matching puts in place between a network and its permuted, noisy copy."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    pixels = torch.randint(256, (IMAGES, *example.shape[1:]), dtype=torch.uint8)
    model = Model(network, torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.3))
    with torch.no_grad():
        # updates the batch-norm statistics; with the initial ones, activations of deep networks overflow
        network.train()(model.normalise(as_float(pixels[:16])))
    symmetry = trace(network, model.normalise(as_float(pixels[:2])))
    target, draws = perturbed_state(network, 1), torch.Generator().manual_seed(2)
    planted = permutations.random(symmetry.spec, draws)
    source = {
        name: t + NOISE * t.std() * torch.randn(t.shape, generator=draws)
        if t.dim() > 1 and t.is_floating_point()
        else t
        for name, t in permutations.permute(symmetry.spec, planted, target).items()
    }
    problem = Problem(model, symmetry, target, source, Images(pixels, torch.zeros(IMAGES, dtype=torch.long)))
    with torch.no_grad():
        matched = correlation(problem, images=IMAGES, batch_size=16)
    expected = permutations.inverse(planted)
    correct = sum(int((matched[g] == expected[g]).sum()) for g in matched)
    return correct / sum(map(len, matched.values()))
