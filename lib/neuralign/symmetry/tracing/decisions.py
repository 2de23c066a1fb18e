"""Decisions of a run: where Python reads a value that another input, or another random draw, would change.

The network may then take another branch, of which the run shows nothing. `PythonReads` notes reads that bypass ATen:
`item()`, `bool()` and `float()` are operations of ATen, which the recorder sees itself; `numpy()`, `tolist()` and the
like read memory, and reach PyTorch's function mode only.

A network that warns of padding in its input reads a bool too, and does the same with either answer. To find that out it
is run again with the other answer, and with both answers to what it reads then. Where it raises an error of its own for
an answer, inputs with that answer have no output, so that the answer does not matter.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuralign.symmetry.tracing.recording import Recorder

MOST_RERUNS = 16
Answers = Mapping[int, bool]  # number of a decision in its run -> what Python is to read there

# give the values of a tensor, or the memory that they lie in, to Python
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
# give the shape of a tensor to Python, which depends on values where a mask or `nonzero` made it
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
    """Notes in a recorder which tensors Python reads the values or the shape of."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.recorder.in_operation and (func in READ_VALUES or func in READ_SHAPE):
            for tensor in [a for a in args if isinstance(a, Tensor)]:
                self.recorder.note_read(tensor, shape=func in READ_SHAPE)
        return func(*args, **(kwargs or {}))


def are_decisions_without_effect(run: Recorder, rerun: Callable[[Answers], Recorder]) -> bool:
    """Whether every decision of a run reads a bool of the input alone, and all answers lead to the same operations.

    `rerun` repeats the run with other answers.
    """
    pending, reruns = [(run, 0)], 0  # runs, and how many of their first decisions need no other answer any more
    while pending:
        branch, settled = pending.pop()
        if len(branch.decisions) != len(branch.yes_no):
            return False
        if not branch.raised and branch.result_digests != run.result_digests:
            return False
        for decision in range(settled, len(branch.yes_no)):
            if (reruns := reruns + 1) > MOST_RERUNS:
                return False
            earlier = {i: answer for i, answer in branch.yes_no.items() if i < decision}
            try:
                pending.append((rerun({**earlier, decision: not branch.yes_no[decision]}), decision + 1))
            except Exception:  # of any kind: operations that do not accept what this answer leads to
                return False
    return True
