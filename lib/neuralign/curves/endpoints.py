"""The network at points between several of its states: which tensors are interpolated, and how others get values.

`docs/states.md` says what is done with each kind of tensor. At the states themselves the network is what it was there;
`endpoints_of` checks that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.seeding import repeatable_draws
from neuralign.curves.curve import Curve
from neuralign.datasets.batches import Inputs, count_examples, select
from neuralign.networks.buffer_updates import IMAGES, updates
from neuralign.networks.model import Model, State, canonical_names, preserved_modes, trainable
from neuralign.networks.outputs import output_tensors
from neuralign.networks.parameters import FlatLayout

SAME = 1e-4  # the relative difference of outputs up to which functions count as equal, for float32 rounding
# Buffers that are updated from the weights alone, such as the vectors of a spectral norm, are updated until they change
# by at most CONVERGED (relative), or ITERATIONS times.
ITERATIONS, CONVERGED = 100, 1e-6


@dataclass(frozen=True)
class Division:
    """What becomes of each tensor of several states of a network at a point between them."""

    model: Model
    interpolated: tuple[str, ...]  # trainable parameters, then other tensors that are interpolated
    estimated: frozenset[str]  # batch-norm statistics and counters, which are re-estimated at every point
    from_weights: Mapping[str, nn.Module]  # buffer that is updated from the weights alone -> its module
    uninterpolable: Mapping[str, str]  # tensor that has no value between the states -> why
    inputs: Inputs  # of a few examples, to run the network on

    def demand_interpolable(self) -> None:
        """Raise UserError, which names the tensor, if one has no value between the states."""
        for name, reason in self.uninterpolable.items():
            raise UserError(f"{name!r} differs between the ends of the path, and has no value in between: {reason}")

    def updated_from_weights(self, state: State) -> dict[str, Tensor]:
        """The buffers that are updated from the weights alone, after passes with their modules in training mode."""
        if not self.from_weights:
            return {}
        current = {name: t.clone() for name, t in state.items()}
        with preserved_modes(self.model.network), torch.no_grad(), repeatable_draws(self.model.device):
            self.model.network.eval()
            for module in self.from_weights.values():
                module.training = True
            for _ in range(ITERATIONS):
                previous = {name: current[name].clone() for name in self.from_weights}
                self.model(current, select(self.inputs, slice(1)))
                if all((current[n] - b).norm() <= CONVERGED * b.norm() for n, b in previous.items()):
                    break
        return {name: current[name] for name in self.from_weights}


@dataclass(frozen=True)
class Endpoints(Division):
    """States of a network, each divided into a vector, which a path interpolates, and stored tensors.

    The vector holds the trainable parameters, then other tensors that are interpolated but not trained.
    """

    layout: FlatLayout  # of the vectors
    vectors: tuple[Tensor, ...]  # (d,) for each state
    stored: tuple[dict[str, Tensor], ...]  # for each state, the tensors that are not in the vector

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The buffers for `batch_norm.statistics` to re-estimate, with the values of the first state."""
        return {name: self.stored[0][name] for name in self.estimated}

    def state_at(self, vector: Tensor, shares: Sequence[float]) -> dict[str, Tensor]:
        """The network's state at a point whose interpolated tensors are `vector` (d,).

        `shares`: how much of each state the point has; they sum to one. Stored tensors are those of the state with the
        largest share. Its batch-norm statistics still have to be re-estimated, unless it is one of the states. Raises
        UserError between the states if a tensor has no value there.
        """
        nearest = max(range(len(shares)), key=lambda i: shares[i])
        state = self.layout.views(vector) | {n: t.clone() for n, t in self.stored[nearest].items()}
        if all(share == (i == nearest) for i, share in enumerate(shares)):  # on a plane others may add up to zero
            return state
        self.demand_interpolable()
        return state | self.updated_from_weights(state)

    def state_on(self, curve: Curve, t: float) -> dict[str, Tensor]:
        """The network's state at t in [0, 1] of a curve from the first state to the second; see `state_at`."""
        return self.state_at(curve(t), (1 - t, t))


def divide(model: Model, states: Sequence[State], inputs: Inputs, *, keep_equal: bool = True) -> Division:
    """The tensors that the states have by their names in a state, divided by what a path between the states does.

    Args:
        states: of the model, at least two.
        inputs: of some examples, on which the network is run to see how it updates its buffers.
        keep_equal: whether untrained tensors that are equal in all states stay as they are. If False they are
            interpolated, as those that differ: states that are still to be permuted may differ afterwards.
    """
    first, inputs, trained = states[0], select(inputs, slice(IMAGES)), trainable(model.network)
    differing = {n for n, t in first.items() if any(not torch.equal(state[n], t) for state in states[1:])}
    inexact = {n for n, t in first.items() if t.is_floating_point() or t.is_complex()}
    buffers = {n for n, _ in model.network.named_buffers()} & first.keys()
    updated = updates(model, first, lambda: inputs, buffers, differing)
    estimated = updated.statistics | {c for norm in updated.norms.values() for c in norm.counters}
    constant = first.keys() - trained - estimated - updated.counters - updated.from_weights.keys()
    of_other_types = constant & differing - inexact
    uninterpolable = {n: f"it is {first[n].dtype}, which cannot be interpolated" for n in of_other_types}
    uninterpolable |= {n: updated.unknown[n] for n in differing & updated.unknown.keys()}
    interpolated = (differing if keep_equal else inexact) & constant & inexact - updated.unknown.keys()
    in_vector = [n for n in first if n in trained] + [n for n in first if n in interpolated]
    return Division(model, tuple(in_vector), frozenset(estimated), updated.from_weights, uninterpolable, inputs)


def endpoints_of(model: Model, states: Sequence[State], inputs: Inputs, *, keep_equal: bool = True) -> Endpoints:
    """The states, each divided into what a path between them interpolates and what is stored.

    Raises UserError if the network has other outputs with the two parts of a state than with the state itself.
    Arguments are as in `divide`.
    """
    names = canonical_names(model.network)
    states = [{n: state[n] for n in names if names[n] == n and n in state} for state in states]
    first, division = states[0], divide(model, states, inputs, keep_equal=keep_equal)
    untrained = set(division.interpolated) - trainable(model.network)
    layout = FlatLayout.of({n: first[n].detach() for n in division.interpolated}, untrained=untrained)
    ends = Endpoints(
        **{f.name: getattr(division, f.name) for f in fields(division)},
        layout=layout,
        vectors=tuple(layout.flatten(state) for state in states),
        stored=tuple({n: t.detach().clone() for n, t in state.items() if n not in layout.shapes} for state in states),
    )
    for number, (vector, stored, state) in enumerate(zip(ends.vectors, ends.stored, states, strict=True), 1):
        demand_same(model, layout.views(vector) | stored, state, ends.inputs, f"end {number} of the path")
    return ends


def demand_same(model: Model, state: State, expected: State, inputs: Inputs, subject: str) -> None:
    """Raise UserError unless both states give equal outputs in evaluation mode, up to float32 rounding.

    `subject`: the name of `state` in the message.
    """
    for right, output in zip(*(_compute_outputs(model, s, inputs) for s in (expected, state)), strict=True):
        largest = torch.where(right.isfinite(), right.abs(), 0.0).max().item() if right.numel() else 0.0
        if not torch.allclose(right, output, rtol=0, atol=SAME * largest, equal_nan=True):
            raise UserError(
                f"{subject} computes another function than its network: outputs on {count_examples(inputs)} examples "
                f"differ by up to {(right - output).abs().max():.3g}; at most {SAME:g} of the largest, {largest:.3g}, "
                "is allowed"
            )


def _compute_outputs(model: Model, state: State, inputs: Inputs) -> list[Tensor]:
    """All floating-point and complex outputs in evaluation mode."""
    with preserved_modes(model.network), torch.no_grad(), repeatable_draws(model.device):
        model.network.eval()
        outputs = output_tensors(model({name: t.clone() for name, t in state.items()}, inputs))
    return [head for head in outputs if head.is_floating_point() or head.is_complex()]
