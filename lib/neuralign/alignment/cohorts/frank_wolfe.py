"""All networks and all groups at once, by the Frank-Wolfe algorithm (Crisostomi et al. 2024, "C2M3"); without data but
what the inner method reads."""

from typing import Literal

import torch

from neuralign.alignment.birkhoff import to_matrix
from neuralign.alignment.common_frame.cohort import Cohort, Permutations
from neuralign.alignment.common_frame.objective import JointAgreement, join, split
from neuralign.alignment.common_frame.search import Frame, align_to_means, align_to_member, identities, report
from neuralign.alignment.relaxation import relax, row_entropy, soft_value
from neuralign.config.options import Count, Flag, NonNegative, Seed


def frank_wolfe(
    cohort: Cohort,
    *,
    begin: Literal["reference", "barycentre", "identity"] = "reference",
    steps: Count = 200,
    tolerance: NonNegative = 1e-9,
    polish: Flag = True,
    seed: Seed = 0,
) -> Permutations:
    """The permutations with the largest agreement of all networks that Frank-Wolfe finds; the first network stays.

    The agreement is the sum of the inner products of the parameters over all pairs. The facts `relaxed` and `entropy`
    say how large it was before rounding, and how far the matrices were from permutations: 0 is a permutation, 1 the
    barycentre.

    Args:
        begin: Whether the others begin aligned with the first network, by the inner method (`reference`); at the
            barycentre, where all entries of a matrix are equal; or as they are.
        steps: Largest number of steps.
        tolerance: Stop when a step gains less than this share of the agreement.
        polish: Whether each network is then aligned with the mean of the others, as by `mean`.
        seed: Seed of the order in a sweep of that.
    """
    objective = JointAgreement.of(cohort)
    first = align_to_member(cohort, 1) if begin == "reference" else identities(cohort)
    start = {g: to_matrix(p) for g, p in join(first).items() if g in objective.spec.free}
    if begin == "barycentre":
        start = {g: torch.full_like(m, 1 / len(m)) for g, m in start.items()}
    permutation, relaxed, count = relax(objective, start, steps=steps, tolerance=tolerance)
    permutations = (first[0], *split(permutation, len(first))[1:])
    cohort.facts["relaxed"] = soft_value(objective, relaxed) / objective.norms
    cohort.facts["entropy"] = row_entropy(relaxed)
    if polish:
        permutations = align_to_means(cohort, permutations, sweeps=100, seed=seed).permutations
    return report(cohort, Frame(permutations, count))
