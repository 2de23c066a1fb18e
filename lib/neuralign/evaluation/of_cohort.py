"""Loss and accuracy of several networks and of their mean, before and after alignment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neuralign.common.seeding import stream
from neuralign.curves.storage import endpoints_on_images
from neuralign.datasets.batches import Examples
from neuralign.evaluation.along_curve import measure
from neuralign.networks.model import Model, State
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.progress import Attack

MEAN, UNALIGNED_MEAN = "aligned mean", "unaligned mean"  # no entry of the config has a name with a space


def measure_cohort(
    model: Model,
    states: Mapping[str, State],
    aligned: Sequence[State],
    estimate: Estimate,
    training: Examples,
    images: Examples,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
    objective: Objective = CLASSIFICATION,
) -> Iterator[dict[str, Any]]:
    """One row per network and attack, with the metrics over `images`: each network, and the mean with equal weights.

    Columns: model (a name of `states`, MEAN or UNALIGNED_MEAN), attack, statistics ("reestimated", or "stored" for the
    networks with their own buffers), loss, accuracy, images (their number).

    Args:
        states: name -> network as it was trained.
        aligned: the same networks in one frame.
        estimate: on whose batches batch-norm statistics are re-estimated, once for every network.
        training: the network is run on a few of them to see how it updates its buffers.
        images: the test images.
        attacks: name -> attack; None for clean images.
        batch_size: test images per batch.
        seed: of the attacks' random numbers.
        objective: whose metrics are measured.
    """
    share = [1 / len(states)] * len(states)
    networks: list[tuple[str, str, State]] = []

    def reestimated(state: State, buffers: State) -> dict[str, Tensor]:
        return {**state, **refresh(model, state, buffers, estimate.sample(), estimate.attack, estimate.seed)}

    for name, members in ((UNALIGNED_MEAN, list(states.values())), (MEAN, aligned)):
        ends = endpoints_on_images(model, training, *members)
        middle = ends.state_at(torch.stack(ends.vectors).mean(0), share)
        networks.append((name, "reestimated", reestimated(middle, ends.statistics)))
    for name, state in states.items():
        networks += [(name, "reestimated", reestimated(state, ends.statistics)), (name, "stored", state)]
    for name, statistics, state in networks:
        for attack_name, attack in attacks.items():
            generator = stream(seed, "evaluation", attack_name, device=images.device)
            values = measure(
                model, state, images, batch_size=batch_size, attack=attack, generator=generator, objective=objective
            )
            yield {"model": name, "attack": attack_name, "statistics": statistics} | values | {"images": len(images)}
