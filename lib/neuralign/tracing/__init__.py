"""From a network to its permutation symmetry, and to probes on its activations, by one recorded run of it.

Every tensor of the run carries, for each of its axes, what is known of the positions that move together (axes.py). Each
operation joins axes and gives those of its results (rules.py); one that is not known freezes all that reaches it. What
is left free is the symmetry. The work is linear in the number of operations.
"""

import inspect
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralign.symmetry import Spec
from neuralign.tracing.axes import Axis, freeze, positions
from neuralign.tracing.layout import Layout
from neuralign.tracing.recording import Recorder
from neuralign.tracing.rules import RULES, pointwise
from neuralign.tracing.running import Probe, Read, Whole, copied, drawn_alike, heads
from neuralign.tracing.taps import ACTIVATIONS, Finder, Tap, Taps, pooled

__all__ = ["Tap", "Taps", "Trace", "trace"]


DECIDED = "the network reads a number that depends on its input{}, and may do something else with another"


@dataclass(frozen=True)
class Trace:
    spec: Spec
    taps: Taps  # post-activations
    before: Taps  # pre-activations: what enters those nonlinearities
    pooled: Taps  # post-activations, after the maximum over windows where one goes into nothing else
    network: Whole = field(repr=False)  # with all its heads; dropout and norms in evaluation mode
    reads: dict[str, Read] = field(default_factory=dict, repr=False)  # where the activations of a tap are read
    order: dict[str, int] = field(default_factory=dict, repr=False)  # and how deep in the network
    frozen: dict[str, str] = field(default_factory=dict)  # "tensor[dimension]" -> why not all of it may be permuted

    def probe(
        self, taps: Taps, *, largest: int | None = None, network: nn.Module | None = None
    ) -> tuple[nn.Module, list[str]]:
        """A module that returns the tapped activations (n, units, ...) of one input, and the names they belong to.

        Maps of more than `largest` rows are halved where they are tapped, and go on halved. `network`: to be run
        instead of the traced one; it must do the operations that are read in the same order.
        """
        names = list(dict.fromkeys(tap.node for found in taps.values() for tap in found))
        reads, training = {name: self.reads[name] for name in names}, self.network.as_training
        probe = Probe(network or self.network.network, reads, largest, training=training)
        return probe.eval(), names


def trace(network: nn.Module, example: Tensor, *, attention: bool = False) -> Trace:
    """The symmetry of `network`, seen with a normalised `example` input (n, c, ...).

    Run with all its heads, as in training, on a copy with the same tensors, so that the network is left as it was.
    `attention`: whether heads, and channels within heads, may be permuted too.
    """
    whole, recorder = _recorded(network, example, training=True)
    if recorder.decided or recorder.unused():  # training leaves layers out at random, or there is no telling
        other = _recorded(network, example, training=False)
        if len(other[1].unused()) < len(recorder.unused()) or len(other[1].decided) < len(recorder.decided):
            whole, recorder = other
    if recorder.decided:
        for axes in recorder.state.values():
            for axis in axes:
                freeze(axis, DECIDED.format(recorder.decided[0]))
    layout = Layout(recorder.state, attention)
    finder, steps = Finder(layout), recorder.steps
    active = [step for step in steps if step.operation in ACTIVATIONS]
    reads = active, [s for a in active for s in a.sources[:1]], pooled(steps, active)
    taps, before, after = (finder.choose(steps, chosen) for chosen in reads)
    layout.keep(taps.keys())
    return Trace(layout.spec(), taps, before, after, whole, finder.reads, finder.order, layout.frozen())


def _recorded(network: nn.Module, example: Tensor, *, training: bool) -> tuple[Whole, Recorder]:
    """A run of a copy of the network, its outputs frozen."""
    twin = copied(network)
    whole = Whole(twin, training=training)
    recorder = Recorder(twin, RULES, pointwise)
    whole.__dict__["mode"] = lambda: recorder
    state = {n: t.detach() for n, t in [*twin.named_parameters(), *twin.named_buffers()]}  # as a probe is called
    recorder.enter(example, _axes(twin, example))
    with torch.no_grad(), drawn_alike(example.device), recorder.layers():
        outputs = heads(functional_call(whole, state, (example,)))
    del whole.__dict__["mode"]
    for tensor in outputs:
        for axis in recorder.look(tensor).axes:
            freeze(axis, "it is the network's output")
    return whole, recorder


def _axes(network: nn.Module, example: Tensor) -> tuple[Axis, ...]:
    """Images in order, the channels of the network's input, pixels in order."""
    axes = list(map(positions, example.shape))
    if example.dim() > 1 and example.is_floating_point():
        name = next(iter(inspect.signature(network.forward).parameters), "input")
        axes[1] = Axis(example.shape[1], f"<{name}>", -1.0, "it is the network's input")
    return tuple(axes)
