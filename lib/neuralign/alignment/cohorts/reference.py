"""Every network is aligned with one of them."""

from neuralign.alignment.common_frame.cohort import Cohort, Permutations
from neuralign.alignment.common_frame.search import Frame, align_to_member, report
from neuralign.config.options import Count


def reference(cohort: Cohort, *, member: Count = 1) -> Permutations:
    """The permutations by which the inner method aligns each network with one of them, in the frame of the first.

    The merged network depends on that one, by up to tens of points of accuracy (Crisostomi et al. 2024).

    Args:
        member: The network that the others are aligned with, counted from 1.
    """
    return report(cohort, Frame(align_to_member(cohort, member), 1))
