"""Records a network in evaluation mode and in training mode, where it may have more outputs (auxiliary heads).

"Training mode" here is that of the network's custom modules only; norms and dropout stay in evaluation mode. Layers of
torch and classes derived from them are known by their class. Custom norms and dropouts show in a first run in training
mode: they change tensors that they keep, or draw random numbers. In a second run they are in evaluation mode too. What
the first run freezes counts as well, unless a module without children drew random numbers in it.
"""

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuralign.common.seeding import repeatable_draws
from neuralign.datasets.batches import Inputs, call, tensors_of
from neuralign.networks.foreign_networks import summary
from neuralign.networks.outputs import output_tensors
from neuralign.symmetry.inputs import named_inputs
from neuralign.symmetry.tracing.axes import STEP, Axis, ordered_axis
from neuralign.symmetry.tracing.call import Axes
from neuralign.symmetry.tracing.decisions import Answers, PythonReads, other_branches
from neuralign.symmetry.tracing.execution import DeterministicNetwork, evaluation_copy
from neuralign.symmetry.tracing.operations.elementwise import elementwise
from neuralign.symmetry.tracing.operations.rules import RULES
from neuralign.symmetry.tracing.recording import Recorder, are_equal

# classes of torch that have no behaviour of their own in training mode
CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
EVALUATION, TRAINING = "evaluation", "training"
FIRST = -1.0  # `first_seen` of the axis of the first input's channels: before that of any parameter


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    training: frozenset[str]  # names of the modules that ran in training mode
    recorder: Recorder
    varying: frozenset[str]  # modules of `training` that changed tensors which they keep, or drew random numbers
    drawing: frozenset[str] = frozenset()  # modules of `training` that drew random numbers
    branches: tuple[Recorder, ...] = ()  # runs of other branches, which other inputs may take

    @property
    def different_branches(self) -> list[Recorder]:
        """The branches that compute something else than this run."""
        return [branch for branch in self.branches if branch.result_digests != self.recorder.result_digests]

    def has_operations_of(self, other: "Run") -> bool:
        """Whether both runs had the same operations in the same order, with the same shapes and numbers."""
        return self.recorder.arguments_digest.digest() == other.recorder.arguments_digest.digest()


@dataclass(frozen=True)
class Runs:
    """All recorded runs of a network."""

    evaluation: Run
    training: Run | None  # the last run in training mode; None if the network raises an error in every such run
    all: tuple[Run, ...]
    modes: dict[str, str]  # EVALUATION, TRAINING -> "", or the error if the network cannot be run so

    @property
    def main(self) -> Run:
        """The run whose activations are read: in training mode if that uses more parameters without more decisions."""
        if self.training is None or self.training.recorder.used_parameters <= self.evaluation.recorder.used_parameters:
            return self.evaluation
        decides_more = len(self.training.recorder.decisions) > len(self.evaluation.recorder.decisions)
        return self.evaluation if decides_more else self.training

    @property
    def distinct(self) -> list[Run]:
        """The main run, then the run in the other mode if its operations differ."""
        main = self.main
        runs = [run for run in (self.evaluation, self.training) if run and run is not main]
        return [main, *(run for run in runs if not run.has_operations_of(main))]


def record(network: nn.Module, example: Inputs) -> Runs:
    """The runs of `network` on `example` inputs; each runs a copy of it, which shares its parameters."""
    modes = {EVALUATION: "", TRAINING: ""}
    trials: list[Run] = []
    training, error = None, None
    for names in _candidates(network):
        try:
            trials += _training_runs(network, example, names)  # also those before an error
        except Exception as raised:  # by the network's code, which in training mode may need targets too
            error = error or raised
        else:
            training = trials[-1]
            break
    if error is not None and training is None:
        modes[TRAINING] = summary(error)
    evaluation = run(network, example, frozenset())
    return Runs(evaluation, training, (evaluation, *trials), modes)


def _training_runs(network: nn.Module, example: Inputs, names: frozenset[str]) -> Iterator[Run]:
    """Runs with these modules in training mode, then without those that varied in the previous run, until none varies.

    A run in which a module without children drew random numbers is left out: such a module is taken for a dropout, and
    its random tensor, the channels of which cannot be permuted, would freeze what it is joined with.
    """
    childless = {name for name, module in network.named_modules() if not any(module.children())}
    while True:
        trial = run(network, example, names)
        if not trial.drawing & childless:
            yield trial
        if not trial.varying:
            return
        names -= trial.varying


def _candidates(network: nn.Module) -> list[frozenset[str]]:
    """Sets of modules to try in training mode, largest first: a custom norm may not accept the example in it."""
    custom = {name: m for name, m in network.named_modules() if _is_custom(m)}
    parents = {name for name, m in custom.items() if not name or any(m.children())}
    with_buffers = {name for name, m in custom.items() if any(b.is_floating_point() for b in m.buffers(recurse=False))}
    return list(dict.fromkeys(map(frozenset, (custom, parents, parents - with_buffers))))


def _is_custom(module: nn.Module) -> bool:
    """Whether the class of a module is neither a layer of torch nor derived from one."""
    kinds = [kind for kind in type(module).__mro__ if kind not in (object, *CONTAINERS)]
    is_layer = any(kind.__module__.startswith("torch.nn.modules.") for kind in kinds)
    return not is_layer and any(kind.__module__.partition(".")[0] != "torch" for kind in kinds)


def run(network: nn.Module, example: Inputs, training: frozenset[str], answers: Answers | None = None) -> Run:
    """A recorded run of a copy of `network` on `example`, with the modules named in `training` in training mode.

    The copy shares the parameters of `network`. If the run overwrites any, they get their old values back after it.

    `answers`: what Python is to read at decisions, see `decisions.py`. If the network's own code raises an error with
    them, the recorder notes that and the run ends there. Without answers the error is raised.
    """
    twin = evaluation_copy(network)
    recorder = Recorder(twin, RULES, elementwise, answers)
    state = {n: t.detach() for n, t in [*twin.named_parameters(), *twin.named_buffers()]}
    for tensor, axes in _input_axes(twin, example):
        recorder.add_input(tensor, axes)
    before = _kept_tensors(twin, state, training)
    draws = repeatable_draws(next(tensors_of(example)).device)
    try:
        with torch.no_grad(), draws, recorder.following_layers(), _noting_python_draws(recorder):
            with DeterministicNetwork(twin, training).running(state, recorder) as current, PythonReads(recorder):
                try:
                    outputs = call(twin, example)
                except Exception:  # of the network's own code
                    if answers is None or recorder.operation_failed:
                        raise
                    recorder.raised = True
    finally:
        overwritten = recorder.restore_parameters()
    if recorder.raised:
        recorder.release()
        return Run(training, recorder, frozenset())
    recorder.finish(output_tensors(outputs), current)

    def rerun(answers: Answers) -> Recorder:
        return run(network, example, training, answers).recorder

    branches = other_branches(recorder, rerun) if answers is None and recorder.decisions else []
    if branches is not None and answers is None:
        recorder.decisions.clear()
    after = _kept_tensors(twin, current, training)
    assigned = {n for n, _ in network.named_parameters() if current[n] is not state[n]}
    changing = {name.rpartition(".")[0] for name in overwritten | assigned} & training
    changing |= {name for name, tensors in after.items() if not _are_equal(tensors, before[name])}
    drawing = {name for layers in recorder.draws for name in [n for n in layers if n in training][-1:]}
    return Run(training, recorder, frozenset(changing | drawing), frozenset(drawing), tuple(branches or ()))


def _input_axes(network: nn.Module, inputs: Inputs) -> Iterator[tuple[Tensor, Axes]]:
    """(tensor, its axes) for every tensor in the inputs.

    The channels of a floating-point tensor (n, c, ...) are a fixed group. The order along all other axes is data.
    """
    for number, (name, tensor) in enumerate(named_inputs(network, inputs)):
        axes = list(map(ordered_axis, tensor.shape))
        if tensor.dim() > 1 and tensor.is_floating_point():
            axes[1] = Axis(tensor.shape[1], f"<{name}>", FIRST + number * STEP, "it is the network's input")
        yield tensor, tuple(axes)


@contextmanager
def _noting_python_draws(recorder: Recorder) -> Iterator[None]:
    """A block after which a decision is noted if the block drew from the generators of Python or numpy."""
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    yield
    if pickle.dumps((random.getstate(), np.random.get_state())) != before:
        recorder.note_decision()


def _kept_tensors(
    network: nn.Module, state: Mapping[str, Tensor], names: frozenset[str]
) -> dict[str, dict[str, Tensor]]:
    """{module: {name: content}} of the floating-point buffers and attributes of the modules `names`, not of submodules.

    Buffers are those of `state`. The content is a copy; on the meta device, where there are no values to compare, it
    says which tensor it is and how often it was written to.
    """

    def content_of(tensor: Tensor) -> Tensor:
        return torch.tensor([id(tensor), tensor._version]) if tensor.is_meta else tensor.detach().clone()

    def tensors_of(name: str, module: nn.Module) -> dict[str, Tensor]:
        buffers = dict(module.named_buffers(recurse=False))
        values = {n: state.get(f"{name}.{n}" if name else n) for n in buffers} | vars(module)
        return {n: content_of(t) for n, t in values.items() if isinstance(t, Tensor) and t.is_floating_point()}

    return {name: tensors_of(name, module) for name, module in network.named_modules() if name in names}


def _are_equal(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names and equal tensors."""
    return before.keys() == after.keys() and all(are_equal(tensor, after[name]) for name, tensor in before.items())
