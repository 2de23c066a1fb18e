"""From a network to its permutation symmetry, and to probes on its activations, by one recorded run of it.

Every tensor of the run carries, for each of its axes, what is known of the positions that move together (axes.py). Each
operation joins axes and gives those of its results (rules.py); one that is not known freezes all that reaches it. What
is left free is the symmetry. The work is linear in the number of operations.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model
from neuralign.symmetry.permutations import Spec
from neuralign.symmetry.tracing import modes
from neuralign.symmetry.tracing.axes import freeze, leaves, unify
from neuralign.symmetry.tracing.execution import Probe, Read, Whole, copied
from neuralign.symmetry.tracing.groups import Layout
from neuralign.symmetry.tracing.recording import Axes, Recorder
from neuralign.symmetry.tracing.taps import ACTIVATIONS, Finder, Tap, Taps, pooled
from neuralign.symmetry.tracing.unreached import freeze_what_may_feed, unreached

__all__ = ["Tap", "Taps", "Trace", "trace"]


DECIDED = "the network reads a number that depends on its input{}, and may do something else with another"
BOTH = "in training and in evaluation it is used otherwise"
LATER = 1e9  # the birth of what only another run has: groups are named after the main one


@dataclass(frozen=True)
class Trace:
    spec: Spec
    taps: Taps  # post-activations
    before: Taps  # pre-activations: what enters those nonlinearities
    pooled: Taps  # post-activations, after the maximum over windows where one goes into nothing else
    network: Whole = field(repr=False)  # how activations are read: with all heads; dropout and norms in evaluation mode
    others: tuple[Whole, ...] = field(default=(), repr=False)  # other ways to run it that do anything else
    reads: dict[str, Read] = field(default_factory=dict, repr=False)  # where the activations of a tap are read
    order: dict[str, int] = field(default_factory=dict, repr=False)  # and how deep in the network
    frozen: dict[str, str] = field(default_factory=dict)  # "tensor[dimension]" -> why not all of it may be permuted
    modes: dict[str, str] = field(default_factory=dict)  # "evaluation", "training" -> "", or why it was not run so
    reached: tuple[str, ...] = ()  # the tensors of the network that some run used
    unreached: tuple[str, ...] = ()  # parameters and running statistics that none did: unreached.py

    def probe(
        self, taps: Taps, *, largest: int | None = None, network: nn.Module | None = None
    ) -> tuple[Probe, list[str]]:
        """What gives the tapped activations (n, units, ...) of one input, and the names they belong to.

        Maps of more than `largest` rows are halved where they are tapped, and go on halved. `network`: to be run
        instead of the traced one; it must do the operations that are read in the same order.
        """
        names = list(dict.fromkeys(tap.node for found in taps.values() for tap in found))
        reads = {name: self.reads[name] for name in names}
        return Probe(self.network if network is None else Whole(network), reads, largest), names


def trace(network: nn.Module, example: Tensor, *, attention: bool = False) -> Trace:
    """The symmetry of `network`, seen with a normalised `example` input (n, c, ...).

    Copies of it are run in evaluation mode and, with all its heads, as in training; what one of the runs forbids is
    forbidden. `attention`: whether heads, and channels within heads, may be permuted too.
    """
    twin = copied(network)
    runs = modes.record(twin, example)
    main = runs.main
    state, steps = main.recorder.state, main.recorder.steps
    _freeze_decided(runs)
    for run in runs.all:
        if run is not main:
            _merge(state, run.recorder)
    missed = unreached(twin, [run.recorder for run in runs.all])
    freeze_what_may_feed(missed, twin, state, [run.recorder for run in runs.all])
    learned = set().union(*(run.recorder.learned for run in runs.all))
    layout = Layout(state, learned, attention)
    finder = Finder(layout)
    active = [step for step in steps if step.operation in ACTIVATIONS]
    reads = active, [s for a in active for s in a.sources[:1]], pooled(steps, active)
    taps, before, after = (finder.choose(steps, chosen) for chosen in reads)
    layout.keep(taps.keys())
    first, *others = (Whole(twin, run.training) for run in runs.distinct)
    reached = tuple(sorted(set().union(*(run.recorder.reached for run in runs.all))))
    return Trace(
        layout.spec(),
        taps,
        before,
        after,
        first,
        tuple(others),
        finder.reads,
        finder.order,
        layout.frozen(),
        runs.modes,
        reached,
        missed,
    )


def trace_model(model: Model, images: Images, *, attention: bool = False) -> Trace:
    """The permutation symmetry of a model, traced on its first two images; `attention` as in `trace`."""
    return trace(model.network, model.normalise(as_float(images.pixels[:2])), attention=attention)


def _freeze_decided(runs: modes.Runs) -> None:
    """Where evaluation mode reads a number, nothing is free; where only training does, nothing that only it reaches."""
    final = [run for run in (runs.evaluation, runs.main) if run.recorder.decided]
    for run in runs.all:
        if found := final or ([run] if run.recorder.decided else []):
            skipped = () if final else runs.evaluation.recorder.state.keys()
            for axes in (axes for name, axes in run.recorder.state.items() if name not in skipped):
                for axis in axes:
                    freeze(axis, DECIDED.format(found[0].recorder.decided[0]))


def _merge(state: dict[str, Axes], other: Recorder) -> None:
    """Add to the tensors of one run those of another, and what that run says of the same."""
    born = {id(leaf): leaf for axes in other.state.values() for axis in axes for leaf in leaves(axis)}
    for leaf in born.values():
        leaf.born += LATER
    for name, axes in other.state.items():
        for one, axis in zip(state.setdefault(name, axes), axes, strict=True):
            unify(one, axis, BOTH)
