"""A lower bound on the time of a step: the FLOPs and bytes of its operations, at the speeds that the device reaches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.timing import Action, seconds_of


class Work(NamedTuple):
    """What an action computes and moves."""

    operations: float  # calls of PyTorch's operations that are not views; on a GPU about as many kernels
    flops: float  # of matrix products and convolutions
    bytes: float  # read and written, if every operation reads its inputs from memory and writes its results there

    def per_step(self, shorter: "Work", steps: int) -> "Work":
        """The work of one step, from that of two trainings of which this one has so many steps more."""
        return Work(*((ours - theirs) / steps for ours, theirs in zip(self, shorter, strict=True)))


class Speeds(NamedTuple):
    """What the device reaches."""

    flops: dict[str, float]  # {precision: FLOP/s of a large matrix product}
    bytes: float  # bytes/s read and written when a large tensor is copied

    def seconds(self, work: Work, precision: str) -> float:
        """The least time in which the device can do this work: its arithmetic and its memory overlap perfectly."""
        return max(work.flops / self.flops[precision], work.bytes / self.bytes)


class _Counter(TorchDispatchMode):
    """Adds up the work of all operations that run in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.flops, self.bytes = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:
            self.operations += 1
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        return result


def work_of(action: Action) -> Work:
    """The work of one call. A step that is replayed as a CUDA graph would not be seen: it must not be recorded."""
    with _Counter() as counter:
        action()
    return Work(counter.operations, counter.flops, counter.bytes)


def measured_speeds(device: str, *, quick: bool) -> Speeds:
    """The best of five matrix products in each precision, and of five copies.

    The product in float32 runs in TF32 on a GPU, as convolutions do.
    """
    side, numbers = (64, 2**10) if quick else (8192, 2**28)
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)
    flops = {}
    for precision in ("float32", "bfloat16"):
        matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
        with _products_in_tf32():
            flops[precision] = 2 * side**3 / _best(partial(torch.matmul, matrix, matrix), device)
    return Speeds(flops, 2 * source.nbytes / copy)


def _best(action: Callable[[], object], device: str) -> float:
    """The seconds of the fastest of five calls, after one that does not count."""
    action()
    return min(seconds_of(action, device) for _ in range(5))


@contextmanager
def _products_in_tf32() -> Iterator[None]:
    """A block in which matrix products of float32 run in TF32 on a GPU."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
