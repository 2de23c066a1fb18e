"""The recorded runs of a network: in evaluation mode, and as in training, where it may have more heads.

In the second run the network's own code is in training mode: all modules that are no layers of torch, with children or
without. Norms and dropout stay in evaluation mode, whoever wrote them: layers of torch and classes derived from them by
their class; others because a first run in training mode shows that they change numbers they keep, or draw at random.
That first run counts as well: what it forbids is forbidden, but where a module without children drew.
"""

import inspect
import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuralign.common.seeding import drawn_alike
from neuralign.networks.foreign_networks import summary
from neuralign.networks.outputs import heads
from neuralign.symmetry.tracing.axes import Axis, positions
from neuralign.symmetry.tracing.branches import Answers, is_without_consequence
from neuralign.symmetry.tracing.decisions import PythonReads
from neuralign.symmetry.tracing.execution import Whole, copied
from neuralign.symmetry.tracing.operations.rules import RULES, pointwise
from neuralign.symmetry.tracing.recording import Recorder

CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
EVALUATION, TRAINING = "evaluation", "training"


@dataclass(frozen=True)
class Run:
    """One recorded run."""

    training: frozenset[str]  # the names of the modules that ran as in training
    recorder: Recorder
    unsteady: frozenset[str]  # those of them that changed numbers they keep, or drew at random
    drawing: frozenset[str] = frozenset()  # those of them that drew at random

    @property
    def parameters(self) -> set[str]:
        """The parameters that it reached."""
        return {name for name, _ in self.recorder.network.named_parameters()} & self.recorder.reached

    def does_as(self, other: "Run") -> bool:
        """Whether it runs the same operations in the same order, with the same numbers for arguments."""
        return self.recorder.arguments.digest() == other.recorder.arguments.digest()


@dataclass(frozen=True)
class Runs:
    """The runs of a network: of `evaluation`, and of `training` where it can be run so."""

    evaluation: Run
    training: Run | None  # without what is unsteady
    all: tuple[Run, ...]  # every run that was recorded, also with what is unsteady
    modes: dict[str, str]  # mode -> "" where the network was run in it, else the error that it raised

    @property
    def main(self) -> Run:
        """The run that activations are read of: as in training where that reaches more and decides nothing."""
        more = self.training is not None and self.training.parameters - self.evaluation.parameters
        if self.training is None or not more:
            return self.evaluation
        decides_more = len(self.training.recorder.decided) > len(self.evaluation.recorder.decided)
        return self.evaluation if decides_more else self.training

    @property
    def distinct(self) -> list[Run]:
        """The main run, and the other where it does anything else."""
        main = self.main
        others = [run for run in (self.evaluation, self.training) if run and run is not main and not run.does_as(main)]
        return [main, *others]


def record(network: nn.Module, example: Tensor) -> Runs:
    """Runs of `network`, a copy made for that, on a normalised `example` input (n, c, ...)."""
    modes = {EVALUATION: "", TRAINING: ""}
    tries: list[Run] = []
    trained, error = None, None
    for names in _candidates(network):
        try:
            tries += _steady(network, example, names)
        except Exception as raised:  # by anybody's code, which may want more in training than an input
            error = error or raised
        else:
            trained = tries[-1]
            break
    if error is not None and trained is None:
        modes[TRAINING] = summary(error)
    evaluation = run(network, example, frozenset())
    return Runs(evaluation, trained, (evaluation, *tries), modes)


def _steady(network: nn.Module, example: Tensor, names: frozenset[str]) -> Iterator[Run]:
    """A run with these modules as in training; as long as some are unsteady, another without those.

    A run in which a module without children drew is left out: noise on every channel is none of its channels' order.
    """
    childless = {name for name, module in network.named_modules() if not any(module.children())}
    while True:
        found = run(network, example, names)
        if not found.drawing & childless:
            yield found
        if not found.unsteady:
            return
        names -= found.unsteady


def _candidates(network: nn.Module) -> list[frozenset[str]]:
    """Names of the modules that may run as in training, most first: some may refuse to, as norms do of one number."""
    own = {name: m for name, m in network.named_modules() if _is_own_code(m)}
    owning = {name for name, m in own.items() if not name or any(m.children())}
    keeping = {name for name, m in own.items() if any(b.is_floating_point() for b in m.buffers(recurse=False))}
    return list(dict.fromkeys(map(frozenset, (own, owning, owning - keeping))))


def _is_own_code(module: nn.Module) -> bool:
    """Whether a module is no layer of torch, and not derived from one."""
    kinds = [kind for kind in type(module).__mro__ if kind not in (object, *CONTAINERS)]
    layers = any(kind.__module__.startswith("torch.nn.modules.") for kind in kinds)
    return not layers and any(kind.__module__.partition(".")[0] != "torch" for kind in kinds)


def run(network: nn.Module, example: Tensor, training: frozenset[str], answers: Answers | None = None) -> Run:
    """A recorded run of a copy of `network`, its outputs frozen, with these modules as in training.

    With other `answers` to what Python reads it may be one that the network refuses.
    """
    twin = copied(network, parameters=True)
    recorder = Recorder(twin, RULES, pointwise, answers)
    state = {n: t.detach() for n, t in [*twin.named_parameters(), *twin.named_buffers()]}  # as a probe is called
    recorder.enter(example, _input_axes(twin, example))
    before = _kept(twin, state, training)
    with torch.no_grad(), drawn_alike(example.device), recorder.layers(), _python_draws(recorder):
        with Whole(twin, training).running(state, recorder) as held, PythonReads(recorder):
            try:
                outputs = twin(example)
            except Exception:  # of the network's own
                if answers is None or recorder.failed:
                    raise
                recorder.refused = True
                return Run(training, recorder, frozenset())
    recorder.leave(heads(outputs), held)

    def again(answers: Answers) -> Recorder:
        return run(network, example, training, answers).recorder

    if answers is None and recorder.decided and is_without_consequence(recorder, again):
        recorder.decided.clear()
    after = _kept(twin, held, training)
    changing = {name for name, kept in after.items() if not _are_same(kept, before[name])}
    drawing = {name for layers in recorder.draws for name in [n for n in layers if n in training][-1:]}
    return Run(training, recorder, frozenset(changing | drawing), frozenset(drawing))


def _input_axes(network: nn.Module, example: Tensor) -> tuple[Axis, ...]:
    """Images in order, the channels of the network's input, pixels in order."""
    axes = list(map(positions, example.shape))
    if example.dim() > 1 and example.is_floating_point():
        name = next(iter(inspect.signature(network.forward).parameters), "input")
        axes[1] = Axis(example.shape[1], f"<{name}>", -1.0, "it is the network's input")
    return tuple(axes)


@contextmanager
def _python_draws(recorder: Recorder) -> Iterator[None]:
    """A block in which draws from the generators of Python or of numpy are a decision by chance."""
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    yield
    if pickle.dumps((random.getstate(), np.random.get_state())) != before:
        recorder.decide()


def _kept(network: nn.Module, state: Mapping[str, Tensor], names: frozenset[str]) -> dict[str, dict[str, Tensor]]:
    """Copies of all numbers of floating point that each of these modules has itself, of `state` or as attributes."""
    kept = {}
    for name, module in network.named_modules():
        if name in names:
            own = [*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))]
            tensors = {n: state.get(f"{name}.{n}" if name else n) for n in own} | vars(module)
            kept[name] = {
                n: t.detach().clone() for n, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()
            }
    return kept


def _are_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in ((one[n], other[n]) for n in one)
    )
