"""Weight matching: units are matched by their weights alone, without data (Ainsworth et al. 2023, algorithm 1)."""

from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.ascent import Found, agreement_of, ascend, best_of_runs, match_in_turn, report, start_of_run
from neuralign.alignment.problem import Problem
from neuralign.config.options import Count, Seed


def weights(
    problem: Problem,
    *,
    begin: Literal["start", "barycentre"] = "start",
    sweeps: Count = 100,
    order: Literal["shuffled", "graph"] = "shuffled",
    restarts: Count = 1,
    choose: Literal["agreement", "midpoint"] = "agreement",
    images: Count = 2000,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation with the largest agreement of the parameters that coordinate ascent finds; {group: (n,)}.

    Args:
        begin: Whether the first run begins at the start, or matches the groups in the order of the network while those
            without a match are averaged (`barycentre`), which finds heads of attentions that are in another order.
        sweeps: Largest number of sweeps over all groups.
        order: Whether the groups of a sweep come in random order or in that of the network.
        restarts: Number of runs. The first begins at `begin`, the others at random permutations.
        choose: Which run is returned: that of the largest agreement, or of the lowest training loss at the midpoint of
            the line (`midpoint`), which reads images and labels.
        images: Number of training images for that loss.
        seed: Seed of the order and of the random starts.
    """
    objective = agreement_of(problem)

    def run(number: int, generator: torch.Generator) -> Found:
        is_new = begin == "barycentre" and not number
        start = match_in_turn(objective) if is_new else start_of_run(problem, number, generator)
        return ascend(objective, start, sweeps=sweeps, order=order, generator=generator)

    best = best_of_runs(problem, run, restarts, choose=choose, images=images, seed=seed)
    report(problem, objective, best, restarts)
    return best.permutation
