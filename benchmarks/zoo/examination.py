"""One row of the table: the facts of `explain`, the recovery of a planted permutation, and the independent check."""

import resource
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

import neuralign as na
from benchmarks.zoo import independent
from benchmarks.zoo.networks import Sample, make
from neuralign.common.errors import UserError
from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import CertificateError
from neuralign.symmetry.explain import explain, perturbed_state

LARGEST_RECOVERED = 51_000_000  # parameters: recovery of a planted permutation is not measured for larger networks
LARGEST_WITH_ATTENTION = 100_000_000  # parameters: larger networks are examined without attention only
BATCHES, BATCH = 6, 16  # random inputs for the recovery: number of batches, inputs in each
NOISE = 1e-3  # noise on the permuted weights, of their standard deviation


def examine(library: str, name: str) -> dict[str, Any]:
    """The row of a network."""
    start = time.perf_counter()
    sample = make(library, name)
    network, example = sample.network, sample.draw(2, 0)
    facts = explain(network, example)
    peak = peak_memory()
    reasons = Counter(entry["reason"] for entry in facts["frozen"] if not entry["reason"].startswith("it is the"))
    row: dict[str, Any] = {"parameters": facts["parameters"], "groups": len(facts["groups"])}
    row |= {"permutable": facts["permutable_fraction"], "fixed": sum(reasons.values())}
    row |= {"reason": reasons.most_common(1)[0][0] if reasons else "", "outputs": facts["outputs"]}
    row |= {"gradients": facts["gradients"], "certified": facts["certified"], "seconds": facts["seconds"]}
    row |= {"precision": facts["precision"], "peak": peak}
    if facts["parameters"] <= LARGEST_WITH_ATTENTION:
        if any("attention" in reason for reason in reasons):
            with_attention = explain(network, example, attention=True)
            row |= {"attention": with_attention["permutable_fraction"], "attention_error": with_attention["max_error"]}
        row |= independent.differences(lambda: make(library, name))
    if facts["parameters"] <= LARGEST_RECOVERED and facts["groups"]:
        row |= recovered_share(sample)
    return row | {"whole_seconds": time.perf_counter() - start}


def peak_memory() -> float:
    """The most memory that this process has had at once, in GiB, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def recovered_share(sample: Sample) -> dict[str, Any]:
    """{"recovered": the share of units that `na.align` puts in place between a network and its permuted, noisy copy}.

    {"recovered_failure": why} if it refuses the network.
    """
    network, example = sample.network, sample.draw(2, 0)
    _estimate_statistics(network, sample.draw(BATCH, 3))
    symmetry, draws = na.trace(network, example), torch.Generator().manual_seed(2)
    planted = permutations.random(symmetry.spec, draws)
    target = perturbed_state(network, 1)
    source = {
        name: t + NOISE * t.std() * torch.randn(t.shape, generator=draws)
        if t.dim() > 1 and t.is_floating_point()
        else t
        for name, t in na.permute(symmetry, planted, target).items()
    }
    try:
        aligned = na.align(network, target, source, [sample.draw(BATCH, 10 + i) for i in range(BATCHES)])
    except (UserError, CertificateError) as error:
        return {"recovered_failure": str(error)[:200]}
    expected = permutations.inverse(planted)
    correct = sum(int((index == expected[group]).sum()) for group, index in aligned.permutation.items())
    return {"recovered": correct / sum(map(len, expected.values()))}


def _estimate_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Set the running statistics of batch norms: with the initial ones, activations of deep networks overflow."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(inputs)
