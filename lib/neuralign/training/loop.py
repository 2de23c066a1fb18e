"""The training loop: steps of an optimiser on an endpoint or on the bends of a curve, with or without an attack.

Endpoints and curves differ only in `sample` and `basis`, standard and robust models only in `attack`. `simultaneous.py`
runs several trainings at once, `cuda_graphs.py` makes steps faster on a GPU, `progress.py` has the settings of a
training and what it keeps between steps.
"""

import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf, isfinite

import torch
from torch import Tensor
from torch.func import vmap

from neuralign.common.errors import UserError
from neuralign.common.seeding import PartGenerator, derive, preserved_generators, reseed, stream
from neuralign.config.plugins import Entry, plugin
from neuralign.curves.curve import Basis
from neuralign.datasets.batches import Examples, Inputs, Targets, Transform, count_examples, select
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import Model, State, preserved_modes
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import OPTIONAL
from neuralign.training.cuda_graphs import recorded, side_streams
from neuralign.training.distributed.batch_norm import demand_replaceable, synchronised
from neuralign.training.distributed.processes import ALONE, WHOLE, Processes
from neuralign.training.objective import LOSS, Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.training.optimiser import SGD, clip_
from neuralign.training.progress import (
    Attack,
    Constraint,
    Diverged,
    Keeper,
    Progress,
    Regime,
    Row,
    Sample,
    autocast,
    in_precision,
)

log = logging.getLogger(__name__)
SILENCE = 30.0  # seconds without a line in the log of a training


def objective_of(entry: Entry | None) -> Objective:
    """The objective of a config entry; that of a classifier for None."""
    return plugin("objectives", entry)() if entry else CLASSIFICATION


def demand_trainable_last_batch(
    model: Model,
    state: Callable[[], State],
    examples: Examples,
    batch_size: int,
    objective: Objective,
    processes: Processes = ALONE,
) -> None:
    """Raise UserError if the last batch of the training set is one example and the network cannot train on one.

    Batch norm needs at least two values per unit; after a global pooling a single image has one. `state`: () -> the
    state to try this with; it is copied. `processes`: whose batch norms see their part of a batch alone.
    """
    last = examples.batch_sizes(batch_size)[-1]
    if min(map(processes.smallest_part, examples.batch_sizes(batch_size))) > 1:
        return
    with preserved_generators(examples.device), preserved_modes(model.network), torch.no_grad():
        model.network.train()
        inputs, targets = next(examples.batches(1))
        try:
            copies = {name: tensor.detach().clone() for name, tensor in state().items()}
            objective.loss(model(copies, inputs), targets)
        except Exception as error:  # the network is the user's code and may raise anything
            where = "the last batch" if last == 1 else f"the part of one of {processes.count} processes"
            raise UserError(
                f"{len(examples)} {examples.noun} in batches of {batch_size} leave one alone in {where}, and "
                f"the network does not train on a single one: {summary(error)}; choose another batch_size"
            ) from error


class Training:
    """Trains `trainable` so that the network `sample(trainable, basis(t))` has a low loss for t uniform in [0, 1].

    One t is drawn per step. What is minimised is the objective's loss plus weight_decay / 2 times the squared norm of
    the *sampled* parameters. For an endpoint this is SGD's weight decay; for a curve it is the penalty of the paper's
    code. An optimiser with decoupled weight decay gets the gradient of the loss only, and the gradient of the norm term
    is a step of plain SGD: for an endpoint this is the weight decay of AdamW.

    Args:
        model: the network and its normalisation.
        trainable: the initial value: a vector (d,) for an endpoint, bends (n - 2, k) for a curve; it is copied.
        sample: (trainable, weights (n,) of the control points) -> the parameters (d,) of one network.
        layout: where each tensor of the network lies in the parameters (d,).
        buffers: all other tensors of the network, including frozen parameters; a copy of them is updated.
        examples: the training set, on the training device.
        regime: epochs, batch size, learning rate and so on.
        objective: the loss and the metrics.
        transform: the augmentation, such as (uint8 images (n, c, h, w), generator) -> images.
        basis: t -> weights (n,) of the control points. None for an endpoint, whose `sample` ignores them.
        attack: perturbs the images of each step; it runs with batch statistics and leaves the buffers unchanged.
        seed: of the order of images, t, augmentation, attack and dropout.
        keeper: saves the progress between steps, and restores it.
        constrain: (trainable, lr) -> None; changes `trainable` in place after each step.
        processes: that train together, all with the same arguments. Each computes its part of every batch; the progress
            is the same in all, and the first one keeps it.

    `progress.history` has one row per epoch: epoch (from 1), lr (of its last step), loss (the mean of the objective's),
    penalty (the mean norm term), and the objective's other metrics. Raises UserError if nothing is trainable, or if the
    last batch is a single example and the network cannot train on one.
    """

    def __init__(
        self,
        model: Model,
        trainable: Tensor,
        sample: Sample,
        layout: FlatLayout,
        buffers: Mapping[str, Tensor],
        examples: Examples,
        regime: Regime,
        *,
        objective: Objective = CLASSIFICATION,
        transform: Transform,
        basis: Basis | None = None,
        attack: Attack | None = None,
        seed: int,
        keeper: Keeper | None = None,
        constrain: Constraint | None = None,
        processes: Processes = ALONE,
    ):
        self.model, self.sample, self.layout, self.examples, self.regime = model, sample, layout, examples, regime
        self.transform, self.basis, self.seed = transform, basis, seed
        self.attack = in_precision(attack, regime.precision) if attack else None
        self.objective, self.constrain, self.device = objective, constrain, examples.device
        self.processes, self.keeper = processes, keeper if processes.leads else None
        if not trainable.numel():
            raise UserError("there is nothing to train: no parameter of the network requires gradients")
        self.optimiser = regime.optimiser or SGD(regime.momentum, regime.nesterov)
        fresh = Progress(
            trainable.detach().clone(),
            self.optimiser.initial_state(trainable.detach()),
            {name: b.clone() for name, b in buffers.items()},
            sums=torch.zeros(3 + len(objective.others), dtype=torch.float64, device=self.device),
        )
        self.progress = self.keeper.restore(fresh) if self.keeper else fresh
        self.augmentation_generator = torch.Generator(self.device)
        self.attack_generator = torch.Generator(self.device) if processes.count == 1 else PartGenerator(self.device)
        self.attacked_buffers = {n: b.clone() for n, b in self.progress.buffers.items()} if attack else {}
        # limits of the loss and the penalty, each summed over the examples of an epoch
        exploded = objective.exploded * len(examples)
        self.limits = torch.tensor([exploded, inf], dtype=torch.float64, device=self.device)
        alone = ALONE if regime.batch_norm == "synchronised" else processes
        demand_trainable_last_batch(model, self.initial_state, examples, regime.batch_size, objective, alone)
        self._recorded_step = recorded(self._step, self._changed_tensors(), [self.attack_generator], model.network)
        self.part = WHOLE  # of the present batch
        if processes.count > 1:
            demand_replaceable(model.network, regime.batch_norm)
            self._copy_first_progress()

    def steps(self) -> Iterator[None]:
        """Train to the end, with a yield after each step so that several trainings can take turns. Raises `Diverged`.

        Synchronises with the device once per epoch; all random draws of a step happen on the device. Torch's global
        generators are reseeded here; the caller restores them (`seeding.preserved_generators`).
        """
        progress, regime = self.progress, self.regime
        if self.processes.leads and (progress.epoch or progress.step):
            log.info("resumed after epoch %d of %d, step %d", progress.epoch, regime.epochs, progress.step)
        speed = _Speed(self._epochs_done(), self.examples)
        while progress.epoch < regime.epochs:
            for _ in self._epoch(progress.epoch):
                if self.processes.leads:
                    speed.remind(self._epochs_done(), regime.epochs)
                yield
            row = self._history_row(progress.epoch)
            progress.finish(row)
            if self.keeper:
                self.keeper.keep(progress)
            if self.processes.leads:
                speed.report(row, regime.epochs, self.objective.percent)

    def _epochs_done(self) -> float:
        """How many epochs are done, with the part of the present one."""
        examples = min(self.progress.step * self.regime.batch_size, len(self.examples))
        return self.progress.epoch + examples / len(self.examples)

    def _epoch(self, epoch: int) -> Iterator[None]:
        """Run the remaining steps of an epoch (counted from 0), with a yield after each."""
        progress, size = self.progress, self.regime.batch_size
        steps = len(self.examples.batch_sizes(size))
        weights = self.weights(steps, epoch)  # (steps, n), of the control points
        rates = [self.regime.rate(epoch, i, steps) for i in range(steps)]
        lrs = torch.tensor(rates, dtype=progress.trainable.dtype).to(self.device)
        order, draws = stream(self.seed, "order", epoch), partial(self._augmentation, epoch)
        batches = self.examples.epoch(size, self.transform, order, draws, first=progress.step)
        for i, (inputs, targets) in enumerate(batches, progress.step):
            if self.attack:
                self.attack_generator.manual_seed(derive(self.seed, "attack", epoch, i))
            rank = [self.processes.rank] if self.processes.rank else []
            reseed(self.device, self.seed, "dropout", epoch, i, *rank)
            self.model.network.train()
            is_plain = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
            step = self._shared_step if self.processes.count > 1 else self._recorded_step if is_plain else self._step
            step(inputs, targets, weights[i], lrs[i])
            progress.step = i + 1
            if self.keeper:
                self.keeper.keep(progress)
            yield

    def _shared_step(self, x: Inputs, y: Targets, weights: Tensor, lr: Tensor) -> None:
        """One step on this process's part of a batch, while the other processes take theirs.

        Buffers that may differ between the processes afterwards become those of the first one, as in PyTorch's
        DistributedDataParallel.
        """
        self.part = part = self.processes.part(count_examples(x))
        if isinstance(self.attack_generator, PartGenerator):
            self.attack_generator.whole, self.attack_generator.part = part.whole, part.examples
        norms: AbstractContextManager[list[Tensor]] = nullcontext([])
        if self.regime.batch_norm == "synchronised":
            norms = synchronised(self.processes, part)
        with norms as same_in_all:
            self._step(select(x, part.examples), select(y, part.examples), weights, lr)
        same = set(map(id, same_in_all))  # so are the counters of steps
        buffers = [b for name, b in self.progress.buffers.items() if not name.endswith(OPTIONAL)]
        self.processes.copy_first_([b for b in buffers if id(b) not in same])

    def _step(self, x: Inputs, y: Targets, weights: Tensor, lr: Tensor) -> None:
        """One step on a batch, or on a part of one, at these weights of the control points."""
        trainable = self.progress.trainable.detach().requires_grad_()  # a new leaf on the same memory
        point = self.sample(trainable, weights)
        flat = point.detach().requires_grad_()  # (d,), a leaf, so that the norm term can be added to its gradient
        if self.attack:
            x = self._attacked(self.attack, flat.detach(), x, y)
        # The backward pass lies within the block because gradient checkpointing runs layers again there.
        with self.model.holding(self.layout.views(flat) | self.progress.buffers) as network:
            with autocast(self.device, self.regime.precision):
                outputs = network(x)
                loss = self.objective.loss(outputs, y)
            loss.backward()
        with torch.no_grad():
            others = [metric.values(outputs, y).sum() for metric in self.objective.others.values()]
        self._accumulate(loss.detach(), flat.detach(), others, count_examples(x))
        self._descend(point, trainable, flat, lr)

    def _descend(self, point: Tensor, trainable: Tensor, flat: Tensor, lr: Tensor) -> None:
        """Change what is trained; `point` was computed from `trainable`, and `flat`, its copy, has the gradient."""
        regime, progress, gradient = self.regime, self.progress, flat.grad
        assert gradient is not None  # the loss depends on the parameters, or backward() would have raised
        self.processes.mean_(gradient, self.part)
        if regime.clip is not None:
            clip_(gradient, regime.clip)
        decay = None
        if not self.optimiser.decoupled:
            gradient.add_(flat.detach(), alpha=regime.weight_decay)
        elif regime.weight_decay:
            norm_gradient = flat.detach() * regime.weight_decay
            (decay,) = torch.autograd.grad(point, trainable, norm_gradient, retain_graph=True)
        (gradient,) = torch.autograd.grad(point, trainable, gradient)  # chain rule through `sample`
        if decay is not None:
            progress.trainable.addcmul_(decay, lr, value=-1)
        self.optimiser.step(progress.trainable, progress.optimiser, gradient, lr)
        if self.constrain:
            self.constrain(progress.trainable, lr)

    def _attacked(self, attack: Attack, flat: Tensor, x: Inputs, y: Targets) -> Inputs:
        """The perturbed images of a step; the attack works on a copy of the buffers."""
        copies, buffers = self.attacked_buffers, self.progress.buffers
        for dtype in {b.dtype for b in buffers.values()}:  # tensors of one type are copied by one kernel
            names = [name for name, b in buffers.items() if b.dtype == dtype]
            torch._foreach_copy_([copies[n] for n in names], [buffers[n] for n in names])
        with self.model.holding(self.layout.views(flat) | copies) as network:
            return attack(network, x, y, self.attack_generator)

    def _accumulate(self, loss: Tensor, flat: Tensor, others: Sequence[Tensor], examples: int) -> None:
        """Add a step to the sums of its epoch (see `Progress`).

        The terms of several processes are added up at once rather than at the end of the epoch, so that the progress is
        the same in all after every step: so it can be kept at any time, and be resumed by another number of processes.
        """
        sums, trained = self.progress.sums, flat[: self.layout.trained_size]
        is_shared = self.processes.count > 1
        terms, weight = (torch.zeros_like(sums), self.part.weight) if is_shared else (sums, examples)
        terms[0].add_(loss, alpha=weight)
        terms[1].add_(torch.dot(trained, trained), alpha=self.regime.weight_decay / 2 * weight)
        for total, value in zip(terms[2:-1], others, strict=True):
            total.add_(value, alpha=weight / examples)
        if is_shared:
            self.processes.sum_(terms)
            sums.add_(terms)
        # Counts the steps until a sum exceeds its limit; the sums only grow, so after that no step counts.
        sums[-1].add_((sums[:2] < self.limits).all())

    def _history_row(self, epoch: int) -> Row:
        """The row of the history for a complete epoch. Synchronises with the device; raises `Diverged`."""
        *totals, steps_within_limits = self.progress.sums.tolist()
        steps = self.progress.step
        rate = self.regime.rate(epoch, steps - 1, steps)  # of the last step
        loss, penalty, *others = (total / len(self.examples) for total in totals)
        finite = {"the loss is": isfinite(loss), "the penalty is": isfinite(penalty)}
        finite["weights are"] = bool(torch.isfinite(self.progress.trainable).all())
        if steps_within_limits < steps or not finite["weights are"]:
            causes = [f"{subject} not finite" for subject, is_finite in finite.items() if not is_finite]
            if self.objective.exploded <= loss < inf:
                unit, most = self.objective.unit, self.objective.exploded
                causes.insert(0, f"the loss is {f'{loss:.3g} {unit}'.strip()} on average, more than {most:g},")
            raise Diverged(
                f"{causes[0]} in epoch {epoch + 1}, step {min(int(steps_within_limits) + 1, steps)} of {steps}, at "
                f"learning rate {rate:.4g}: lower `lr` of this regime, or look for non-finite weights in "
                "the networks that it starts from"
            )
        means = {LOSS: loss} | dict(zip(self.objective.others, others, strict=True))
        row = {"epoch": epoch + 1, "lr": rate, LOSS: loss, "penalty": penalty}
        return row | self.objective.report(means, 1)

    def weights(self, count: int, epoch: int) -> Tensor:
        """Weights (count, n) of the control points at the t of each step of an epoch; (count, 0) for an endpoint."""
        ts = torch.rand(count, generator=stream(self.seed, "t", epoch), dtype=torch.float64)
        return (vmap(self.basis)(ts) if self.basis else ts.new_empty(count, 0)).to(self.progress.trainable)

    def initial_state(self) -> dict[str, Tensor]:
        """A copy of the network's state at the present `trainable` and the t of the first step of the training."""
        with torch.no_grad():
            point = self.sample(self.progress.trainable, self.weights(1, 0)[0])
            state = self.layout.views(point) | self.progress.buffers
            return {name: tensor.detach().clone() for name, tensor in state.items()}

    def _augmentation(self, epoch: int, block: int) -> torch.Generator:
        """The generator for the augmentation of a block of batches."""
        return self.augmentation_generator.manual_seed(derive(self.seed, "augmentation", epoch, block))

    def _copy_first_progress(self) -> None:
        """Set the progress of all processes to that of the first one, which may have been restored."""
        progress = self.progress
        self.processes.copy_first_(self._changed_tensors())
        facts = self.processes.of_first((progress.epoch, progress.step, progress.history))
        progress.epoch, progress.step, progress.history = facts

    def _changed_tensors(self) -> list[Tensor]:
        """All tensors that `_step` changes in place, but for those that it sets first."""
        progress = self.progress
        return [progress.trainable, *progress.optimiser.values(), progress.sums, *progress.buffers.values()]


def fit(training: Training) -> Progress:
    """The `Progress` of a training after its last step. Raises `Diverged`."""
    with preserved_generators(training.device), side_streams(training.device, 1) as (on_stream,), on_stream:
        for _ in training.steps():
            pass
    return training.progress


class _Speed:
    """Logs the progress of a training, with the examples per second of this process and the time that is left."""

    def __init__(self, epochs_done: float, examples: Examples):
        self.began, self.done, self.examples, self.noun = time.monotonic(), epochs_done, len(examples), examples.noun
        self.logged = self.began

    def remind(self, epochs_done: float, epochs: int) -> None:
        """Log how far the training is, if nothing has been logged for SILENCE seconds. Nothing is read from a GPU."""
        if time.monotonic() - self.logged > SILENCE:
            log.info("epoch %.2f/%d%s", epochs_done, epochs, self._rate(epochs_done, epochs))
            self.logged = time.monotonic()

    def report(self, row: Row, epochs: int, percent: Container[str]) -> None:
        """Log the row; `percent` are the metrics that are in percent."""
        epoch = row["epoch"]
        metrics = {name: value for name, value in row.items() if name not in ("epoch", "lr", LOSS, "penalty")}
        line = f"epoch {epoch}/{epochs}  lr {row['lr']:.4f}  loss {row[LOSS]:.4f}"
        line += "".join(f"  {name} {value:.2f}{' %' * (name in percent)}" for name, value in metrics.items())
        log.info("%s%s", line, self._rate(epoch, epochs))
        self.logged = time.monotonic()

    def _rate(self, epochs_done: float, epochs: int) -> str:
        """The words for speed and time left; "" if this process has not trained yet, because it resumed at the end."""
        trained = self.examples * (epochs_done - self.done)
        if not trained:
            return ""
        seconds = (time.monotonic() - self.began) / trained  # per example
        return f"  {1 / seconds:.0f} {self.noun}/s  {(epochs - epochs_done) * self.examples * seconds:.0f} s left"
