"""What the merge of two networks is worth: the barrier between its ends, and the mean as it is and repaired.

Between trained networks a loss is often high only because the outputs are too small: one temperature for all logits
mends that. So everything is measured raw and calibrated. The temperature of a network is fitted on one half of the test
examples and used on the other, and the other way round: on training examples trained networks make no mistakes, and the
best temperature there is close to zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.alignment.agreement import Agreement
from neuralign.common.seeding import stream
from neuralign.curves.endpoints import Endpoints, endpoints_of
from neuralign.datasets.batches import Examples
from neuralign.evaluation.along_curve import measure
from neuralign.evaluation.barrier import barrier
from neuralign.evaluation.calibration import calibrated_metrics, calibration, ensemble, predictions, temperatures
from neuralign.merging.merge import Merge, Repair, repaired
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State, parameters
from neuralign.symmetry.permutations import identity
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.progress import Attack

Predictions = tuple[Tensor, Tensor]  # logits (n, classes), labels (n,)
ENDS = ("first", "second")
MEAN, ENSEMBLE = "mean", "ensemble"


@dataclass(frozen=True)
class Line:
    """The straight line between the two ends of a merge, whose points are measured on the same test examples."""

    merge: Merge
    endpoints: Endpoints  # both ends of the merge
    estimate: Estimate  # on whose examples batch-norm statistics are re-estimated at every point
    test: Examples
    batch_size: int
    seed: int  # of the halves of the test examples, of the bootstrap and of the attacks

    @classmethod
    def between(cls, merge: Merge, estimate: Estimate, test: Examples, *, batch_size: int, seed: int) -> "Line":
        """The line between the ends of a merge."""
        endpoints = endpoints_of(merge.model, merge.ends, next(merge.examples.batches(IMAGES))[0])
        return cls(merge, endpoints, estimate, test, batch_size, seed)

    @cached_property
    def ends(self) -> tuple[tuple[State, Predictions], ...]:
        """(network, its predictions) of both ends, as they are at 0 and 1 of the line."""
        return tuple((state, self.predictions(state)) for state in (self.state_at(0.0), self.state_at(1.0)))

    def predictions(self, state: State) -> Predictions:
        """(logits, labels) of the test examples, by a network."""
        return predictions(self.merge.model, state, self.test, batch_size=self.batch_size)

    def state_at(self, t: float) -> State:
        """The network at t in [0, 1], with statistics of its own."""
        first, second = self.endpoints.vectors
        state = self.endpoints.state_at(torch.lerp(first, second, t), (1 - t, t))
        batches = self.estimate.sample()
        return {**state, **refresh(self.merge.model, state, self.endpoints.statistics, batches, seed=self.seed)}


def measure_line(line: Line, points: int) -> dict[str, float]:
    """The agreement of both ends, and the barriers on the straight line between them; a row of numbers.

    Columns: agreement, the cosine of their parameters on which free groups lie; distance, the L2 norm of the difference
    of all parameters; barrier, by how much the loss on the line rises at most above the line between the losses of the
    ends, in nats; barrier_t, where that is; barrier_low and barrier_high, its 95 % interval by bootstrap over the test
    examples; the same four of calibrated_barrier, for which every point and both ends have their own temperature;
    images, the number of test examples. All are of clean examples.

    Args:
        line: with the examples.
        points: of the first, even grid of t; the place of the maximum is then refined.
    """
    cache: dict[float, Predictions] = {t: made for t, (_, made) in zip((0.0, 1.0), line.ends, strict=True)}

    def logits(t: float) -> Predictions:
        if t not in cache:
            cache[t] = line.predictions(line.state_at(t))
        return cache[t]

    def raw(t: float) -> Tensor:
        heads, labels = logits(t)
        return F.cross_entropy(heads, labels, reduction="none")

    def calibrated(t: float) -> Tensor:
        heads, labels = logits(t)
        return F.cross_entropy(heads / temperatures(heads, labels, line.seed), labels, reduction="none")

    row = _compare_parameters(line.merge)
    for name, losses in (("barrier", raw), ("calibrated_barrier", calibrated)):
        result = barrier(losses, points=points, seed=line.seed)
        low, high = result.interval
        row |= {name: result.height, f"{name}_t": result.t, f"{name}_low": low, f"{name}_high": high}
    return row | {"images": len(line.test)}


def measure_models(
    line: Line, repairs: Mapping[str, Repair], attacks: Mapping[str, Attack | None]
) -> Iterator[dict[str, Any]]:
    """One row per network and attack: both ends, their ensemble, their mean, and the mean after each of the repairs.

    Columns: model, attack, images, accuracy (%) and loss (nats); on clean examples also brier and ece, as of
    `calibration`, calibrated_loss, and temperature, the geometric mean of those of both halves. The ensemble is of the
    probabilities of both ends. It is measured on clean examples alone, because an attack is on one network.

    Args:
        line: with the merge and the examples.
        repairs: name -> repair.
        attacks: name -> attack; None for clean examples.
    """
    for name, (state, made) in zip(ENDS, line.ends, strict=True):
        yield from _rows(line, name, state, made, attacks)
    (_, (first, labels)), (_, (second, _)) = line.ends
    joint = ensemble([first, second]), labels
    yield from _rows(line, ENSEMBLE, {}, joint, {"clean": None})
    for name, repair in ({MEAN: None} | dict(repairs)).items():
        state = repaired(line.merge, repair)
        yield from _rows(line, name, state, line.predictions(state), attacks)


def _rows(
    line: Line, name: str, state: State, clean: Predictions, attacks: Mapping[str, Attack | None]
) -> Iterator[dict[str, Any]]:
    """The rows of one network; `clean`: its logits on clean examples, and their labels."""
    for attack_name, attack in attacks.items():
        row = {"model": name, "attack": attack_name, "images": len(line.test)}
        if attack is None:
            yield row | _classify(line, *clean)
        else:
            generator = stream(line.seed, "evaluation", attack_name, device=line.test.device)
            yield row | measure(
                line.merge.model, state, line.test, batch_size=line.batch_size, attack=attack, generator=generator
            )


def _classify(line: Line, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The columns of a network on clean examples."""
    values = calibration(logits, labels) | calibrated_metrics(logits, labels, line.seed)
    return {
        "accuracy": 100 - values["error"],
        "loss": values["nll"],
        "brier": values["brier"],
        "ece": values["ece"],
        "calibrated_loss": values["calibrated_nll"],
        "temperature": values["temperature"],
    }


def _compare_parameters(merge: Merge) -> dict[str, float]:
    """{agreement, distance}, as in `measure_line`."""
    (target, source), names = merge.ends, parameters(merge.model.network)
    agreement = Agreement(merge.trace.spec, target, source, names)
    squares = [(target[name].double() - source[name].double()).square().sum().item() for name in names]
    return {
        "agreement": agreement.value(identity(merge.trace.spec)) / (agreement.norms or 1.0),
        "distance": sum(squares) ** 0.5,
    }
