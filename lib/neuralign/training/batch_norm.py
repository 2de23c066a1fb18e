"""Re-estimates batch-norm statistics at points in weight space, on all training images or on a sample of them.

The images of the sample are the same at all points, so its error is similar at neighbouring points. It is measured at a
few points, the *nodes*, by passes over all images, interpolated between the nodes, and subtracted at the other points
(a control variate).
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

from neuralign.common.errors import UserError
from neuralign.common.seeding import preserved_generators, stream
from neuralign.datasets.batches import (
    Batch,
    Examples,
    Inputs,
    Targets,
    Transform,
    count_examples,
    first_examples,
    select,
)
from neuralign.networks.buffer_updates import IMAGES, Norm, updates
from neuralign.networks.model import Model, State, preserved_modes
from neuralign.networks.outputs import output_tensors
from neuralign.training.progress import Attack

Batches = Iterable[Batch]
Place = tuple[float, ...]  # coordinates of a point: (t,) on a curve, (t1, t2) on a plane

MEAN, VARIANCE = "running_mean", "running_var"
VISIBLE = 1e-3  # the relative change of outputs above which they depend on a statistic; less is rounding
# Points that share each batch: preparing a batch takes 5 % of the time of a pass of TinyTen over it.
POINTS_AT_ONCE = 8


def refresh(
    model: Model, parameters: State, buffers: State, batches: Batches, attack: Attack | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The `buffers`, in which running statistics are averages over `batches`, each weighted by its number of images.

    As in `torch.optim.swa_utils.update_bn`, a norm that is called several times in a pass counts every call, the
    variance is the average of the batches' unbiased variances, and `num_batches_tracked` counts from zero. A batch of a
    single image is left out if a norm does not accept it (batch norm of features without height and width). Raises
    UserError if statistics cannot be estimated.

    Args:
        model: the network; its mode and its own tensors do not change.
        parameters: of the network, and buffers that are not in `buffers`.
        buffers: those that are returned; any that are no running statistics or counters of a norm stay as they are.
        batches: of training images.
        attack: perturbs the pixels. Its passes over the original and the perturbed pixels update the statistics too, as
            in the paper's code.
        seed: of the attack.
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
    """The result of `refresh` for each of several points, reading each batch once.

    A point may hold some of the `buffers` itself; if a norm is never called, its buffers stay as the point has them.
    """
    initial = [{name: point.get(name, b) for name, b in buffers.items()} for point in points]
    fresh = [{name: b.clone() for name, b in point_buffers.items()} for point_buffers in initial]
    batches, read_ahead = iter(batches), list[Batch]()

    def example() -> Inputs:
        read_ahead.extend(islice(batches, 1))
        if not read_ahead:
            raise UserError("there are no images to estimate running statistics on")
        return read_ahead[0][0]

    updated = updates(model, {**points[0], **initial[0]}, example, buffers)
    for name in updated.unknown:
        if name.endswith((MEAN, VARIANCE)):
            raise UserError(f"the running statistics {name!r} cannot be re-estimated: {updated.unknown[name]}")
    if not updated.norms:
        return fresh
    counters = {c: i for i, norm in enumerate(updated.norms.values()) if norm.rate is None for c in norm.counters}
    for point_buffers in fresh:
        for name in counters:
            point_buffers[name].zero_()
    states = [{n: t.detach() for n, t in {**point, **b}.items()} for point, b in zip(points, fresh, strict=True)]
    generators = [stream(seed, "attacked statistics", device=model.device) for _ in points]
    averages = [_Averages(updated.norms.values()) for _ in points]
    last_inputs = None
    with preserved_modes(model.network):
        model.network.eval()
        for norm in updated.norms.values():
            norm.module.training = True  # not its submodules: dropout within a norm stays off
        for inputs, targets in chain(read_ahead, batches):
            count = count_examples(inputs)
            if count == 1 and not _accepts_batch(model, states[0], inputs):
                continue
            last_inputs = inputs
            for state, generator, average in zip(states, generators, averages, strict=True):
                with average.batch(count):
                    _update_statistics(model, state, inputs, targets, attack, generator, average)
    if last_inputs is None:
        raise UserError(
            "running statistics cannot be estimated: there are no images, or only batches of one, which have no "
            "variance; a larger batch_size or more images are needed"
        )
    _demand_calls(model, states[0], select(last_inputs, slice(IMAGES)), averages[0])
    for point_buffers, before, average in zip(fresh, initial, averages, strict=True):
        point_buffers.update({name: before[name].clone() for name, i in counters.items() if not average.seen[i]})
    return fresh


def _accepts_batch(model: Model, state: State, inputs: Inputs) -> bool:
    """Whether no norm raises ValueError on a batch, as in training mode they do for a single value per unit."""
    try:
        with preserved_generators(model.device):
            model({name: tensor.clone() for name, tensor in state.items()}, inputs)
    except ValueError:
        return False
    return True


def _update_statistics(
    model: Model,
    state: State,
    inputs: Inputs,
    targets: Targets,
    attack: Attack | None,
    generator: torch.Generator,
    average: "_Averages",
) -> None:
    """Update the running statistics in `state` in place, by the passes of the attack and one over its pixels."""
    with model.holding(state) as network:

        def predict(inputs: Inputs) -> Any:
            average.begin_pass()
            return network(inputs)

        if attack:
            with torch.enable_grad():
                inputs = attack(predict, inputs, targets, generator)
        predict(inputs)


class _Averages:
    """Makes norms compute the average of their statistics over all calls, weighted by the images of the batches.

    If a norm uses its `momentum`, hooks set that to the weight of each call. Any other norm has a constant rate: hooks
    set its statistics to zero before a call, divide them by the rate after it, which gives the statistics of this call
    alone, and average these with the earlier ones.
    """

    def __init__(self, norms: Iterable[Norm]):
        self.norms, self.images = list(norms), 0
        self.seen = [0] * len(self.norms)  # for each norm, images in all its calls before the current batch
        self.seen_so_far = list(self.seen)  # the same, with the calls in the current pass over this batch

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """A block in which passes over one batch of this many images are averaged."""
        hooks: list[Any] = []
        momenta: list[Any] = [getattr(norm.module, "momentum", None) for norm in self.norms]
        self.images = images
        for i, norm in enumerate(self.norms):
            before, after = self._hooks(i, norm)
            hooks += [norm.module.register_forward_pre_hook(before), norm.module.register_forward_hook(after)]
        try:
            yield
            self.seen = self.seen_so_far
        finally:
            for hook in hooks:
                hook.remove()
            for norm, momentum in zip(self.norms, momenta, strict=True):
                if norm.rate is None:
                    norm.module.momentum = momentum

    def begin_pass(self) -> None:
        """Begin another pass over the same batch, whose calls have the weights of those of the previous pass."""
        self.seen_so_far = list(self.seen)

    def _hooks(self, i: int, norm: Norm) -> tuple[Callable[..., None], Callable[..., None]]:
        """The hooks that run before and after each call of norm number `i`."""
        old: dict[str, Tensor] = {}
        rate = norm.rate

        def before(module: nn.Module, inputs: Any) -> None:
            self.seen_so_far[i] += self.images
            if rate is None:
                module.momentum = self.images / self.seen_so_far[i]  # type: ignore[assignment]
                return
            for name in norm.statistics:
                old[name] = module.get_buffer(name).detach().clone()
                with torch.no_grad():
                    module.get_buffer(name).zero_()

        def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
            for name, value in old.items():
                with torch.no_grad():
                    measured = module.get_buffer(name) / (rate or 1.0)
                    module.get_buffer(name).copy_(torch.lerp(value, measured, self.images / self.seen_so_far[i]))
            old.clear()

        return before, after


def _demand_calls(model: Model, state: State, inputs: Inputs, average: _Averages) -> None:
    """Raise UserError if the outputs depend on the statistics of a norm that was never called."""
    uncalled = [norm for norm, seen in zip(average.norms, average.seen, strict=True) if not seen]
    if not uncalled:
        return
    changed = {name: 2 * state[name] + 1 for norm in uncalled for name in norm.statistics.values()}
    with preserved_modes(model.network), preserved_generators(model.device):
        model.network.eval()
        pairs = zip(*(output_tensors(model(s, inputs)) for s in (dict(state), {**state, **changed})), strict=True)
        if any((a - b).abs().max() > VISIBLE * a.abs().max() for a, b in pairs):
            names = sorted(changed)[:4]
            raise UserError(
                f"the running statistics {names} are read by the network, but the forward of their norm is never "
                "called: they cannot be re-estimated"
            )


@dataclass(frozen=True)
class Estimate:
    """How batch-norm statistics are estimated: the images and the attack."""

    sample: Callable[[], Batches]  # () -> the batches that are used at every point, the same in each call
    all_images: Callable[[], Batches]  # () -> batches of all images
    full_passes: int = 0  # nodes along each coordinate, at which all images are used; 0: the sample is not corrected
    attack: Attack | None = None
    seed: int = 0  # of the attack

    @classmethod
    def on(
        cls,
        training: Examples,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        images: int | None = None,
        full_passes: int | None = None,
        attack: Attack | None = None,
    ) -> "Estimate":
        """The estimate on one shuffled and augmented pass over the training images, or on a sample of them.

        Args:
            training: the training images.
            transform: their augmentation: (uint8 images (n, c, h, w), generator) -> images.
            batch_size: images in a batch.
            seed: of the order of the images, the augmentation and the attack.
            images: size of the sample, which is kept in memory. None: all images are used at every point.
            full_passes: nodes along each coordinate, at which the error of the sample is measured, at least two, since
                the error is interpolated between them. None: nowhere.
            attack: perturbs the images.
        """
        if full_passes is not None and full_passes < 2:
            raise UserError(f"full_passes: found {full_passes}; at least 2, or None, is needed")

        def all_images() -> Batches:
            return training.shuffled(
                batch_size, transform, stream(seed, "statistics order"), stream(seed, "statistics")
            )

        if images is None or images >= len(training):
            return cls(all_images, all_images, 0, attack, seed)
        sample = list(first_examples(all_images(), images))
        return cls(lambda: sample, all_images, full_passes or 0, attack, seed)


def statistics(
    model: Model, point: Callable[[Place], State], places: Sequence[Place], buffers: State, estimate: Estimate
) -> Iterator[dict[str, Tensor]]:
    """The re-estimated buffers at each of `places`, in their order.

    Args:
        point: place -> parameters of the network there, and buffers that are not re-estimated.
        buffers: those to re-estimate, with any values of the right shapes.
        estimate: the images. If its sample is corrected, the buffers at a node are exactly those of all images.
    """

    def refreshed(batches: Callable[[], Batches], places: Sequence[Place]) -> Iterator[dict[str, Tensor]]:
        for i in range(0, len(places), POINTS_AT_ONCE):
            points = [point(place) for place in places[i : i + POINTS_AT_ONCE]]
            yield from refresh_each(model, points, buffers, batches(), estimate.attack, estimate.seed)

    axes = [_evenly_chosen(sorted(set(values)), estimate.full_passes) for values in zip(*places, strict=True)]
    nodes = list(product(*axes)) if estimate.full_passes else []
    full = dict(zip(nodes, refreshed(estimate.all_images, nodes), strict=True))
    sampled_nodes = zip(nodes, refreshed(estimate.sample, nodes), strict=True)
    corrections = {node: _correction(full[node], sampled) for node, sampled in sampled_nodes}
    for place, sampled in zip(places, refreshed(estimate.sample, places), strict=True):
        if place in full:
            yield full[place]
        else:
            yield _corrected(sampled, _neighbouring_nodes(place, axes), corrections) if nodes else sampled


def _evenly_chosen(values: Sequence[float], count: int) -> list[float]:
    """`count` of the sorted values at even distances in rank, the first and the last included; [] if `count` < 2.

    All values if there are fewer.
    """
    last = len(values) - 1
    chosen = [values[round(i * last / (count - 1))] for i in range(count)] if count > 1 else []
    return list(dict.fromkeys(chosen))


def _neighbouring_nodes(place: Place, axes: Sequence[Sequence[float]]) -> dict[Place, float]:
    """{node: weight} of the nodes around a place, for interpolation that is linear in every coordinate."""
    sides = []
    for x, axis in zip(place, axes, strict=True):
        i = min(bisect_right(axis, x), len(axis) - 1)
        share = (x - axis[i - 1]) / (axis[i] - axis[i - 1])
        sides.append({axis[i - 1]: 1 - share, axis[i]: share})
    return {node: prod(side[x] for side, x in zip(sides, node, strict=True)) for node in product(*sides)}


def _correction(full: State, sampled: State) -> dict[str, Tensor]:
    """{buffer: correction} at a node: summands for means, and factors for variances, which so stay positive."""
    inexact = {name: value for name, value in sampled.items() if value.is_floating_point() or value.is_complex()}
    variances = {name: value for name, value in inexact.items() if name.endswith(VARIANCE)}
    summands = {name: full[name] - value for name, value in inexact.items() if name not in variances}
    factors = {name: torch.where(value > 0, full[name] / value, 1.0) for name, value in variances.items()}
    return summands | factors


def _corrected(
    sampled: Mapping[str, Tensor], weights: Mapping[Place, float], corrections: Mapping[Place, State]
) -> dict[str, Tensor]:
    """The sampled buffers, corrected by the average of the nodes' corrections with these weights."""
    corrected = dict(sampled)
    for name in next(iter(corrections.values())):
        correction = torch.stack([weight * corrections[node][name] for node, weight in weights.items()]).sum(0)
        corrected[name] = sampled[name] * correction if name.endswith(VARIANCE) else sampled[name] + correction
    return corrected
