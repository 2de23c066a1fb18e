"""Where a network's own code takes numbers out of a run, to do with them what no operation of torch tells.

`item()`, `bool()` and `float()` are operations of ATen, which the recorder sees. `numpy()`, `tolist()` and the like
read memory; torch tells of them as functions only.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuralign.symmetry.tracing.recording import Recorder

# what gives the numbers of a tensor, or the memory that they lie in, to others than torch
NUMBERS = {
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
# what gives the shape of a tensor: a number where a mask or `nonzero` has made it
SHAPES = {
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
    """Tells a recorder of tensors whose numbers, or whose shape, Python reads."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.recorder.busy and (func in NUMBERS or func in SHAPES):
            for tensor in [a for a in args if isinstance(a, Tensor)]:
                self.recorder.read(tensor, shape=func in SHAPES)
        return func(*args, **(kwargs or {}))
