"""Sinkhorn re-basin: soft permutations are trained by gradient descent, and then rounded (Pena et al. 2023)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.ascent import agreement_of
from neuralign.alignment.birkhoff import assign, to_matrix
from neuralign.alignment.problem import Problem
from neuralign.alignment.relaxation import row_entropy
from neuralign.alignment.sinkhorn import sinkhorn as make_doubly_stochastic
from neuralign.common.seeding import stream
from neuralign.config.options import Count, Positive, Seed
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.batches import Examples
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.parameters import FlatLayout
from neuralign.symmetry.permutations import identity, mix
from neuralign.training.loop import Training, fit
from neuralign.training.optimisers.adamw import adamw
from neuralign.training.progress import Regime

Soft = Callable[[Tensor], dict[str, Tensor]]  # latent vector -> {group: doubly stochastic matrix (n, n)}


def sinkhorn(
    problem: Problem,
    *,
    loss: Literal["midpoint", "random", "distance"] = "midpoint",
    steps: Count = 200,
    batch_size: Count = 128,
    lr: Positive = 0.1,
    temperature: Positive = 1.0,
    iterations: Count = 20,
    gradient: Literal["implicit", "unrolled"] = "implicit",
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """The permutation to which the trained soft permutations are rounded; {group: (n,)}.

    Each group has a latent matrix, of which Sinkhorn's algorithm makes a doubly stochastic one. It begins as the matrix
    of the start's permutation, and is trained by Adam. The fact `entropy` says how far the trained matrices are from
    permutations: 0 is a permutation, 1 has equal entries.

    Args:
        loss: What is minimised: the training loss at the middle of the line from the target to the softly permuted
            source (`midpoint`), that at a random point of the line (`random`), or the squared distance of the
            parameters (`distance`), which needs no data.
        steps: Number of steps, rounded up to whole epochs where there are fewer examples.
        batch_size: Images per step.
        lr: Learning rate.
        temperature: By which the latent matrices are divided.
        iterations: Iterations of Sinkhorn's algorithm; more are done if the implicit gradient needs them.
        gradient: How the gradient is computed: that of the algorithm's limit (`implicit`), or through its iterations.
        seed: Seed of the batches and of the points of the line.
    """
    spec = problem.trace.spec
    layout = FlatLayout({g: torch.Size((spec.sizes[g],) * 2) for g in spec.free})
    start = problem.start or identity(spec)
    latent = layout.flatten({g: to_matrix(start[g]).float() for g in spec.free}).to(problem.examples.device)

    def soft(flat: Tensor) -> dict[str, Tensor]:
        make = partial(make_doubly_stochastic, iterations=iterations, implicit=gradient == "implicit")
        return {g: make(m / temperature) for g, m in layout.views(flat).items()}

    if loss == "distance":
        latent = _minimise_distance(problem, latent, soft, steps, lr)
        problem.facts.update(images=0, labels=False, steps=steps)
    else:
        examples = _drawn(problem.examples, steps * batch_size, seed)
        epochs = ceil(steps * batch_size / len(examples))
        latent = _minimise_loss(problem, latent, soft, loss == "random", examples, epochs, batch_size, lr, seed)
        steps_done = epochs * len(examples.batch_sizes(batch_size))
        problem.facts.update(images=len(examples), labels=True, steps=steps_done)
    problem.facts["entropy"] = row_entropy(soft(latent))
    return {g: assign(m) for g, m in layout.views(latent).items()}


def _minimise_distance(problem: Problem, latent: Tensor, soft: Soft, steps: int, lr: float) -> Tensor:
    """The latent vector whose soft permutations make the parameters of the source closest to the target's."""
    agreement, optimiser = agreement_of(problem), adamw()
    state, rate = optimiser.initial_state(latent), torch.tensor(lr, device=latent.device)
    for _ in range(steps):
        leaf = latent.detach().requires_grad_()
        (slope,) = torch.autograd.grad(agreement.soft_distance(soft(leaf)), leaf)
        optimiser.step(latent, state, slope, rate)
    return latent


def _minimise_loss(
    problem: Problem,
    latent: Tensor,
    soft: Soft,
    random: bool,
    examples: Examples,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> Tensor:
    """The latent vector whose soft permutations give the lowest training loss on the line to the source."""
    inputs, _ = next(problem.examples.batches(IMAGES))
    ends = endpoints_of(problem.model, (problem.target, problem.source), inputs, keep_equal=False)
    ends.demand_interpolable()
    layout, origin = replace(ends.layout, untrained=frozenset()), ends.vectors[0]
    end = {n: problem.source[n] for n in layout.shapes}

    def sample(flat: Tensor, weights: Tensor) -> Tensor:
        return torch.lerp(origin, layout.flatten(mix(problem.trace.spec, soft(flat), end)), weights[1])

    def basis(t: Tensor) -> Tensor:
        t = t if random else torch.full_like(t, 0.5)
        return torch.stack([1 - t, t])

    regime = Regime(epochs, batch_size, lr, 0.0, 0.0, lambda epoch, epochs: 1.0, optimiser=adamw())
    training = Training(
        problem.model,
        latent,
        sample,
        layout,
        ends.stored[0],
        examples,
        regime,
        transform=problem.transform,
        basis=basis,
        objective=problem.objective,
        attack=problem.attack,
        seed=seed,
        keeper=problem.keeper("latent"),
    )
    return fit(training).trainable


def _drawn(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` of the examples, drawn at random."""
    return examples if count >= len(examples) else examples.sample(count, stream(seed, "sinkhorn"))
