"""Loss and accuracy along a curve, batch-norm statistics re-estimated at every point (the paper's code, eval_curve)."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuralign.common.seeding import stream
from neuralign.curves.curve import Curve, distances
from neuralign.curves.endpoints import Endpoints
from neuralign.datasets.images import Images
from neuralign.evaluation.metrics import METRICS
from neuralign.networks.model import Model, State, logits
from neuralign.training.batch_norm import Estimate, Place, statistics
from neuralign.training.progress import Attack

log = logging.getLogger(__name__)


def measure(
    model: Model, state: State, images: Images, *, batch_size: int, attack: Attack | None, noise: torch.Generator
) -> dict[str, float]:
    """The mean of every metric over `images`, in evaluation mode."""
    model.network.eval()
    state = {name: t.detach().clone() for name, t in state.items()}  # some networks update buffers in any mode
    totals = torch.zeros(len(METRICS), dtype=torch.float64, device=images.labels.device)
    with model.holding(state) as predict:  # in the backward passes of an attack, too
        for pixels, labels in images.batches(batch_size):
            pixels = attack(predict, pixels, labels, noise) if attack else pixels
            with torch.no_grad():
                outputs = logits(predict(pixels))
                totals += torch.stack([metric(outputs, labels).double().sum() for metric in METRICS.values()])
    return dict(zip(METRICS, (totals / len(images)).tolist(), strict=True))


def along(
    model: Model,
    curve: Curve,
    ends: Endpoints,
    ts: list[float],
    estimate: Estimate,
    images: Images,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """One tidy row per point and attack: t, distance, attack, statistics, the metrics, images.

    Batch-norm statistics are re-estimated once at every point, for all attacks. The ends are also measured with the
    buffers that they have stored, in rows whose `statistics` is "stored".
    """
    stored = dict(zip((0.0, 1.0), ends.stored, strict=True))
    if not stored.keys() >= set(ts):
        ends.demand_between()

    @torch.no_grad()
    def point(place: Place) -> dict[str, Tensor]:
        return ends.on(curve, *place)

    found = statistics(model, point, [(t,) for t in ts], ends.statistics, estimate)
    for t, distance, buffers in zip(ts, distances(curve, ts), found, strict=True):
        kinds: dict[str, State] = {"reestimated": buffers}
        if t in stored:
            kinds["stored"] = stored[t]
        for statistics_, own in kinds.items():
            state = {**point((t,)), **own}
            for name, attack in attacks.items():
                noise = stream(seed, "evaluation", name, device=images.labels.device)
                values = measure(model, state, images, batch_size=batch_size, attack=attack, noise=noise)
                place = {"t": t, "distance": distance, "attack": name, "statistics": statistics_}
                yield place | values | {"images": len(images)}
        log.info("t %.4f  %s", t, "  ".join(f"{m} {v:.3f}" for m, v in values.items()))
