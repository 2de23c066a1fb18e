"""Loss and accuracy along a curve, batch-norm statistics re-estimated at every point (the paper's code, eval_curve)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.curves import Curve, distances
from neuralign.images import Images, Transform
from neuralign.metrics import METRICS
from neuralign.networks import Model, State
from neuralign.parameters import Layout
from neuralign.seeding import stream
from neuralign.training import Attack

log = logging.getLogger(__name__)

Batches = Iterable[tuple[Tensor, Tensor]]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def refresh(
    model: Model, parameters: State, buffers: State, batches: Batches, attack: Attack | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Buffers whose running statistics are the average over `batches`, each weighted by its number of images.

    The variance is the average of the batches' unbiased variances, as in `torch.optim.swa_utils.update_bn`. With an
    attack, every pass of the attack updates the statistics like that too, as in the paper's code: not an average then.
    """
    fresh = {name: b.clone() for name, b in buffers.items()}
    norms = [m for m in model.network.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return fresh
    modes, momenta = [(m, m.training) for m in model.network.modules()], [norm.momentum for norm in norms]
    model.network.eval()
    for norm in norms:
        norm.train()  # only the norms: dropout stays off
    seen, noise = 0, stream(seed, "attacked statistics", device=model.mean.device)
    try:
        for pixels, labels in batches:
            seen += len(pixels)
            for norm in norms:
                norm.momentum = len(pixels) / seen
            if attack:
                with torch.enable_grad():
                    pixels = attack(lambda x: model({**parameters, **fresh}, x), pixels, labels, noise)
            model({**parameters, **fresh}, pixels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return fresh


def measure(
    model: Model, state: State, images: Images, *, batch_size: int, attack: Attack | None, noise: torch.Generator
) -> dict[str, float]:
    """The mean of every metric over `images`, in evaluation mode."""
    model.network.eval()

    def predict(pixels: Tensor) -> Any:
        return model(state, pixels)

    totals = torch.zeros(len(METRICS), dtype=torch.float64, device=images.labels.device)
    for pixels, labels in images.batches(batch_size):
        pixels = attack(predict, pixels, labels, noise) if attack else pixels
        with torch.no_grad():
            logits = predict(pixels)
            totals += torch.stack([metric(logits, labels).double().sum() for metric in METRICS.values()])
    return dict(zip(METRICS, (totals / len(images)).tolist(), strict=True))


def along(
    model: Model,
    curve: Curve,
    layout: Layout,
    stored: tuple[State, State],
    ts: list[float],
    estimate: Callable[[], Batches],
    images: Images,
    attacks: Mapping[str, Attack | None],
    *,
    batch_size: int,
    seed: int,
    attacked_statistics: Attack | None = None,
) -> Iterator[dict[str, Any]]:
    """One tidy row per point and attack: t, distance, attack, statistics, the metrics, images.

    `estimate()` gives the batches that batch-norm statistics are re-estimated on, the same at every point. The ends are
    also measured with their `stored` buffers, in rows whose `statistics` is "stored".
    """
    ends = dict(zip((0.0, 1.0), stored, strict=True))
    for t, distance in zip(ts, distances(curve, ts), strict=True):
        with torch.no_grad():
            parameters = layout.views(curve(t))
        kinds = {"reestimated": refresh(model, parameters, stored[0], estimate(), attacked_statistics, seed)}
        if t in ends:
            kinds["stored"] = dict(ends[t])
        for statistics, buffers in kinds.items():
            for name, attack in attacks.items():
                noise = stream(seed, "evaluation", name, device=images.labels.device)
                values = measure(
                    model, {**parameters, **buffers}, images, batch_size=batch_size, attack=attack, noise=noise
                )
                place = {"t": t, "distance": distance, "attack": name, "statistics": statistics}
                yield place | values | {"images": len(images)}
        log.info("t %.4f  %s", t, "  ".join(f"{m} {v:.3f}" for m, v in values.items()))


def estimation_batches(images: Images, transform: Transform, size: int, seed: int) -> Callable[[], Batches]:
    """A function that gives the same shuffled, transformed batches of `images` at every call, one pass over them."""

    def batches() -> Batches:
        return images.shuffled(size, transform, stream(seed, "statistics order"), stream(seed, "statistics"))

    return batches
