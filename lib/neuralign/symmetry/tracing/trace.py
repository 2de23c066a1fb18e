"""Finds the permutation symmetry of any network, from recorded runs of it.

How it works, in the order of the files of this package:

1. `axes.py`. An **axis** stands for one dimension of a tensor: the set of its positions, of which any permutation is
   allowed until something forbids it. Axes form a union-find: to *unify* two axes is to require that both are permuted
   alike. When an operation splits or unflattens a dimension, its axis becomes a concatenation or a product of axes.
   To *freeze* an axis is to forbid permutations of it, with a reason in words.
2. `execution.py` runs a network deterministically, dropout replaced by its mean.
3. `call.py`, `recording.py`. A `Recorder` sees every operation of ATen that a run executes. Every tensor has one axis
   per dimension. Parameters start with new axes; those of the input, of constants and of outputs are frozen. For each
   operation the recorder calls its **rule** with the axes of the operands; if there is no rule, these are frozen.
4. `operations/` holds the rules. A rule unifies what the operation matches position by position, freezes what it reads
   in order, and returns the axes of the results. Example: for y = W x it unifies the columns of W with the last axis of
   x, and returns the rows of W as the last axis of y. So the rows of one layer and the columns of the next share an
   axis.
5. `decisions.py`. Where Python reads a value that depends on the input, another input may take another branch, of which
   this run shows nothing: everything is frozen, unless runs in which Python reads the other values show all branches.
6. `modes.py` records a run in evaluation mode and runs in training mode, where a network may have more heads. What one
   of them freezes is frozen.
7. `unreached.py` freezes what may feed layers that no run used.
8. `groups.py`. The axes that are not made of others are the **groups**: sets of channels that are permuted together. A
   group is free, or fixed with a reason. The `PermutationSpec` says where groups lie on the network's tensors.
9. `taps.py`. A **tap** is a place in the run where the activations of a group can be read, after a nonlinearity where
   there is one. Alignment compares networks there.

A needlessly frozen axis makes the symmetry smaller, never wrong; and every permutation is certified besides
(`symmetry/certificate.py`). The time is linear in the number of operations.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from neuralign.common.errors import UserError
from neuralign.datasets.batches import Examples, Inputs, count_examples, move
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import Model
from neuralign.symmetry.permutations import PermutationSpec
from neuralign.symmetry.tracing import modes
from neuralign.symmetry.tracing.axes import freeze, leaves, unify
from neuralign.symmetry.tracing.call import Axes
from neuralign.symmetry.tracing.execution import DeterministicNetwork, Probe, ReadPoint, evaluation_copy
from neuralign.symmetry.tracing.groups import Groups
from neuralign.symmetry.tracing.recording import Recorder
from neuralign.symmetry.tracing.taps import ACTIVATIONS, TapFinder, Taps, steps_of_all_branches, with_pooling
from neuralign.symmetry.tracing.unreached import freeze_possible_inputs, unreached_tensors

DECISION = "the network reads a value that depends on its input{}, and may take another branch with another input"
DIFFERENT_MODES = "training and evaluation mode use it differently"
DIFFERENT_BRANCHES = "the branches that the network takes for different inputs use it differently"
LATER = 1e9  # added to `first_seen` of axes of the other runs, so that groups are named after the main run


@dataclass(frozen=True)
class Trace:
    """The permutation symmetry of a network, and where its activations can be read."""

    spec: PermutationSpec
    taps: Taps  # post-activations, the results of nonlinearities; of groups without any, another result
    pre_activations: Taps  # the inputs of the nonlinearities of `taps`
    after_pooling: Taps  # as `taps`, but after the max-pooling where this alone reads the nonlinearity
    network: DeterministicNetwork = field(repr=False)  # in the mode of the main run, whose activations are read
    others: tuple[DeterministicNetwork, ...] = field(default=(), repr=False)  # in the other mode, if that differs
    reads: dict[str, ReadPoint] = field(default_factory=dict, repr=False)  # node of a tap -> where it is read
    depths: dict[str, int] = field(default_factory=dict, repr=False)  # node of a tap -> number of its step
    frozen: dict[str, str] = field(default_factory=dict)  # "tensor[dimension]" -> why not all of it may be permuted
    modes: dict[str, str] = field(default_factory=dict)  # "evaluation", "training" -> "", or the error of such a run
    activations: int = 0  # how many numbers the results of a run have for one example
    branches: int = 0  # how many branches the network takes for other inputs only, see decisions.py
    reached: tuple[str, ...] = ()  # the network's tensors that some run used
    unreached: tuple[str, ...] = ()  # parameters and persistent buffers that no run used, see unreached.py

    def probe(
        self, taps: Taps, *, largest: int | None = None, network: nn.Module | None = None
    ) -> tuple[Probe, list[str]]:
        """A probe that returns activations (n, units, ...) at the nodes of these taps, and the nodes in its order.

        Args:
            taps: `taps`, `pre_activations` or `after_pooling` of this trace.
            largest: feature maps that are wider are subsampled where they are read, and the network goes on with the
                subsampled maps. None: no limit.
            network: runs instead of the traced one, for example a folded copy. It must run the operations whose
                results are read in the same order.
        """
        names = list(dict.fromkeys(tap.node for group_taps in taps.values() for tap in group_taps))
        reads = {name: self.reads[name] for name in names}
        return Probe(self.network if network is None else DeterministicNetwork(network), reads, largest), names


def trace(network: nn.Module, example: Inputs, *, attention: bool = False) -> Trace:
    """The permutation symmetry of `network`, from runs of copies of it; `network` itself does not change.

    Args:
        network: any network; its code must run in evaluation mode.
        example: inputs as `datasets/batches.py` describes them; images (n, c, ...) are normalised.
        attention: whether heads of attentions, and channels within heads, may be permuted too.

    Raises `UserError` if the network cannot be copied, or if the inputs have no tensor or tensors that differ in their
    numbers of examples; errors that the network's code raises in evaluation mode are passed on.

    A network on the meta device is traced there, without memory for weights and activations; `example` may be on any
    device. Raises `UserError` if its code reads numbers, which that device does not keep. Where the activations are
    read is known for the meta device only, which computes an attention by other operations.
    """
    count_examples(example)
    twin = evaluation_copy(network)
    if any(parameter.is_meta for parameter in twin.parameters()):
        runs = _record_on_meta(twin, example)
    else:
        runs = modes.record(twin, example)
    main, branches = runs.main, [branch for run in runs.all for branch in run.different_branches]
    recorders = [*(run.recorder for run in runs.all), *branches]
    state = main.recorder.state
    _freeze_decisions(runs)
    for recorder in recorders:
        if recorder is not main.recorder:
            _merge(state, recorder, DIFFERENT_BRANCHES if recorder in branches else DIFFERENT_MODES)
    unreached = unreached_tensors(twin, recorders)
    freeze_possible_inputs(unreached, twin, state, recorders)
    groups = Groups(state, set().union(*(recorder.learned for recorder in recorders)), attention)
    finder = TapFinder(groups)
    steps = steps_of_all_branches(main.recorder.steps, [branch.steps for branch in main.branches])
    nonlinear = [step for step in steps if step.operation in ACTIVATIONS]
    taps = finder.choose(steps, nonlinear)
    pre_activations = finder.choose(steps, [source for step in nonlinear for source in step.sources[:1]])
    after_pooling = finder.choose(steps, with_pooling(steps, nonlinear))
    groups.freeze_all_but(taps.keys())
    first, *others = (DeterministicNetwork(twin, run.training) for run in runs.distinct)
    return Trace(
        spec=groups.spec(),
        taps=taps,
        pre_activations=pre_activations,
        after_pooling=after_pooling,
        network=first,
        others=tuple(others),
        reads=finder.reads,
        depths=finder.depths,
        frozen=groups.frozen(),
        modes=runs.modes,
        activations=max(recorder.activations for recorder in recorders) // max(count_examples(example), 1),
        branches=len({branch.result_digests for branch in branches}),
        reached=tuple(sorted(set().union(*(recorder.reached for recorder in recorders)))),
        unreached=unreached,
    )


def _record_on_meta(network: nn.Module, example: Inputs) -> modes.Runs:
    """As `modes.record`, for a network with parameters on the meta device, to which its buffers are moved."""
    for module in network.modules():
        module._buffers |= {n: None if b is None else b.to("meta") for n, b in module._buffers.items()}
    try:
        return modes.record(network, move(example, torch.device("meta")))
    except RuntimeError as error:
        raise UserError(
            f"the network is on the meta device, which keeps no numbers, and cannot be traced there: {summary(error)}"
        ) from error


def trace_model(model: Model, examples: Examples, *, attention: bool = False) -> Trace:
    """The permutation symmetry of a model, traced on the first two of `examples`; `attention` as in `trace`."""
    return trace(model.network, model.normalise(next(examples.batches(2))[0]), attention=attention)


def _freeze_decisions(runs: modes.Runs) -> None:
    """Freeze the axes that a decision of a run may concern.

    If the run in evaluation mode or the main run has decisions, these are all axes. If only another run has, they are
    the axes of the tensors that it uses and evaluation mode does not.
    """
    main_decisions = runs.evaluation.recorder.decisions or runs.main.recorder.decisions
    unconcerned = () if main_decisions else runs.evaluation.recorder.state.keys()
    for recorder in (run.recorder for run in runs.all):
        if decisions := main_decisions or recorder.decisions:
            for axis in (axis for name, axes in recorder.state.items() if name not in unconcerned for axis in axes):
                freeze(axis, DECISION.format(decisions[0]))


def _merge(state: dict[str, Axes], recorder: Recorder, reason: str) -> None:
    """Add the tensors of another run to `state`, the axes by name, and unify the axes of those that both have.

    `reason`: why parts of such axes that cannot be permuted alike are frozen.
    """
    unique_leaves = {id(leaf): leaf for axes in recorder.state.values() for axis in axes for leaf in leaves(axis)}
    for leaf in unique_leaves.values():
        leaf.first_seen += LATER
    for name, axes in recorder.state.items():
        for first, axis in zip(state.setdefault(name, axes), axes, strict=True):
            unify(first, axis, reason)
