"""What a network is between states of it: which tensors follow a path, and what becomes of all others.

The policy is the table of docs/states.md. At a state itself the network is that state, whatever it keeps; this is
checked where a path is opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuralign.common.errors import Refused
from neuralign.common.seeding import drawn_alike
from neuralign.curves.curve import Curve
from neuralign.networks.buffer_updates import IMAGES, updates
from neuralign.networks.model import Model, State, first_names, modes_kept, trainable
from neuralign.networks.outputs import heads
from neuralign.networks.parameters import FlatLayout

SAME = 1e-4  # what outputs of one function may differ by, as a share of their size: rounding in float32
ITERATIONS, SETTLED = 100, 1e-6  # passes after which what follows the weights is taken as it is; relative change


@dataclass(frozen=True)
class Endpoints:
    """Several states of a network, divided into what follows a path between them and what does not."""

    model: Model
    layout: FlatLayout  # of what follows a path: the parameters that train, then what is interpolated, untrained
    vectors: tuple[Tensor, ...]  # (d,) each, one for every state
    stored: tuple[dict[str, Tensor], ...]  # what every state keeps besides
    estimated: frozenset[str]  # of what is kept, the statistics and counters that are estimated anew everywhere
    following: Mapping[str, nn.Module]  # and what modules bring up to date with their weights between the states
    refused: Mapping[str, str]  # what there is no value for between the states, and why
    pixels: Tensor  # (n, c, h, w) in [0, 1], a few

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Buffers as `batch_norm.statistics` takes them: those to be estimated anew, and no others."""
        return {name: self.stored[0][name] for name in self.estimated}

    def demand_between(self) -> None:
        """Refuse to go between the states if something has no value there."""
        for name, reason in self.refused.items():
            raise Refused(f"{name!r} differs between the ends of the path, and has no value in between: {reason}")

    def point(self, vector: Tensor, shares: Sequence[float]) -> dict[str, Tensor]:
        """The network where the path is at `vector` (d,), of which the states have these shares.

        `statistics` are those of the nearest state, still to be estimated anew.
        """
        nearest = max(range(len(shares)), key=lambda i: shares[i])
        state = self.layout.views(vector) | {n: t.clone() for n, t in self.stored[nearest].items()}
        if shares[nearest] == 1:
            return state
        self.demand_between()
        return state | self._followed(state) if self.following else state

    def on(self, curve: Curve, t: float) -> dict[str, Tensor]:
        """The same at t of a curve from the first state to the second."""
        return self.point(curve(t), (1 - t, t))

    def _followed(self, state: State) -> dict[str, Tensor]:
        """What follows the weights, brought up to date by passes of its modules in training mode."""
        held = {name: t.clone() for name, t in state.items()}
        with modes_kept(self.model.network), torch.no_grad(), drawn_alike(self.pixels.device):
            self.model.network.eval()
            for module in self.following.values():
                module.training = True
            for _ in range(ITERATIONS):
                before = {name: held[name].clone() for name in self.following}
                self.model(held, self.pixels[:1])
                if all((held[n] - b).norm() <= SETTLED * b.norm() for n, b in before.items()):
                    break
        return {name: held[name] for name in self.following}


def divide(model: Model, states: Sequence[State], pixels: Tensor, *, keep_equal: bool = True) -> Endpoints:
    """The states as the ends of a path; `pixels` (n, c, h, w) in [0, 1] show what the network does with its buffers.

    `keep_equal`: whether what does not train and is equal in all states is kept; without it, it is interpolated like
    what differs, for states that are still to be permuted. Raises Refused if the network at one of these ends were not
    the function of that state.
    """
    names = first_names(model.network)
    states = [{n: state[n] for n in names if names[n] == n and n in state} for state in states]
    first, pixels, trains = states[0], pixels[:IMAGES], trainable(model.network)
    differing = {n for n, t in first.items() if any(not torch.equal(state[n], t) for state in states[1:])}
    inexact = {n for n, t in first.items() if t.is_floating_point() or t.is_complex()}
    buffers = {n for n, _ in model.network.named_buffers()} & first.keys()
    found = updates(model, first, lambda: pixels, buffers, differing)
    estimated = found.statistics | {c for norm in found.norms.values() for c in norm.counters}
    constant = first.keys() - trains - estimated - found.counters - found.following.keys()
    refused = {n: f"it is {first[n].dtype}, and is kept only where it is equal" for n in constant & differing - inexact}
    refused |= {n: found.unknown[n] for n in differing & found.unknown.keys()}
    interpolated = (differing if keep_equal else inexact) & constant & inexact - found.unknown.keys()
    follows = [n for n in first if n in trains] + [n for n in first if n in interpolated]
    layout = FlatLayout.of({n: first[n].detach() for n in follows}, untrained=interpolated)
    ends = Endpoints(
        model,
        layout,
        tuple(layout.flatten(state) for state in states),
        tuple({n: t.detach().clone() for n, t in state.items() if n not in layout.shapes} for state in states),
        frozenset(estimated),
        found.following,
        refused,
        pixels,
    )
    for number, (vector, stored, state) in enumerate(zip(ends.vectors, ends.stored, states, strict=True), 1):
        demand_same(model, layout.views(vector) | stored, state, pixels, f"end {number} of the path")
    return ends


def demand_same(model: Model, found: State, expected: State, pixels: Tensor, what: str) -> None:
    """Refuse a state that is not the function of the expected one, on these pixels in evaluation mode."""
    for one, other in zip(*(_outputs(model, state, pixels) for state in (expected, found)), strict=True):
        size = torch.where(one.isfinite(), one.abs(), 0.0).max().item() if one.numel() else 0.0
        if not torch.allclose(one, other, rtol=0, atol=SAME * size, equal_nan=True):
            raise Refused(
                f"{what} is another function than its network: outputs of size {size:.3g} differ by "
                f"{(one - other).abs().max():.3g} on {len(pixels)} images, at most {SAME:g} of their size is allowed"
            )


def _outputs(model: Model, state: State, pixels: Tensor) -> list[Tensor]:
    with modes_kept(model.network), torch.no_grad(), drawn_alike(pixels.device):
        model.network.eval()
        found = heads(model({name: t.clone() for name, t in state.items()}, pixels))
    return [head for head in found if head.is_floating_point() or head.is_complex()]
