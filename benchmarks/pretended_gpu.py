"""A pretended GPU for machines without one: tensors that say `cuda:0` and compute on the CPU.

In the block `pretended_gpu()` code takes the paths that it takes on a GPU, and what would go wrong there goes wrong
here: operands on two devices raise, generators of the wrong device raise, and whatever makes the host wait for the GPU
is recorded, as are the operations that would launch kernels. CUDA graphs are replayed from a list of operations, so
that what a graph would freeze is frozen. Results have the bits of the CPU.

It says nothing about speed, about the numbers of CUDA's own kernels, or about kernels that run at the same time.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
HERE = Path(__file__)
WRAPPERS = ("torch/_compile.py", "torch/_dynamo/eval_frame.py")  # which PyTorch puts around a dispatch mode
DEPTH = 12  # of the stack in which other dispatch modes are looked for
MANY = 10_000  # elements: float64 is slow on most GPUs, which does not matter for fewer
aten = torch.ops.aten
Operation = Any  # an overload of an ATen operation, such as aten.add.Tensor

COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}  # the operations that may span two devices
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# The results of these have sizes that only the device knows, or are numbers of Python: the host waits for them.
WAITING = {
    "_local_scalar_dense", "bincount", "equal", "histc", "is_nonzero", "masked_select", "nonzero", "repeat_interleave",
    "unique_consecutive", "unique_dim", "_unique2",
}  # fmt: skip
# These give memory a shape or reserve some, and launch nothing; views are recognised by their schema.
WITHOUT_KERNEL = {
    "_unsafe_view", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided",
}  # fmt: skip
DIFFERENTIATING = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)


@dataclass
class Observations:
    """What the pretended GPU was asked to do."""

    # {operation: number of calls}, without those of graphs that are replayed
    launches: Counter[str] = field(default_factory=Counter)
    # {(what the host waits for, file and line): number of times}
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    # {(operation, file and line): number of calls with a result in float64 of more than MANY elements}
    float64: Counter[tuple[str, str]] = field(default_factory=Counter)
    replays: int = 0  # of CUDA graphs


class GpuTensor(torch.Tensor):
    """A tensor that says `cuda:0`; its numbers are in `on_cpu`."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "GpuTensor":
        strides, offset = on_cpu.stride(), on_cpu.storage_offset()
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, on_cpu.size(), strides=strides, storage_offset=offset, dtype=on_cpu.dtype, layout=on_cpu.layout
        )
        wrapper.on_cpu = on_cpu
        return wrapper

    # For PyTorch's C++ code this is a tensor of the CPU, so that `backward` needs no CUDA. Python code sees these.
    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Operation, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the pretended GPU is used outside of its block")

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.on_cpu.untyped_storage()  # two views of the same memory are recognised by it

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"GpuTensor({self.on_cpu!r})"


class _Generator(torch.Generator):
    """A generator that says on which device it is, and draws on the CPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        generator = super().__new__(cls, "cpu")
        generator.pretended = _with_index(torch.device(device))
        return generator

    def __init__(self, device: torch.device | str = "cpu"):
        pass

    @property
    def device(self) -> torch.device:
        return self.pretended


class _Stream:
    """A stream of the pretended GPU, which does everything at once."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def wait_stream(self, stream: "_Stream") -> None:
        pass

    def synchronize(self) -> None:
        pass


@dataclass
class _Call:
    """An operation that a graph repeats: on these tensors of the CPU, into the memory of this result."""

    func: Operation
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any


class _Gpu:
    """The state of the pretended GPU, and how it does an operation."""

    def __init__(self) -> None:
        self.observations = Observations()
        self.generator = _Generator(GPU)  # CUDA's global one
        self.recording: list[_Call] | None = None  # the calls of the CUDA graph that is being recorded
        self.waiting_is_an_error = False
        self.differentiating = False  # whether the gradient of a tensor of the GPU is being computed
        self.stream = _Stream()

    def do(self, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operation, on the device on which CUDA would have it."""
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        name = func._overloadpacket.__name__
        on_gpu = _result_is_on_gpu(func, name, tensors, kwargs) or (not tensors and self._is_in_backward_of_gpu())
        if not on_gpu and not any(map(_is_on_gpu, tensors)):
            return func(*args, **kwargs)
        if torch.Tag.inplace_view in func.tags:  # such as `squeeze_`
            with no_dispatch():
                func(*args, **kwargs)  # changes the shape of the wrapper; that of the tensor within it changes below
        self._demand_one_device(func, name, args, tensors)
        self._note_waits(func, name, args, tensors, on_gpu)
        cpu_args, cpu_kwargs = tree_map(_to_cpu, args), {k: tree_map(_to_cpu, v) for k, v in kwargs.items()}
        if cpu_kwargs.get("device") is not None:
            cpu_kwargs["device"] = CPU
        result = self._compute(func, cpu_args, cpu_kwargs)
        if self.recording is not None:
            self.recording.append(_Call(func, cpu_args, cpu_kwargs, result))
        if not _is_view(func) and name not in WITHOUT_KERNEL and name not in WAITING and on_gpu:
            self._note_launch(name, result)
        return _wrapped(func, args, kwargs, result) if on_gpu else result

    def _is_in_backward_of_gpu(self) -> bool:
        """Whether autograd's C++ code does this operation, without any Python code in between but other modes.

        It makes tensors on the device of its arguments, which it takes to be the CPU.
        """
        return self.differentiating and _calling_function() == "_engine_run_backward"

    def _compute(self, func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The operation on tensors of the CPU; what it draws comes from the generator of the pretended GPU."""
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        outside = torch.default_generator.get_state()
        torch.default_generator.set_state(self.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(outside)

    def replay(self, calls: Sequence[_Call]) -> None:
        """Do the calls again, with the results in the same memory."""
        self.observations.replays += 1
        for call in calls:
            result = self._compute(call.func, call.args, call.kwargs)
            if not _is_view(call.func) and not _written_arguments(call.func):
                for old, new in zip(tree_flatten(call.result)[0], tree_flatten(result)[0], strict=True):
                    if isinstance(old, Tensor):
                        old.copy_(new)

    def _demand_one_device(self, func: Operation, name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
        """Raise RuntimeError where CUDA does: only single numbers and indices may be on the CPU beside the GPU."""
        on_cpu = [t for t in tensors if not _is_on_gpu(t)]
        if func in COPIES or not on_cpu or len(on_cpu) == len(tensors):
            return
        if func in INDEXING:
            allowed = _is_on_gpu(args[0]) and all(_is_on_gpu(t) or not t.dim() for t in args[2:3])
        else:
            pointwise = torch.Tag.pointwise in func.tags or name == "where"
            written = _written_arguments(func) and not _is_on_gpu(args[0])
            allowed = pointwise and not written and all(not t.dim() for t in on_cpu)
        if not allowed:
            shapes = ", ".join(f"{t.device} {tuple(t.shape)}" for t in tensors)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {shapes} in {func}, {_place()}"
            )

    def _note_waits(
        self, func: Operation, name: str, args: Sequence[Any], tensors: Sequence[Tensor], on_gpu: bool
    ) -> None:
        if name in WAITING:
            self.note_wait(name)
        elif func in COPIES and _is_on_gpu(tensors[-1] if name != "_to_copy" else tensors[0]) != on_gpu:
            self.note_wait("copy to the GPU" if on_gpu else "copy from the GPU")
        elif func in INDEXING:
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.note_wait("a mask as index")
            elif any(not _is_on_gpu(index) for index in indices):
                self.note_wait("an index on the CPU")

    def note_wait(self, what: str) -> None:
        """Record that the host waits. Raises RuntimeError where that is not allowed, as CUDA does."""
        self.observations.waits[what, _place()] += 1
        if self.recording is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}, {_place()}")
        if self.waiting_is_an_error:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}, {_place()}")

    def _note_launch(self, name: str, result: Any) -> None:
        self.observations.launches[name] += 1
        tensors = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        if any(t.dtype == torch.float64 and t.numel() > MANY for t in tensors):
            self.observations.float64[name, _place()] += 1

    def move(self, tensor: Tensor, to_gpu: bool) -> Tensor:
        """The tensor on the other device; autograd sees a copy. The tensor itself if it is there already."""
        if _is_on_gpu(tensor) == to_gpu:
            return tensor
        self.note_wait("copy to the GPU" if to_gpu else "copy from the GPU")
        moved: Tensor = _Move.apply(tensor, to_gpu)
        return moved


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Any, to_gpu: bool) -> Tensor:
        return GpuTensor(tensor.clone()) if to_gpu else tensor.on_cpu.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Tensor, None]:
        return (gradient.on_cpu if _is_on_gpu(gradient) else GpuTensor(gradient)), None


class _Operations(TorchDispatchMode):
    """Passes every ATen operation to the pretended GPU."""

    def __init__(self, gpu: _Gpu):
        super().__init__()
        self.gpu = gpu

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch would put a function of its own between the caller and the next one

    def __torch_dispatch__(self, func: Operation, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu.do(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Sees the calls of Python code, where C++ code would take everything to be on one device: moves, generators."""

    def __init__(self, gpu: _Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in DIFFERENTIATING:
            with patch.object(self.gpu, "differentiating", any(map(_is_on_gpu, tree_flatten(args[0])[0]))):
                return func(*args, **kwargs)
        if func in (Tensor.cpu, Tensor.cuda):
            return self.gpu.move(args[0], func is Tensor.cuda)
        if func is Tensor.to:
            return self._to(func, *args, **kwargs)
        if func is Tensor.new_tensor and _is_on_gpu(args[0]):
            return self.gpu.move(torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs), True)
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            del kwargs["device"]
            return self.gpu.move(func(*args, **kwargs), True)
        result = func(*args, **kwargs)
        if (generator := kwargs.get("generator")) is not None and generator.device.type != result.device.type:
            raise RuntimeError(
                f"Expected a '{result.device.type}' device type for generator but found '{generator.device.type}', "
                f"{_place()}"
            )
        return result

    def _to(self, func: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`tensor.to(...)` with any of its arguments: a device, a dtype, another tensor, a memory format."""
        kwargs.pop("non_blocking", None)
        other = kwargs.pop("other", None)
        for arg in args:
            if isinstance(arg, Tensor):
                other = arg
            elif isinstance(arg, torch.dtype):
                kwargs["dtype"] = arg
            elif isinstance(arg, str | torch.device):
                kwargs["device"] = arg
        if other is not None:
            kwargs |= {"device": other.device, "dtype": other.dtype}
        if (device := kwargs.pop("device", None)) is not None:
            tensor = self.gpu.move(tensor, torch.device(device).type == "cuda")
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        kwargs.setdefault("dtype", tensor.dtype)
        moved: Tensor = func(tensor, **kwargs)
        return moved


@contextmanager
def pretended_gpu() -> Iterator[Observations]:
    """A block in which there is one GPU, as far as PyTorch can tell, and what it was asked to do."""
    gpu = _Gpu()

    class Graph:
        """A CUDA graph, whose operations are replayed in their order."""

        calls: list[_Call]

        def register_generator_state(self, generator: torch.Generator) -> None:
            assert generator.device == GPU

        def replay(self) -> None:
            gpu.replay(self.calls)

    @contextmanager
    def record(graph: Graph, **_: Any) -> Iterator[None]:
        gpu.recording = graph.calls = []
        try:
            yield
        finally:
            gpu.recording = None

    def set_sync_debug_mode(mode: int | str) -> None:
        gpu.waiting_is_an_error = mode in (2, "error")

    replacements: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "pretended GPU",
        "mem_get_info": lambda *_: (2**36, 2**37),
        "synchronize": lambda *_: None,
        "default_generators": (gpu.generator,),
        "Stream": _Stream,
        "stream": lambda _: nullcontext(),
        "current_stream": lambda *_: gpu.stream,
        "CUDAGraph": Graph,
        "graph": record,
        "get_sync_debug_mode": lambda: 2 if gpu.waiting_is_an_error else 0,
        "set_sync_debug_mode": set_sync_debug_mode,
    }

    @contextmanager
    def open_safetensors(path: Any, framework: str, device: Any = "cpu", **_: Any) -> Iterator[Any]:
        with real_safe_open(path, framework=framework) as file:
            yield SimpleNamespace(get_tensors=lambda: {n: t.to(device) for n, t in file.get_tensors().items()})

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return real_autocast("cpu", *args, **kwargs)  # for C++ code all tensors are on the CPU

    real_autocast, real_safe_open = torch.autocast, safetensors.torch.safe_open
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in replacements.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.object(torch, "autocast", autocast))
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda self: self.clone()))
        stack.enter_context(patch.object(safetensors.torch, "safe_open", open_safetensors))  # that of `load_file`
        # `module.to` then makes new parameters: those of the CPU cannot become tensors of another class
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.enter_context(_Operations(gpu))
        stack.enter_context(_Calls(gpu))
        yield gpu.observations


def _is_on_gpu(tensor: Any) -> bool:
    return isinstance(tensor, GpuTensor)


def _to_cpu(value: Any) -> Any:
    return value.on_cpu if isinstance(value, GpuTensor) else value


def _with_index(device: torch.device) -> torch.device:
    return GPU if device.type == "cuda" else device


def _result_is_on_gpu(func: Operation, name: str, tensors: Sequence[Tensor], kwargs: Mapping[str, Any]) -> bool:
    """Whether the result of an operation is on the GPU."""
    if name == "copy_":
        return _is_on_gpu(tensors[0])
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "cuda":
        return True
    # C++ code passes "cpu" on as the device of its arguments, as in `new_zeros` and `zeros_like`
    return any(map(_is_on_gpu, tensors))


def _is_view(func: Operation) -> bool:
    """Whether the result shares the memory of an argument and nothing is written."""
    return not _written_arguments(func) and any(returned.alias_info for returned in func._schema.returns)


def _written_arguments(func: Operation) -> list[str]:
    """Names of the arguments that the operation changes in place."""
    return [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def _wrapped(func: Operation, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Any:
    """The result with tensors of the GPU: those that the operation changed in place, else new ones."""
    if written := _written_arguments(func):
        names = [a.name for a in func._schema.arguments]
        changed = [args[names.index(n)] if names.index(n) < len(args) else kwargs[n] for n in written]
        returned = func._schema.returns
        if not returned:
            return None
        if all(r.alias_info is not None for r in returned):
            return changed[0] if len(returned) == 1 else tuple(changed)
    return tree_map(lambda t: GpuTensor(t) if isinstance(t, Tensor) and not _is_on_gpu(t) else t, result)


def _calling_function() -> str:
    """The name of the function that has called an operation, past this module and the code of other dispatch modes."""
    frame: FrameType | None = sys._getframe(1)
    stack: list[str] = []
    while frame is not None and len(stack) < DEPTH:
        if not frame.f_code.co_filename.endswith((__file__, *WRAPPERS)):
            stack.append(frame.f_code.co_name)
        frame = frame.f_back
    if "__torch_dispatch__" in stack:  # of another mode, which has passed the operation on
        stack = stack[len(stack) - stack[::-1].index("__torch_dispatch__") :]
    return stack[0] if stack else ""


def _place() -> str:
    """File and line of the innermost code that is neither PyTorch's nor this module's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file != HERE and "torch" not in file.parts and "site-packages" not in file.parts:
            return f"{file.parent.name}/{file.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"
