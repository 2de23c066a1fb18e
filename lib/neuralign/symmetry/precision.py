"""Runs a network in float64, even where its own code casts to a coarser dtype."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuralign.symmetry.tracing.call import tensors_in

DOUBLE_COMPLEX = {torch.complex64: torch.complex128, torch.complex32: torch.complex128}
DOUBLE = (torch.float64, torch.complex128)
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
COARSE_TYPES = ("FloatTensor", "HalfTensor", "BFloat16Tensor")  # as in x.type(torch.FloatTensor)


def to_double(tensor: Tensor) -> Tensor:
    """The tensor in float64, a complex one in complex128; integers as they are."""
    return tensor.to(double_dtype(tensor.dtype))


def double_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for a floating-point dtype, complex128 for a complex one; any other as it is."""
    return torch.float64 if dtype.is_floating_point else DOUBLE_COMPLEX.get(dtype, dtype)


class DoublePrecision(TorchFunctionMode):
    """A `with` block in which casts to a coarser dtype give float64 instead (norms of language models have such casts).

    Tensors that the code makes without a dtype are float64 too. Tensors of a coarser dtype, such as constants that are
    neither parameters nor buffers, are cast wherever an operation joins them with float64 tensors.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in CASTS or (func is Tensor.type and _names_coarse_type(args[1:])):
            return args[0].double()
        kwargs = dict(kwargs or {})
        args = tuple(double_dtype(a) if isinstance(a, torch.dtype) else a for a in args)
        if isinstance(kwargs.get("dtype"), torch.dtype):
            kwargs["dtype"] = double_dtype(kwargs["dtype"])
        tensors = list(tensors_in([*args, *kwargs.values()]))
        if any(t.dtype in DOUBLE for t in tensors) and any(_is_coarse(t) for t in tensors):
            first = 1 if _works_in_place(func) else 0  # the tensor that is written to must stay the same object
            args = (*args[:first], *_all_to_double(args[first:]))
            kwargs = {name: value if name == "out" else _all_to_double(value) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        return to_double(out) if not tensors and isinstance(out, Tensor) and _is_coarse(out) else out


def _is_coarse(tensor: Tensor) -> bool:
    """Whether a tensor is floating point or complex, but not in double precision."""
    return tensor.dtype != double_dtype(tensor.dtype)


def _names_coarse_type(arguments: Sequence[Any]) -> bool:
    """Whether the arguments of `Tensor.type` name a coarse type, as a string or a class."""
    names = [
        a if isinstance(a, str) else f"{getattr(a, '__module__', '')}.{getattr(a, '__name__', '')}" for a in arguments
    ]
    return any(name.rpartition(".")[2] in COARSE_TYPES for name in names)


def _works_in_place(func: Any) -> bool:
    """Whether a function of torch works in place, by its name."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.startswith("__i") if name.startswith("__") else name.endswith("_"))


def _all_to_double(value: Any) -> Any:
    """An argument with its tensors in double precision, also within lists and tuples."""
    if isinstance(value, Tensor):
        return to_double(value) if _is_coarse(value) else value
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_all_to_double(part) for part in value)
    return value
