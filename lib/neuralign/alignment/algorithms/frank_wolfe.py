"""Weight matching by the Frank-Wolfe algorithm: all groups at once, on doubly stochastic matrices, without data
(Crisostomi et al. 2024; Vogelstein et al. 2015)."""

from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.ascent import Found, agreement_of, ascend, best_of_runs, report, start_of_run
from neuralign.alignment.birkhoff import to_matrix
from neuralign.alignment.problem import Problem
from neuralign.alignment.relaxation import relax, row_entropy, soft_value
from neuralign.config.options import Count, Flag, NonNegative, Seed


def frank_wolfe(
    problem: Problem,
    *,
    begin: Literal["barycentre", "start"] = "barycentre",
    steps: Count = 200,
    tolerance: NonNegative = 1e-9,
    polish: Flag = True,
    restarts: Count = 1,
    choose: Literal["agreement", "midpoint"] = "agreement",
    images: Count = 2000,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation with the largest agreement of the parameters that Frank-Wolfe finds; {group: (n,)}.

    The facts `relaxed` and `entropy` say how large the agreement was before rounding, and how far the matrices were
    from permutations: 0 is a permutation, 1 the barycentre.

    Args:
        begin: Whether the first run begins at the barycentre, where all entries of a matrix are equal, or at the start.
        steps: Largest number of steps.
        tolerance: Stop when a step gains less than this share of the agreement.
        polish: Whether weight matching goes on from the rounded matrices.
        restarts: Number of runs. The others begin halfway between the barycentre and random permutations.
        choose: Which run is returned; see `weights`.
        images: Number of training images for `choose: midpoint`.
        seed: Seed of the random starts.
    """
    objective = agreement_of(problem)

    def run(number: int, generator: torch.Generator) -> Found:
        start = {g: to_matrix(p) for g, p in start_of_run(problem, number, generator).items()}
        if number or begin == "barycentre":
            share = 0.5 if number else 1.0
            start = {g: torch.lerp(m, torch.full_like(m, 1 / len(m)), share) for g, m in start.items()}
        permutation, relaxed, count = relax(objective, start, steps=steps, tolerance=tolerance)
        if polish:
            permutation = ascend(objective, permutation, sweeps=100, order="graph", generator=generator).permutation
        value = soft_value(objective, relaxed) / objective.norms
        facts = {"relaxed": value, "entropy": row_entropy(relaxed)}
        return Found(permutation, objective.value(permutation), count, facts)

    best = best_of_runs(problem, run, restarts, choose=choose, images=images, seed=seed)
    report(problem, objective, best, restarts)
    return best.permutation
