"""Proximal alternating minimisation over the permutation and the curve (the paper, section 5).

The permutation is relaxed to doubly stochastic matrices and trained on the curve's own objective, then rounded. With
one round the curve has not moved yet: it is the segment to the softly permuted end, and what follows is ordinary curve
training, so PAM is an alignment method like any other. With more rounds the bends are trained in between.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from neuralign.alignment import birkhoff
from neuralign.alignment.problem import Problem
from neuralign.common.seeding import aside, reseed, stream
from neuralign.config.options import Count, NonNegative, Positive, Proper, Seed, Whole
from neuralign.curves.curve import Curve
from neuralign.curves.endpoints import divide
from neuralign.curves.families.bezier import bezier
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import criterion
from neuralign.networks.parameters import FlatLayout
from neuralign.symmetry.permutations import Permutation, identity, permute, transport
from neuralign.training.loop import demand_last_batch, fit
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
    candidates: Whole = 32,
    terms: Count = 11,
    scoring_batches: Count = 32,
    rounds: Count = 1,
    bends: Count = 1,
    bend_epochs: Count = 250,
    bend_lr: Positive = 0.1,
    momentum: Proper = 0.9,
    weight_decay: NonNegative = 5e-4,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation after `rounds` of PAM that started from the problem's own; {group: (n,)}.

    `proximal` is 1/nu of the proximal terms (the published 1e-3 is next to nothing). `candidates` permutations drawn
    from the relaxed solution compete with its rounding and with the start, all on the same batches and the same t.
    """
    search = _Search(problem, bends, batch_size, seed)
    permutation: Permutation = problem.start or identity(problem.trace.spec)
    first = search.score(permutation, scoring_batches)
    for turn in range(rounds):
        quick = Regime(epochs, batch_size, lr, 0.0, 0.0, halving, nesterov=False)
        soft = search.relax(permutation, quick, proximal, projection, sweeps, turn)
        drawn = search.candidates(soft, candidates, terms, turn)
        best, *_ = sorted([permutation, *drawn], key=lambda p: search.score(p, scoring_batches))
        permutation = best
        if turn + 1 < rounds:
            slow = Regime(bend_epochs, batch_size, bend_lr, momentum, weight_decay, halving)
            search.bend(permutation, slow, proximal, turn)
    last = search.score(permutation, scoring_batches)
    problem.facts.update(objective_before=first, objective_after=last)
    return dict(permutation)


class _Search:
    """The two blocks of the objective. A curve is the evenly spaced segment to the permuted end plus offsets (k, d)."""

    def __init__(self, problem: Problem, bends: int, batch_size: int, seed: int):
        self.problem, self.spec, self.seed, self.batch_size = problem, problem.trace.spec, seed, batch_size
        pixels, _ = next(problem.images.batches(IMAGES))
        ends = divide(problem.model, (problem.target, problem.source), pixels, keep_equal=False)
        ends.demand_between()
        self.layout, self.buffers = ends.layout, ends.stored[0]
        self.end = {n: problem.source[n] for n in self.layout.shapes}
        self.origin = ends.vectors[0]
        self.offsets = self.origin.new_zeros(bends, self.layout.trained)
        self.rungs = torch.linspace(0, 1, bends + 2, dtype=torch.float64)[1:-1].tolist()
        self.basis = lambda t: bezier(t, bends=bends)
        demand_last_batch(problem.model, self._start, problem.images, batch_size)
        self.matrices = FlatLayout({g: torch.Size((self.spec.sizes[g],) * 2) for g in self.spec.free})

    def _start(self) -> dict[str, Tensor]:
        """The target as trainings have it: what follows the path, and copies of the rest."""
        return self.layout.views(self.origin.clone()) | {n: b.clone() for n, b in self.buffers.items()}

    def curve(self, end: Tensor, offsets: Tensor) -> Curve:
        rest = len(end) - self.layout.trained  # of the vector: what no training moves
        points = [
            torch.lerp(self.origin, end, rung) + F.pad(offset, (0, rest))
            for rung, offset in zip(self.rungs, offsets, strict=True)
        ]
        return Curve(self.basis, torch.stack([self.origin, end]), torch.stack(points))

    def relax(
        self, permutation: Permutation, regime: Regime, proximal: float, projection: str, sweeps: int, turn: int
    ) -> dict[str, Tensor]:
        """Doubly stochastic matrices {group: (n, n)} after SGD on the curve's objective, projected at every step."""
        before = self.matrices.flatten({g: torch.eye(len(p))[p] for g, p in permutation.items()}).to(self.origin)

        def sample(flat: Tensor, weights: Tensor) -> Tensor:
            end = self.layout.flatten(transport(self.spec, self.matrices.views(flat), self.end))
            return self.curve(end, self.offsets).at(weights)

        def constrain(flat: Tensor, rate: Tensor) -> None:
            strength = rate * proximal
            flat.addcmul_(before, strength).div_(1 + strength)
            for matrix in self.matrices.views(flat).values():
                inside = birkhoff.alternate(matrix, sweeps) if projection == "alternating" else birkhoff.project(matrix)
                matrix.copy_(inside)

        everything = replace(self.layout, untrained=frozenset())  # the objective depends on all that is permuted
        progress = self._fit(before, sample, everything, regime, ("permutation", turn), constrain)
        return self.matrices.views(progress)

    def bend(self, permutation: Permutation, regime: Regime, proximal: float, turn: int) -> None:
        """Train the offsets with the permutation held."""
        end = self.layout.flatten(permute(self.spec, permutation, self.end))
        before = self.offsets.clone()

        def constrain(offsets: Tensor, rate: Tensor) -> None:
            strength = rate * proximal
            offsets.addcmul_(before, strength).div_(1 + strength)

        def sample(offsets: Tensor, weights: Tensor) -> Tensor:
            return self.curve(end, offsets).at(weights)

        self.offsets = self._fit(before, sample, self.layout, regime, ("bends", turn), constrain)

    def _fit(
        self,
        start: Tensor,
        sample: Sample,
        layout: FlatLayout,
        regime: Regime,
        purpose: tuple[Any, ...],
        constrain: Constraint,
    ) -> Tensor:
        return fit(
            self.problem.model,
            start,
            sample,
            layout,
            self.buffers,
            self.problem.images,
            regime,
            transform=self.problem.transform,
            basis=self.basis,
            attack=self.problem.attack,
            seed=int(torch.randint(2**31, (), generator=stream(self.seed, *purpose))),
            keeper=self.problem.keeper("-".join(map(str, purpose))),
            constrain=constrain,
        ).trainable

    def candidates(self, soft: dict[str, Tensor], count: int, terms: int, turn: int) -> list[dict[str, Tensor]]:
        """The rounding of the relaxed solution, and `count` joint draws from its Birkhoff decompositions."""
        generator = stream(self.seed, "candidates", turn)
        parts = {g: birkhoff.decompose(m.clamp(min=0), terms=terms) for g, m in soft.items()} if count else {}
        drawn = [{g: birkhoff.assign(m) for g, m in soft.items()}]
        for _ in range(count):
            pick = {g: int(torch.multinomial(c, 1, generator=generator)) for g, (c, _) in parts.items()}
            drawn.append({g: parts[g][1][i] for g, i in pick.items()})
        return drawn

    @torch.no_grad()
    def score(self, permutation: Permutation, batches: int) -> float:
        """Mean criterion along the curve, by batch statistics; the same batches, t and noise for every permutation."""
        model, images = self.problem.model, self.problem.images
        curve = self.curve(self.layout.flatten(permute(self.spec, permutation, self.end)), self.offsets)
        order, draws = stream(self.seed, "scoring order"), stream(self.seed, "scoring draws")
        model.network.train()
        total, count = torch.zeros((), device=self.origin.device), 0
        shown = list(
            zip(range(batches), images.shuffled(self.batch_size, self.problem.transform, order, draws), strict=False)
        )
        for i, (pixels, labels) in shown:
            state = self.layout.views(curve((i + 0.5) / len(shown))) | {n: b.clone() for n, b in self.buffers.items()}
            with aside(self.origin.device):
                reseed(self.origin.device, self.seed, "scoring dropout", i)
                total += criterion(model(state, pixels), labels) * len(labels)
            count += len(labels)
        return (total / count).item()
