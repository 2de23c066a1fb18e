"""The straight-through estimator: weight matching to a copy of the target that is trained so that the midpoint's loss
falls (Ainsworth et al. 2023, section 3.3)."""

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from neuralign.alignment.ascent import agreement_of, ascend
from neuralign.alignment.path_loss import midpoint_loss
from neuralign.alignment.problem import Problem
from neuralign.common.seeding import stream
from neuralign.config.options import Count, FractionBelowOne, Positive, Seed
from neuralign.curves.endpoints import endpoints_of
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.parameters import FlatLayout
from neuralign.symmetry.permutations import Permutation, identity, permute
from neuralign.training.loop import Training, fit
from neuralign.training.optimiser import SGD, State
from neuralign.training.progress import Regime


def straight_through(
    problem: Problem,
    *,
    epochs: Count = 5,
    batch_size: Count = 256,
    lr: Positive = 0.01,
    momentum: FractionBelowOne = 0.9,
    every: Count = 1,
    sweeps: Count = 5,
    scoring: Count = 2000,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation with the lowest training loss at the midpoint among those at the ends of epochs; {group: (n,)}.

    A copy of the target is trained. In each step the source is matched to the copy by its weights; the loss is that of
    the mean of the target and the permuted source, and the copy gets its gradient as if it were the permuted source.

    Args:
        epochs: Epochs of the training.
        batch_size: Images per step.
        lr: Learning rate.
        momentum: Momentum.
        every: Steps between two matchings.
        sweeps: Largest number of sweeps of a matching, which begins at the one before.
        scoring: Number of training images on which the midpoints at the ends of epochs are compared.
        seed: Seed of the batches and of the order within sweeps.
    """
    inputs, _ = next(problem.examples.batches(IMAGES))
    ends = endpoints_of(problem.model, (problem.target, problem.source), inputs, keep_equal=False)
    ends.demand_interpolable()
    layout = replace(ends.layout, untrained=frozenset())
    start, steps = problem.start or identity(problem.trace.spec), len(problem.examples.batch_sizes(batch_size))
    matching = _Matching(problem, layout, start, every, sweeps, scoring, seed, steps)
    regime = Regime(
        epochs, batch_size, lr, momentum, 0.0, lambda epoch, epochs: 1.0, optimiser=_SGD(matching, SGD(momentum, False))
    )
    training = Training(
        problem.model,
        ends.vectors[0],
        matching.sample,
        layout,
        ends.stored[0],
        problem.examples,
        regime,
        transform=problem.transform,
        objective=problem.objective,
        attack=problem.attack,
        seed=seed,
        keeper=problem.keeper("straight-through"),
    )
    matching.state = training.progress.optimiser  # which may have been restored
    fit(training)
    matching.compare()
    problem.facts.update(
        steps=epochs * steps,
        images=len(problem.examples),
        labels=True,
        midpoint_loss=float(matching.state["lowest loss"]),
    )
    return {g: matching.state[f"best {g}"].cpu() for g in problem.trace.spec.free}


class _Matching:
    """The permutation of each step, and the best one so far; both are in the state of the optimiser, to be resumed.

    `state`: "match <group>" and "best <group>" (n,), the "steps" that were begun, and the "lowest loss" of the best.
    """

    def __init__(
        self,
        problem: Problem,
        layout: FlatLayout,
        start: Permutation,
        every: int,
        sweeps: int,
        scoring: int,
        seed: int,
        steps_per_epoch: int,
    ):
        self.problem, self.layout, self.start = problem, layout, start
        self.every, self.sweeps, self.scoring, self.seed = every, sweeps, scoring, seed
        self.steps_per_epoch = steps_per_epoch
        end = {n: problem.source[n] for n in layout.shapes}
        self.end, self.origin = end, layout.flatten({n: problem.target[n] for n in layout.shapes})
        self.state = self.initial_state(problem.examples.device)

    def initial_state(self, device: torch.device) -> dict[str, Tensor]:
        """The state before the first step."""
        state = {f"{kind} {g}": p.to(device) for kind in ("match", "best") for g, p in self.start.items()}
        numbers = {"steps": torch.zeros((), dtype=torch.int64), "lowest loss": torch.tensor(inf, dtype=torch.float64)}
        return {name: t.clone() for name, t in (state | {n: t.to(device) for n, t in numbers.items()}).items()}

    def sample(self, copy: Tensor, _: Tensor) -> Tensor:
        """The midpoint (d,) of the target and the permuted source, with the gradient of the midpoint to `copy` (d,)."""
        if torch.is_grad_enabled():
            self._begin_step(copy.detach())
        permuted = self.layout.flatten(permute(self.problem.trace.spec, self._permutation("match"), self.end))
        return torch.lerp(self.origin, permuted + (copy - copy.detach()), 0.5)

    def compare(self) -> None:
        """Make the present permutation the best one if its midpoint has a lower training loss."""
        loss = midpoint_loss(self.problem, self._permutation("match"), self.scoring, self.seed)
        if loss < self.state["lowest loss"]:
            self.state["lowest loss"].fill_(loss)
            for group in self.start:
                self.state[f"best {group}"].copy_(self.state[f"match {group}"])

    def _begin_step(self, copy: Tensor) -> None:
        """Compare the permutation before the step if an epoch has ended, and match the source to the copy."""
        steps = int(self.state["steps"])
        if steps and steps % self.steps_per_epoch == 0:
            self.compare()
        if steps % self.every == 0:
            problem = replace(self.problem, target={**self.problem.target, **self.layout.views(copy)})
            generator = stream(self.seed, "sweeps", steps)
            found = ascend(
                agreement_of(problem),
                self._permutation("match"),
                sweeps=self.sweeps,
                order="shuffled",
                generator=generator,
            )
            for group, index in found.permutation.items():
                self.state[f"match {group}"].copy_(index)
        self.state["steps"].add_(1)

    def _permutation(self, kind: str) -> dict[str, Tensor]:
        return {g: self.state[f"{kind} {g}"].cpu() for g in self.start}


@dataclass(frozen=True)
class _SGD:
    """SGD whose state also holds the permutations."""

    matching: _Matching
    sgd: SGD
    decoupled: bool = False

    def initial_state(self, trainable: Tensor) -> dict[str, Tensor]:
        """See `Optimiser`."""
        return self.sgd.initial_state(trainable) | self.matching.initial_state(trainable.device)

    def step(self, trainable: Tensor, state: State, gradient: Tensor, lr: Tensor) -> None:
        """See `Optimiser`."""
        self.sgd.step(trainable, state, gradient, lr)
