"""Running in float64 what a network's own code would run in a coarser type."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRECISE = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
FINE = (torch.float64, torch.complex128)
COARSE_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
COARSE_TYPES = ("FloatTensor", "HalfTensor", "BFloat16Tensor")  # as in x.type(torch.FloatTensor)


def doubled(tensor: Tensor) -> Tensor:
    """The tensor in float64, a complex one in complex128; whole numbers as they are."""
    return tensor.to(precise(tensor.dtype))


def precise(dtype: torch.dtype) -> torch.dtype:
    """float64 for a floating-point type, complex128 for a complex one; any other as it is."""
    return torch.float64 if dtype.is_floating_point else PRECISE.get(dtype, dtype)


class Doubled(TorchFunctionMode):
    """Runs in float64 what a network's own code would cast to a coarser type, as norms of language models do.

    So are tensors that the code makes without naming a type, and constants that are neither parameters nor buffers,
    which meet numbers in float64.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in COARSE_CASTS or (func is Tensor.type and _names_coarse_type(args[1:])):
            return args[0].double()
        kwargs = dict(kwargs or {})
        args = tuple(precise(a) if isinstance(a, torch.dtype) else a for a in args)
        if isinstance(kwargs.get("dtype"), torch.dtype):
            kwargs["dtype"] = precise(kwargs["dtype"])
        tensors = _tensors([args, kwargs])
        if any(t.dtype in FINE for t in tensors) and any(_is_coarse(t) for t in tensors):
            kept = 1 if _writes(func) else 0  # what is written to keeps its memory
            args = (*args[:kept], *_all_doubled(args[kept:]))
            kwargs = {name: value if name == "out" else _all_doubled(value) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        return doubled(out) if not tensors and isinstance(out, Tensor) and _is_coarse(out) else out


def _is_coarse(tensor: Tensor) -> bool:
    return tensor.dtype != precise(tensor.dtype)


def _names_coarse_type(arguments: Sequence[Any]) -> bool:
    """Whether `Tensor.type` is asked for a coarse type by its old name or class."""
    names = [
        a if isinstance(a, str) else f"{getattr(a, '__module__', '')}.{getattr(a, '__name__', '')}" for a in arguments
    ]
    return any(name.rpartition(".")[2] in COARSE_TYPES for name in names)


def _writes(func: Any) -> bool:
    """Whether a function of torch works in place, by its name."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.startswith("__i") if name.startswith("__") else name.endswith("_"))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _all_doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return doubled(value) if _is_coarse(value) else value
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_all_doubled(part) for part in value)
    return value
