"""Notes where a network's own code reads values of a tensor by other means than operations of ATen.

`item()`, `bool()` and `float()` are operations of ATen, which the recorder sees itself. `numpy()`, `tolist()` and the
like read memory, and reach PyTorch's function mode only.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuralign.symmetry.tracing.recording import Recorder

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
