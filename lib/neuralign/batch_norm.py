"""Batch-norm statistics of points in weight space, estimated anew on training images: on all of them, or on a few.

The statistics of a few images are off, but those of neighbouring points are off alike, for they see the same images. So
passes over all images at a few points, the nodes, tell how far off the few images are there, and in between they are
corrected by as much, interpolated (a control variate).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from neuralign.images import Images, Transform
from neuralign.networks import NORMS, Model, State
from neuralign.seeding import stream
from neuralign.training import Attack

Batches = Iterable[tuple[Tensor, Tensor]]
Place = tuple[float, ...]  # where a point lies: (t,) on a curve, (t1, t2) on a plane

MEAN, VARIANCE = "running_mean", "running_var"
TOGETHER = 8  # points for which a batch is read at once: making it costs a network as small as TinyTen 5 % of its pass


def refresh(
    model: Model, parameters: State, buffers: State, batches: Batches, attack: Attack | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Buffers whose running statistics are the average over `batches`, each weighted by its number of images.

    The variance is the average of the batches' unbiased variances, as in `torch.optim.swa_utils.update_bn`. With an
    attack, every pass of the attack updates the statistics like that too, as in the paper's code: not an average then.
    """
    return refresh_each(model, [parameters], buffers, batches, attack, seed)[0]


@torch.no_grad()
def refresh_each(
    model: Model,
    points: Sequence[State],
    buffers: State,
    batches: Batches,
    attack: Attack | None = None,
    seed: int = 0,
) -> list[dict[str, Tensor]]:
    """`refresh` for the parameters of several points, in one read of the batches."""
    fresh = [{name: b.clone() for name, b in buffers.items()} for _ in points]
    norms = [m for m in model.network.modules() if isinstance(m, NORMS) and m.track_running_stats]
    if not norms:
        return fresh
    modes, momenta = [(m, m.training) for m in model.network.modules()], [norm.momentum for norm in norms]
    model.network.eval()
    for norm in norms:
        norm.train()  # only the norms: dropout stays off
    states = [{**parameters, **own} for parameters, own in zip(points, fresh, strict=True)]
    noises = [stream(seed, "attacked statistics", device=model.mean.device) for _ in points]
    seen = 0
    try:
        for pixels, labels in batches:
            seen += len(pixels)
            for norm in norms:
                norm.momentum = len(pixels) / seen
            for state, noise in zip(states, noises, strict=True):
                _pass(model, state, pixels, labels, attack, noise)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return fresh


def _pass(
    model: Model, state: State, pixels: Tensor, labels: Tensor, attack: Attack | None, noise: torch.Generator
) -> None:
    """One pass, which updates the buffers of `state` in place."""
    if attack:
        with torch.enable_grad():
            pixels = attack(lambda x: model(state, x), pixels, labels, noise)
    model(state, pixels)


@dataclass(frozen=True)
class Estimate:
    """The images that statistics are estimated on, as functions that give the same batches at every call.

    With `whole`, those of `sample` are corrected by passes over it at `full_passes` nodes along each coordinate.
    """

    sample: Callable[[], Batches]
    whole: Callable[[], Batches] | None = None
    full_passes: int = 0
    attack: Attack | None = None
    seed: int = 0  # of the attack's noise

    @classmethod
    def on(
        cls,
        training: Images,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        images: int | None = None,
        full_passes: int | None = None,
        attack: Attack | None = None,
    ) -> "Estimate":
        """On a shuffled, transformed pass over `training`, or on as many `images` as it begins with, kept ready."""

        def whole() -> Batches:
            return training.shuffled(
                batch_size, transform, stream(seed, "statistics order"), stream(seed, "statistics")
            )

        if images is None or images >= len(training):
            return cls(whole, attack=attack, seed=seed)
        kept = list(first(whole(), images))
        return cls(lambda: kept, whole if full_passes else None, full_passes or 0, attack, seed)


def first(batches: Batches, count: int) -> Batches:
    """The first `count` images of the batches."""
    for pixels, labels in batches:
        yield pixels[:count], labels[:count]
        count -= len(labels)
        if count <= 0:
            return


def statistics(
    model: Model, point: Callable[[Place], State], places: Sequence[Place], buffers: State, estimate: Estimate
) -> Iterator[dict[str, Tensor]]:
    """The buffers of the points at `places`, in their order; `point` gives the parameters of a place.

    At a node they are those of a pass over all images, to the bit.
    """

    def passes(batches: Callable[[], Batches], places: Sequence[Place]) -> Iterator[dict[str, Tensor]]:
        for i in range(0, len(places), TOGETHER):
            points = [point(place) for place in places[i : i + TOGETHER]]
            yield from refresh_each(model, points, buffers, batches(), estimate.attack, estimate.seed)

    axes = [_spread(sorted(set(values)), estimate.full_passes) for values in zip(*places, strict=True)]
    nodes = list(product(*axes)) if estimate.whole else []
    full = dict(zip(nodes, passes(estimate.whole, nodes) if estimate.whole else (), strict=True))
    offs = {node: _off(full[node], own) for node, own in zip(nodes, passes(estimate.sample, nodes), strict=True)}
    for place, own in zip(places, passes(estimate.sample, places), strict=True):
        if place in full:
            yield full[place]
        else:
            yield _corrected(own, _around(place, axes), offs) if nodes else own


def _spread(values: Sequence[float], count: int) -> list[float]:
    """`count` of the values, evenly by rank, both ends among them."""
    last = len(values) - 1
    return [values[round(i * last / (count - 1))] for i in range(count)] if count > 1 else []


def _around(place: Place, axes: Sequence[Sequence[float]]) -> dict[Place, float]:
    """The nodes around a place and their shares of it, linear in each coordinate."""
    sides = []
    for x, axis in zip(place, axes, strict=True):
        i = min(bisect_right(axis, x), len(axis) - 1)
        share = (x - axis[i - 1]) / (axis[i] - axis[i - 1])
        sides.append({axis[i - 1]: 1 - share, axis[i]: share})
    return {node: prod(side[x] for side, x in zip(sides, node, strict=True)) for node in product(*sides)}


def _off(full: State, sample: State) -> dict[str, Tensor]:
    """What the means of the sample lack, and the factors that its variances lack: these must stay positive."""
    lacking = {name: full[name] - own for name, own in sample.items() if name.endswith(MEAN)}
    variances = {name: own for name, own in sample.items() if name.endswith(VARIANCE)}
    factors = {name: torch.where(own > 0, full[name] / own, 1.0) for name, own in variances.items()}
    return lacking | factors


def _corrected(
    sample: Mapping[str, Tensor], shares: Mapping[Place, float], offs: Mapping[Place, State]
) -> dict[str, Tensor]:
    corrected = dict(sample)
    for name in next(iter(offs.values())):
        off = torch.stack([share * offs[node][name] for node, share in shares.items()]).sum(0)
        corrected[name] = sample[name] + off if name.endswith(MEAN) else sample[name] * off
    return corrected
