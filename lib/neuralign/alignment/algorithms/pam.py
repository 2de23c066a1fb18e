"""Proximal alternating minimisation (PAM) of the loss along a curve, over its bends and the permutation of its end (the
paper, section 5).

The permutation is relaxed to doubly stochastic matrices, which are trained like the bends of a curve, and then rounded.
In the first round the curve is the straight line. With one round, PAM is thus an alignment method like any other, and
the curve is trained afterwards as usual; with more rounds, bends are trained between them.
"""

from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.alignment import birkhoff
from neuralign.alignment.path_loss import mean_loss
from neuralign.alignment.problem import Problem
from neuralign.common.seeding import stream
from neuralign.config.options import Count, FractionBelowOne, NonNegative, NonNegativeInt, Positive, Seed
from neuralign.curves.endpoints import endpoints_of
from neuralign.curves.families.bezier import bezier
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State
from neuralign.networks.parameters import FlatLayout
from neuralign.symmetry.permutations import Permutation, identity, mix, permute
from neuralign.training.loop import Training, demand_trainable_last_batch, fit
from neuralign.training.progress import Constraint, Regime, Sample
from neuralign.training.schedules.halving import halving


def pam(
    problem: Problem,
    *,
    epochs: Count = 20,
    lr: Positive = 0.05,
    batch_size: Count = 128,
    proximal: NonNegative = 1e-3,
    projection: Literal["alternating", "exact"] = "alternating",
    sweeps: Count = 20,
    candidates: NonNegativeInt = 32,
    terms: Count = 11,
    scoring_batches: Count = 32,
    rounds: Count = 1,
    bends: Count = 1,
    bend_epochs: Count = 250,
    bend_lr: Positive = 0.1,
    momentum: FractionBelowOne = 0.9,
    weight_decay: NonNegative = 5e-4,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation with the lowest loss along the curve that PAM finds from the problem's start; {group: (n,)}.

    After each round, the permutation with the lowest loss is kept: the candidates, the rounding of the relaxed
    permutation and the permutation before the round are compared, all on the same batches and at the same t.

    Args:
        epochs: Epochs in which a round trains the relaxed permutation.
        lr: Learning rate of the relaxed permutation, halved every 20 epochs.
        batch_size: Images per step.
        proximal: 1 / nu of the proximal terms; the published 1e-3 has hardly any effect.
        projection: How matrices become doubly stochastic after each step: by alternating projections, as in the paper's
            code, or by the exact projection.
        sweeps: Number of alternating projections.
        candidates: Number of permutations drawn from the Birkhoff decomposition of the relaxed one.
        terms: Largest number of permutations in that decomposition.
        scoring_batches: Batches on which candidates are compared.
        rounds: Number of rounds; the bends of the curve are trained between two of them.
        bends: Bends of the curve.
        bend_epochs: Epochs in which bends are trained between two rounds.
        bend_lr: Learning rate of the bends, halved every 20 epochs.
        momentum: Momentum in the training of the bends.
        weight_decay: L2 penalty in the training of the bends.
        seed: Seed of all that is random.
    """
    search = _Search(problem, bends, batch_size, seed)
    permutation: Permutation = problem.start or identity(problem.trace.spec)
    objective_before = search.score(permutation, scoring_batches)
    for round_number in range(rounds):
        relaxed_regime = Regime(epochs, batch_size, lr, 0.0, 0.0, halving, nesterov=False)
        relaxed = search.relax(permutation, relaxed_regime, proximal, projection, sweeps, round_number)
        drawn = search.candidates(relaxed, candidates, terms, round_number)
        permutation = min([permutation, *drawn], key=lambda p: search.score(p, scoring_batches))
        if round_number + 1 < rounds:
            bend_regime = Regime(bend_epochs, batch_size, bend_lr, momentum, weight_decay, halving)
            search.train_bends(permutation, bend_regime, proximal, round_number)
    problem.facts.update(objective_before=objective_before, objective_after=search.score(permutation, scoring_batches))
    problem.facts.update(images=len(problem.examples), labels=True)
    return dict(permutation)


class _Search:
    """The objective, and its minimisation over each of its two blocks of variables: the permutation and the bends.

    The bends of a curve are evenly spaced points on the straight line to the permuted end, plus `offsets` (k, d). So
    the bends move with the end when the permutation changes.
    """

    def __init__(self, problem: Problem, bends: int, batch_size: int, seed: int):
        self.problem, self.spec, self.seed, self.batch_size = problem, problem.trace.spec, seed, batch_size
        inputs, _ = next(problem.examples.batches(IMAGES))
        ends = endpoints_of(problem.model, (problem.target, problem.source), inputs, keep_equal=False)
        ends.demand_interpolable()
        self.layout, self.buffers = ends.layout, ends.stored[0]
        self.end = {n: problem.source[n] for n in self.layout.shapes}
        self.origin = ends.vectors[0]
        self.offsets = self.origin.new_zeros(bends, self.layout.trained_size)
        # the position of each control point but the first on the straight line
        self.fractions = torch.linspace(0, 1, bends + 2, dtype=torch.float64)[1:].to(self.origin)
        self.basis = lambda t: bezier(t, bends=bends)
        demand_trainable_last_batch(
            problem.model,
            lambda: self.layout.views(self.origin) | self.buffers,
            problem.examples,
            batch_size,
            problem.objective,
        )
        self.matrices = FlatLayout({g: torch.Size((self.spec.sizes[g],) * 2) for g in self.spec.free})

    def point(self, end: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """The parameters (d,) at weights (k + 2,) of the control points of the curve from the target to `end` (d,).

        `offsets`: (k, number of trained parameters), of the bends.
        """
        on_line = torch.lerp(self.origin, end, torch.dot(weights[1:], self.fractions))
        offset = torch.mv(offsets.T, weights[1:-1])
        return on_line + F.pad(offset, (0, len(end) - len(offset)))

    def weights(self, t: float) -> Tensor:
        """The weights (k + 2,) of the control points at t in [0, 1]."""
        return self.basis(torch.tensor(t, dtype=torch.float64)).to(self.origin)

    def relax(
        self, permutation: Permutation, regime: Regime, proximal: float, projection: str, sweeps: int, round_number: int
    ) -> dict[str, Tensor]:
        """Doubly stochastic matrices {group: (n, n)} that minimise the loss along the curve, by projected SGD.

        It starts from `permutation`; the offsets of the bends are fixed.
        """
        start = self.matrices.flatten({g: torch.eye(len(p))[p] for g, p in permutation.items()}).to(self.origin)
        projector = birkhoff.Projector(self.matrices, start)

        def sample(flat: Tensor, weights: Tensor) -> Tensor:
            end = self.layout.flatten(mix(self.spec, self.matrices.views(flat), self.end))
            return self.point(end, self.offsets, weights)

        def constrain(flat: Tensor, rate: Tensor) -> None:
            _proximal_step(flat, start, rate * proximal)
            if projection == "exact":
                projector.project_(flat)
            else:
                projector.alternate_(flat, sweeps)

        # the gradient of a permutation comes from all tensors that it permutes, also from those that are not trained
        layout = replace(self.layout, untrained=frozenset())
        flat = self._fit(start, sample, layout, regime, ("permutation", round_number), constrain)
        return self.matrices.views(flat)

    def train_bends(self, permutation: Permutation, regime: Regime, proximal: float, round_number: int) -> None:
        """Train the offsets of the bends, with the permutation fixed."""
        end = self.layout.flatten(permute(self.spec, permutation, self.end))
        start = self.offsets.clone()

        def constrain(offsets: Tensor, rate: Tensor) -> None:
            _proximal_step(offsets, start, rate * proximal)

        def sample(offsets: Tensor, weights: Tensor) -> Tensor:
            return self.point(end, offsets, weights)

        self.offsets = self._fit(start, sample, self.layout, regime, ("bends", round_number), constrain)

    def _fit(
        self,
        start: Tensor,
        sample: Sample,
        layout: FlatLayout,
        regime: Regime,
        purpose: tuple[Any, ...],
        constrain: Constraint,
    ) -> Tensor:
        """The trained vector; `purpose` names the training in its seed and in its saved progress."""
        training = Training(
            self.problem.model,
            start,
            sample,
            layout,
            self.buffers,
            self.problem.examples,
            regime,
            transform=self.problem.transform,
            basis=self.basis,
            objective=self.problem.objective,
            attack=self.problem.attack,
            seed=int(torch.randint(2**31, (), generator=stream(self.seed, *purpose))),
            keeper=self.problem.keeper("-".join(map(str, purpose))),
            constrain=constrain,
        )
        return fit(training).trainable

    def candidates(
        self, relaxed: dict[str, Tensor], count: int, terms: int, round_number: int
    ) -> list[dict[str, Tensor]]:
        """The rounding of the relaxed solution, and `count` permutations drawn from its Birkhoff decompositions."""
        generator = stream(self.seed, "candidates", round_number)
        nonnegative = {g: m.clamp(min=0) for g, m in relaxed.items()} if count else {}
        decompositions = {g: birkhoff.decompose(m, terms=terms) for g, m in nonnegative.items()}
        permutations = [{g: birkhoff.assign(m) for g, m in relaxed.items()}]
        for _ in range(count):
            drawn = {g: int(torch.multinomial(c, 1, generator=generator)) for g, (c, _) in decompositions.items()}
            permutations.append({g: decompositions[g][1][i] for g, i in drawn.items()})
        return permutations

    def score(self, permutation: Permutation, batches: int) -> float:
        """The mean loss along the curve, in training mode; batches, t and noise are the same for every permutation."""
        examples = self.problem.examples
        end = self.layout.flatten(permute(self.spec, permutation, self.end))
        order, draws = stream(self.seed, "scoring order"), stream(self.seed, "scoring draws")
        scored = list(islice(examples.shuffled(self.batch_size, self.problem.transform, order, draws), batches))

        def state_of(i: int) -> State:
            point = self.point(end, self.offsets, self.weights((i + 0.5) / len(scored)))
            return self.layout.views(point) | {n: b.clone() for n, b in self.buffers.items()}

        return mean_loss(self.problem, scored, state_of, self.seed)


def _proximal_step(x: Tensor, start: Tensor, strength: Tensor) -> None:
    """Move x in place to the minimum of |y - x|^2 + strength |y - start|^2 over y."""
    x.addcmul_(start, strength).div_(1 + strength)
