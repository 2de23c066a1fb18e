"""Batch-norm statistics of points in weight space, estimated anew on training images: on all of them, or on a few.

The statistics of a few images are off, but those of neighbouring points are off alike, for they see the same images. So
passes over all images at a few points, the nodes, tell how far off the few images are there, and in between they are
corrected by as much, interpolated (a control variate).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import Refused
from neuralign.common.seeding import aside, stream
from neuralign.datasets.images import Images, Transform
from neuralign.networks.buffer_updates import IMAGES, Norm, updates
from neuralign.networks.model import Model, State, modes_kept
from neuralign.networks.outputs import heads
from neuralign.training.progress import Attack

Batches = Iterable[tuple[Tensor, Tensor]]
Place = tuple[float, ...]  # where a point lies: (t,) on a curve, (t1, t2) on a plane

MEAN, VARIANCE = "running_mean", "running_var"
UNSEEN = 1e-3  # a change of outputs, as a share of their size, that is more than rounding
TOGETHER = 8  # points for which a batch is read at once: making it costs a network as small as TinyTen 5 % of its pass


def refresh(
    model: Model, parameters: State, buffers: State, batches: Batches, attack: Attack | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Buffers whose running statistics are the average over `batches`, each weighted by its number of images.

    A norm that is called several times in a pass counts every call, as `torch.optim.swa_utils.update_bn` does; like
    there, the variance is the average of the batches' unbiased variances, and `num_batches_tracked` counts from zero.
    A batch of one image is left out where a norm does not take it (batch norm of what has no height and width).
    With an attack, every pass of the attack updates the statistics like that too, as in the paper's code: not an
    average then. Buffers that are no running statistics of a norm come back as they are.
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
    """`refresh` for the parameters of several points, in one read of the batches.

    A point may have these buffers, too: where a norm is never called, its own are what it keeps.
    """
    begun = [{name: point.get(name, b) for name, b in buffers.items()} for point in points]
    fresh = [{name: b.clone() for name, b in own.items()} for own in begun]
    batches, read = iter(batches), list[tuple[Tensor, Tensor]]()

    def example() -> Tensor:
        read.extend(islice(batches, 1))
        if not read:
            raise Refused("there are no images to estimate running statistics on")
        return read[0][0]

    found = updates(model, {**points[0], **begun[0]}, example, buffers)
    for name in found.unknown:
        if name.endswith((MEAN, VARIANCE)):
            raise Refused(f"the running statistics {name!r} cannot be estimated anew: {found.unknown[name]}")
    if not found.norms:
        return fresh
    counters = {c: i for i, norm in enumerate(found.norms.values()) if norm.rate is None for c in norm.counters}
    for own in fresh:
        for name in counters:
            own[name].zero_()
    states = [{n: t.detach() for n, t in {**point, **own}.items()} for point, own in zip(points, fresh, strict=True)]
    noises = [stream(seed, "attacked statistics", device=model.mean.device) for _ in points]
    averages = [_Averages(found.norms.values()) for _ in points]
    used = None
    with modes_kept(model.network):
        model.network.eval()
        for norm in found.norms.values():
            norm.module.training = True  # only the norm: dropout stays off, also where it is a child of the norm
        for pixels, labels in chain(read, batches):
            if len(pixels) == 1 and not _takes(model, states[0], pixels):
                continue
            used = pixels
            for state, noise, average in zip(states, noises, averages, strict=True):
                with average.over(len(pixels)):
                    _pass(model, state, pixels, labels, attack, noise, average)
    if used is None:
        raise Refused(
            "running statistics cannot be estimated: there are no images, or batches of one only, of which a norm has "
            "no variance; a larger batch_size or more images are needed"
        )
    _demand_calls(model, states[0], used[:IMAGES], averages[0])
    for own, before, average in zip(fresh, begun, averages, strict=True):
        own.update({name: before[name].clone() for name, i in counters.items() if not average.seen[i]})
    return fresh


def _takes(model: Model, state: State, pixels: Tensor) -> bool:
    """Whether norms in training mode take a batch; ValueError is what they raise where a unit has a single number."""
    try:
        with aside(pixels.device):
            model({name: tensor.clone() for name, tensor in state.items()}, pixels)
    except ValueError:
        return False
    return True


def _pass(
    model: Model,
    state: State,
    pixels: Tensor,
    labels: Tensor,
    attack: Attack | None,
    noise: torch.Generator,
    average: "_Averages",
) -> None:
    """One pass, which updates the buffers of `state` in place."""
    with model.holding(state) as network:

        def predict(pixels: Tensor) -> Any:
            average.begin_pass()
            return network(pixels)

        if attack:
            with torch.enable_grad():
                pixels = attack(predict, pixels, labels, noise)
        predict(pixels)


class _Averages:
    """Makes the running statistics of norms averages over all calls, each weighted by the images of its batch.

    PyTorch's norms are told the weight of a call as their `momentum`. Another norm has a rate of its own: what a call
    has measured is what it leaves of zeros, divided by that rate.
    """

    def __init__(self, norms: Iterable[Norm]):
        self.norms, self.images = list(norms), 0
        self.seen = [0] * len(self.norms)  # images in all calls of each norm, before this batch
        self.now = list(self.seen)

    @contextmanager
    def over(self, images: int) -> Iterator[None]:
        """A block of passes over a batch of so many images."""
        hooks: list[Any] = []
        momenta: list[Any] = [getattr(norm.module, "momentum", None) for norm in self.norms]
        self.images = images
        for i, norm in enumerate(self.norms):
            before, after = self._hooks(i, norm)
            hooks += [norm.module.register_forward_pre_hook(before), norm.module.register_forward_hook(after)]
        try:
            yield
            self.seen = self.now
        finally:
            for hook in hooks:
                hook.remove()
            for norm, momentum in zip(self.norms, momenta, strict=True):
                if norm.rate is None:
                    norm.module.momentum = momentum

    def begin_pass(self) -> None:
        """Count the calls of another pass over the same batch: it takes the place of the one before."""
        self.now = list(self.seen)

    def _hooks(self, i: int, norm: Norm) -> tuple[Callable[..., None], Callable[..., None]]:
        old: dict[str, Tensor] = {}
        rate = norm.rate

        def before(module: nn.Module, inputs: Any) -> None:
            self.now[i] += self.images
            if rate is None:
                module.momentum = self.images / self.now[i]  # type: ignore[assignment]
                return
            for name in norm.statistics:
                old[name] = module.get_buffer(name).detach().clone()
                with torch.no_grad():
                    module.get_buffer(name).zero_()

        def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
            for name, value in old.items():
                with torch.no_grad():
                    measured = module.get_buffer(name) / (rate or 1.0)
                    module.get_buffer(name).copy_(torch.lerp(value, measured, self.images / self.now[i]))
            old.clear()

        return before, after


def _demand_calls(model: Model, state: State, pixels: Tensor, average: _Averages) -> None:
    """Refuse norms whose statistics the outputs depend on, though the norms themselves were never called."""
    idle = [norm for norm, seen in zip(average.norms, average.seen, strict=True) if not seen]
    if not idle:
        return
    moved = {name: 2 * state[name] + 1 for norm in idle for name in norm.statistics.values()}
    with modes_kept(model.network), aside(pixels.device):
        model.network.eval()
        pairs = zip(*(heads(model(s, pixels)) for s in (dict(state), {**state, **moved})), strict=True)
        if any((a - b).abs().max() > UNSEEN * a.abs().max() for a, b in pairs):
            names = sorted(moved)[:4]
            raise Refused(
                f"the running statistics {names} are read by the network, but not by the forward of the norm that has "
                "them: they cannot be estimated anew"
            )


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
    inexact = {name: own for name, own in sample.items() if own.is_floating_point() or own.is_complex()}
    variances = {name: own for name, own in inexact.items() if name.endswith(VARIANCE)}
    lacking = {name: full[name] - own for name, own in inexact.items() if name not in variances}
    factors = {name: torch.where(own > 0, full[name] / own, 1.0) for name, own in variances.items()}
    return lacking | factors


def _corrected(
    sample: Mapping[str, Tensor], shares: Mapping[Place, float], offs: Mapping[Place, State]
) -> dict[str, Tensor]:
    corrected = dict(sample)
    for name in next(iter(offs.values())):
        off = torch.stack([share * offs[node][name] for node, share in shares.items()]).sum(0)
        corrected[name] = sample[name] * off if name.endswith(VARIANCE) else sample[name] + off
    return corrected
