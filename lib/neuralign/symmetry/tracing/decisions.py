"""Decisions of a run: where Python reads a value that another input, or another random draw, would change.

With another value the network may take another branch, of which the run shows nothing. The recorder itself sees
`item()`, `bool()` and `float()`, which are operations of ATen. `numpy()`, `tolist()` and the like read memory without
one; `PythonReads` notes these.

Where Python reads bools of the input alone, such as whether a mask has padding, all branches can be listed: the network
is run again with the other answer (False for True), then with both answers to each later decision. A branch with the
same results, as of a network that only warns of padding, does not matter; what another one freezes is frozen. If the
network's own code raises an error with an answer, inputs that lead to it have no output, and the answer is ignored.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuralign.symmetry.tracing.recording import Recorder

MOST_RERUNS = 16
Answers = Mapping[int, bool]  # number of a decision in its run -> what Python is to read there

# functions that give the values of a tensor, or the memory where they lie, to Python
READ_VALUES = {
    Tensor.numpy,
    Tensor.tolist,
    Tensor.__array__,
    Tensor.__dlpack__,
    inspect.getattr_static(Tensor, "__cuda_array_interface__").__get__,
    Tensor.__deepcopy__,
    Tensor.__reduce_ex__,
    Tensor.data_ptr,
    Tensor.untyped_storage,
    Tensor.storage,
    Tensor.apply_,
    Tensor.map_,
    Tensor.map2_,
}
# functions that give the shape of a tensor to Python; it depends on values if a mask or `nonzero` made the tensor
READ_SHAPE = {
    inspect.getattr_static(Tensor, "shape").__get__,
    Tensor.size,
    Tensor.numel,
    Tensor.nelement,
    Tensor.stride,
    Tensor.__len__,
    Tensor.unbind,
    Tensor.split,
    Tensor.chunk,
}


class PythonReads(TorchFunctionMode):
    """Tells a recorder when Python reads the values or the shape of a tensor."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.recorder.in_operation and (func in READ_VALUES or func in READ_SHAPE):
            for tensor in [a for a in args if isinstance(a, Tensor)]:
                self.recorder.note_read(tensor, shape=func in READ_SHAPE)
                if func in READ_VALUES:  # Python may write to the memory that it gets
                    self.recorder.keep_parameters(tensor)
        return func(*args, **(kwargs or {}))


def other_branches(run: Recorder, rerun: Callable[[Answers], Recorder]) -> list[Recorder] | None:
    """The runs of all other branches that the decisions of a run may lead to.

    `rerun` repeats the run with other answers. None if they cannot be listed: some decision reads another value than a
    bool of the input alone, an operation does not accept an answer, or there are more than MOST_RERUNS.
    """
    branches: list[Recorder] = []
    pending, reruns = [(run, 0)], 0  # runs to check, each with the number of its first decision to answer otherwise
    while pending:
        branch, first = pending.pop()
        if len(branch.decisions) != len(branch.bool_answers):
            return None
        if branch is not run and not branch.raised:
            branches.append(branch)
        for decision in range(first, len(branch.bool_answers)):
            if (reruns := reruns + 1) > MOST_RERUNS:
                return None
            earlier = {i: answer for i, answer in branch.bool_answers.items() if i < decision}
            try:
                pending.append((rerun({**earlier, decision: not branch.bool_answers[decision]}), decision + 1))
            except Exception:  # of any kind: an operation does not accept what this answer leads to
                return None
    return branches
