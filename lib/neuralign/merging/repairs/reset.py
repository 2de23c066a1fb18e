"""Re-estimates the batch-norm statistics of a merged network, and changes nothing else."""

from torch import Tensor

from neuralign.config.options import Count
from neuralign.merging.merge import Merge, with_fresh_statistics


def reset(merge: Merge, *, images: Count = 10_000) -> dict[str, Tensor]:
    """The merged network with running statistics of its own; it stays as it is if it has none.

    Args:
        images: Number of training images; a study draws them at random.
    """
    return with_fresh_statistics(merge.model, merge.state, merge.examples.first(images))
