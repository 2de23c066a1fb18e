"""Weights and activations together: units are matched by both, on one scale (Xu et al. 2024, "dual space")."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.activations import unit_moments
from neuralign.alignment.agreement import Agreement, Matrices
from neuralign.alignment.ascent import Found, agreement_of, ascend, best_of_runs, report, start_of_run
from neuralign.alignment.problem import Problem
from neuralign.config.options import Count, Fraction, Seed
from neuralign.symmetry.permutations import Permutation, identity


def weights_activations(
    problem: Problem,
    *,
    alpha: Fraction = 0.5,
    images: Count = 10_000,
    batch_size: Count = 64,
    read: Literal["post", "pre"] = "post",
    sweeps: Count = 100,
    order: Literal["shuffled", "graph"] = "shuffled",
    restarts: Count = 1,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation that maximises alpha times the correlation of matched units plus 1 - alpha times the agreement of
    the parameters, {group: (n,)}; by coordinate ascent.

    The agreement is divided by the mean over units of their best score at the start, so that one unit counts about as
    much in both terms. One scale for all groups keeps one objective, which never falls.

    Args:
        alpha: The share of the activations: 0 is `weights`, 1 is `correlation`.
        images: Number of training images for the correlations, the first in file order.
        batch_size: Images per batch.
        read: Whether activations are read after (`post`) or before (`pre`) the nonlinearity.
        sweeps: Largest number of sweeps over all groups.
        order: Whether the groups of a sweep come in random order or in that of the network.
        restarts: Number of runs. The first begins at the start, the others at random permutations.
        seed: Seed of the order and of the random starts.
    """
    subset = replace(problem, examples=problem.examples.first(images))
    moments = unit_moments(subset, batch_size=batch_size, read=read)
    correlations = {
        group: sum((m.correlation(centred=True) for m in taps.values()), torch.tensor(0.0)).double().cpu()
        for group, taps in moments.items()
    }
    agreement = agreement_of(problem)
    start = problem.start or identity(problem.trace.spec)
    best_scores = torch.cat([agreement.score(g, start).amax(1) for g in agreement.spec.free])
    # the size of the mean, as all scores may be negative
    objective = _Combined(agreement, correlations, alpha, (1 - alpha) / max(abs(float(best_scores.mean())), 1e-30))

    def run(number: int, generator: torch.Generator) -> Found:
        first = start_of_run(problem, number, generator)
        return ascend(objective, first, sweeps=sweeps, order=order, generator=generator)

    best = best_of_runs(problem, run, restarts, choose="agreement", images=0, seed=seed)
    found = Found(best.permutation, agreement.value(best.permutation), best.steps)
    problem.facts["images"] = len(subset.examples)
    report(problem, agreement, found, restarts)
    return best.permutation


class _Combined:
    """`alpha` times the sum of the similarities of matched units, plus `scale` times the agreement."""

    def __init__(self, agreement: Agreement, similarities: Mapping[str, Tensor], alpha: float, scale: float):
        self.agreement, self.similarities, self.alpha, self.scale = agreement, similarities, alpha, scale
        self.spec, self.single, self.rounded = agreement.spec, agreement.single, agreement.rounded

    def value(self, permutation: Permutation) -> float:
        similar = sum(self._similarity(group, permutation) for group in self.spec.free)
        return self.alpha * similar + self.scale * self.agreement.value(permutation)

    def gain(self, group: str, before: Permutation, after: Permutation) -> float:
        rise = self._similarity(group, after) - self._similarity(group, before)
        return self.alpha * rise + self.scale * self.agreement.gain(group, before, after)

    def score(self, group: str, permutation: Permutation) -> Tensor:
        return self.alpha * self.similarities[group] + self.scale * self.agreement.score(group, permutation)

    def soft_score(self, group: str, matrices: Matrices) -> Tensor:
        return self.alpha * self.similarities[group] + self.scale * self.agreement.soft_score(group, matrices)

    def soft_value(self, matrices: Matrices) -> Tensor:
        similar = sum((self.similarities[g] * matrices[g].cpu()).sum() for g in self.spec.free)
        return self.alpha * similar + self.scale * self.agreement.soft_value(matrices)

    def _similarity(self, group: str, permutation: Permutation) -> float:
        index = permutation[group]
        return float(self.similarities[group][torch.arange(len(index)), index].sum())
