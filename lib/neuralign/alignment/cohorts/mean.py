"""Every network is aligned with the mean of the others, in turn (Ainsworth et al. 2023, algorithm 3, "MergeMany")."""

from typing import Literal

from neuralign.alignment.common_frame.cohort import Cohort, Permutations
from neuralign.alignment.common_frame.search import align_to_means, align_to_member, identities, report
from neuralign.config.options import Count, Seed


def mean(
    cohort: Cohort,
    *,
    start: Literal["reference", "identity"] = "reference",
    sweeps: Count = 100,
    seed: Seed = 0,
) -> Permutations:
    """The permutations at which no network's alignment with the mean of the others raises the agreement of all.

    The agreement is the sum of the inner products of the parameters over all pairs of networks; it never falls.
    Batch-norm statistics of a mean are estimated anew where the inner method looks at activations or losses.

    Args:
        start: Whether the networks are first aligned with the first of them (`reference`), or are as they are.
        sweeps: Largest number of sweeps over all networks.
        seed: Seed of the order in a sweep.
    """
    begin = align_to_member(cohort, 1) if start == "reference" else identities(cohort)
    return report(cohort, align_to_means(cohort, begin, sweeps=sweeps, seed=seed))
