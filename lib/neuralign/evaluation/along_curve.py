"""The metrics of an objective along a curve, with batch-norm statistics re-estimated at every point (eval_curve of the
paper's code)."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuralign.common.seeding import stream
from neuralign.curves.curve import Curve, cumulative_lengths
from neuralign.curves.endpoints import Endpoints
from neuralign.datasets.batches import Examples, count_examples
from neuralign.networks.model import Model, State
from neuralign.training.batch_norm import Estimate, Place, statistics
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.progress import Attack

log = logging.getLogger(__name__)


def measure(
    model: Model,
    state: State,
    examples: Examples,
    *,
    batch_size: int,
    attack: Attack | None,
    generator: torch.Generator,
    objective: Objective = CLASSIFICATION,
) -> dict[str, float]:
    """{metric of the objective: mean over the examples} in evaluation mode; images are attacked first by an `attack`.

    The attack draws its random numbers from `generator`.
    """
    model.network.eval()
    state = {name: t.detach().clone() for name, t in state.items()}  # some networks update buffers in any mode
    metrics, count = objective.metrics, 0
    totals = torch.zeros(len(metrics), dtype=torch.float64, device=examples.device)
    with model.holding(state) as predict:
        for inputs, targets in examples.batches(batch_size):
            inputs = attack(predict, inputs, targets, generator) if attack else inputs
            with torch.no_grad():
                outputs = predict(inputs)
                totals += torch.stack([m.values(outputs, targets).double().sum() for m in metrics.values()])
            count += count_examples(inputs)
    return objective.report(dict(zip(metrics, totals.tolist(), strict=True)), count)


def measure_curve(
    model: Model,
    curve: Curve,
    ends: Endpoints,
    ts: list[float],
    estimate: Estimate,
    images: Examples,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
    objective: Objective = CLASSIFICATION,
) -> Iterator[dict[str, Any]]:
    """One row per point of the curve and attack, with the metrics over `images`.

    Columns: t, distance (along the curve from its start), attack, statistics, the metrics, images (the number of test
    examples).
    Batch-norm statistics are re-estimated once at every point, in rows whose `statistics` is "reestimated". The ends
    are also measured with their stored buffers, in rows whose `statistics` is "stored".

    Args:
        curve: from the first of the `ends` to the second.
        ends: both networks, and how their tensors are interpolated.
        ts: the points of the curve that are measured, increasing in [0, 1].
        estimate: the training images on which batch-norm statistics are re-estimated.
        images: the test images.
        attacks: name -> attack; None for clean images.
        batch_size: test images per batch.
        seed: of the attacks' random numbers.
        objective: whose metrics are measured.
    """
    stored = dict(zip((0.0, 1.0), ends.stored, strict=True))
    if not stored.keys() >= set(ts):
        ends.demand_interpolable()

    @torch.no_grad()
    def point(place: Place) -> dict[str, Tensor]:
        return ends.state_on(curve, *place)

    estimates = statistics(model, point, [(t,) for t in ts], ends.statistics, estimate)
    for t, distance, reestimated in zip(ts, cumulative_lengths(curve, ts), estimates, strict=True):
        buffers: dict[str, State] = {"reestimated": reestimated}
        if t in stored:
            buffers["stored"] = stored[t]
        for kind, statistics_buffers in buffers.items():
            state = {**point((t,)), **statistics_buffers}
            for name, attack in attacks.items():
                generator = stream(seed, "evaluation", name, device=images.device)
                values = measure(
                    model,
                    state,
                    images,
                    batch_size=batch_size,
                    attack=attack,
                    generator=generator,
                    objective=objective,
                )
                row = {"t": t, "distance": distance, "attack": name, "statistics": kind}
                yield row | values | {"images": len(images)}
                shown = "  ".join(f"{metric} {value:.3f}" for metric, value in values.items())
                log.info("t %.4f  %s, %s statistics  %s", t, name, kind, shown)
