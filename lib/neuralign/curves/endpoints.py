"""The network between several states of it: which tensors are interpolated, and what the others are there.

`docs/states.md` says what is done with each kind of tensor. At a state itself the network is exactly that state;
`divide` checks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.seeding import repeatable_draws
from neuralign.curves.curve import Curve
from neuralign.networks.buffer_updates import IMAGES, updates
from neuralign.networks.model import Model, State, first_names, modes_kept, trainable
from neuralign.networks.outputs import heads
from neuralign.networks.parameters import FlatLayout

SAME = 1e-4  # largest difference of the outputs of equal functions, relative to their size: float32 rounding
# Buffers that follow the weights, such as the vectors of a spectral norm, are updated until they change by less than
# CONVERGED (relative), and at most ITERATIONS times.
ITERATIONS, CONVERGED = 100, 1e-6


@dataclass(frozen=True)
class Endpoints:
    """States of a network, each divided into a vector, which a path interpolates, and the stored rest.

    The vector holds the trainable parameters and then, untrained, other tensors that are interpolated.
    """

    model: Model
    layout: FlatLayout  # of the vectors
    vectors: tuple[Tensor, ...]  # (d,) for each state
    stored: tuple[dict[str, Tensor], ...]  # for each state, its tensors that are not in the vector
    estimated: frozenset[str]  # stored batch-norm statistics and counters, which are re-estimated at every point
    following: Mapping[str, nn.Module]  # stored buffer that depends on weights alone -> the module that updates it
    refused: Mapping[str, str]  # tensor without a value between the states -> why
    pixels: Tensor  # (n, c, h, w) in [0, 1], a few images

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The buffers that `batch_norm.statistics` is to re-estimate, as the first state has them."""
        return {name: self.stored[0][name] for name in self.estimated}

    def demand_between(self) -> None:
        """Raise UserError if a tensor has no value between the states."""
        for name, reason in self.refused.items():
            raise UserError(f"{name!r} differs between the ends of the path, and has no value in between: {reason}")

    def point(self, vector: Tensor, shares: Sequence[float]) -> dict[str, Tensor]:
        """The network's state at `vector` (d,), which is the sum of the states' vectors with these `shares`.

        Its batch-norm statistics are those of the state with the largest share; they still have to be re-estimated.
        """
        nearest = max(range(len(shares)), key=lambda i: shares[i])
        state = self.layout.views(vector) | {n: t.clone() for n, t in self.stored[nearest].items()}
        if shares[nearest] == 1:
            return state
        self.demand_between()
        return state | self._updated_following(state) if self.following else state

    def on(self, curve: Curve, t: float) -> dict[str, Tensor]:
        """The network's state at t of a curve from the first state to the second; see `point`."""
        return self.point(curve(t), (1 - t, t))

    def _updated_following(self, state: State) -> dict[str, Tensor]:
        """The buffers that follow the weights, after passes with their modules in training mode."""
        current = {name: t.clone() for name, t in state.items()}
        with modes_kept(self.model.network), torch.no_grad(), repeatable_draws(self.pixels.device):
            self.model.network.eval()
            for module in self.following.values():
                module.training = True
            for _ in range(ITERATIONS):
                before = {name: current[name].clone() for name in self.following}
                self.model(current, self.pixels[:1])
                if all((current[n] - b).norm() <= CONVERGED * b.norm() for n, b in before.items()):
                    break
        return {name: current[name] for name in self.following}


def divide(model: Model, states: Sequence[State], pixels: Tensor, *, keep_equal: bool = True) -> Endpoints:
    """The states as the ends of a path.

    Raises UserError if the network, put together again from the parts of a state, computes another function.

    Args:
        states: of the model, at least two.
        pixels: images (n, c, h, w) in [0, 1], on which the network is run to see how it updates its buffers.
        keep_equal: whether untrained tensors that are equal in all states are stored. If False they are interpolated
            like those that differ, as needed for states that are still to be permuted.
    """
    names = first_names(model.network)
    states = [{n: state[n] for n in names if names[n] == n and n in state} for state in states]
    first, pixels, trained = states[0], pixels[:IMAGES], trainable(model.network)
    differing = {n for n, t in first.items() if any(not torch.equal(state[n], t) for state in states[1:])}
    inexact = {n for n, t in first.items() if t.is_floating_point() or t.is_complex()}
    buffers = {n for n, _ in model.network.named_buffers()} & first.keys()
    updated = updates(model, first, lambda: pixels, buffers, differing)
    estimated = updated.statistics | {c for norm in updated.norms.values() for c in norm.counters}
    constant = first.keys() - trained - estimated - updated.counters - updated.following.keys()
    refused = {n: f"it is {first[n].dtype}, which cannot be interpolated" for n in constant & differing - inexact}
    refused |= {n: updated.unknown[n] for n in differing & updated.unknown.keys()}
    interpolated = (differing if keep_equal else inexact) & constant & inexact - updated.unknown.keys()
    in_vector = [n for n in first if n in trained] + [n for n in first if n in interpolated]
    layout = FlatLayout.of({n: first[n].detach() for n in in_vector}, untrained=interpolated)
    ends = Endpoints(
        model,
        layout,
        tuple(layout.flatten(state) for state in states),
        tuple({n: t.detach().clone() for n, t in state.items() if n not in layout.shapes} for state in states),
        frozenset(estimated),
        updated.following,
        refused,
        pixels,
    )
    for number, (vector, stored, state) in enumerate(zip(ends.vectors, ends.stored, states, strict=True), 1):
        demand_same(model, layout.views(vector) | stored, state, pixels, f"end {number} of the path")
    return ends


def demand_same(model: Model, state: State, expected: State, pixels: Tensor, what: str) -> None:
    """Raise UserError unless both states give equal outputs on these pixels in evaluation mode, up to rounding.

    `what` names the first state in the message.
    """
    for right, output in zip(*(_outputs(model, s, pixels) for s in (expected, state)), strict=True):
        size = torch.where(right.isfinite(), right.abs(), 0.0).max().item() if right.numel() else 0.0
        if not torch.allclose(right, output, rtol=0, atol=SAME * size, equal_nan=True):
            raise UserError(
                f"{what} is another function than its network: outputs of size {size:.3g} differ by "
                f"{(right - output).abs().max():.3g} on {len(pixels)} images, at most {SAME:g} of their size is allowed"
            )


def _outputs(model: Model, state: State, pixels: Tensor) -> list[Tensor]:
    """All floating-point and complex outputs in evaluation mode."""
    with modes_kept(model.network), torch.no_grad(), repeatable_draws(pixels.device):
        model.network.eval()
        outputs = heads(model({name: t.clone() for name, t in state.items()}, pixels))
    return [head for head in outputs if head.is_floating_point() or head.is_complex()]
