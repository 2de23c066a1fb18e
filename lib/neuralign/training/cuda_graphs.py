"""Records training steps as CUDA graphs, which launch all kernels of a step at once.

A step of a small network consists of hundreds of kernels, each of which takes longer to launch than to run. Replaying
their graph gives the same bits.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralign.common.seeding import global_generator

log = logging.getLogger(__name__)

WARM_UPS = 3  # steps before a recording, in which libraries choose kernels and allocate workspaces
PLAIN = (bool, int, float, str, bytes, type(None))  # types of module attributes that a step must not change

Step = Callable[..., None]  # (tensors) -> None; changes tensors in place


class NotRecordable(RuntimeError):
    """The step must not be recorded as a graph; the message says why."""


@contextmanager
def side_streams(device: torch.device, count: int) -> Iterator[list[AbstractContextManager[Any]]]:
    """Yields `count` blocks whose kernels run each on a new CUDA stream; on a CPU they change nothing.

    Each may be entered several times. Kernels on different streams run concurrently, but after those that were launched
    before this block, and before those that are launched after it. Recording a graph requires such a stream.
    """
    if device.type != "cuda":
        yield [nullcontext()] * count
        return
    outside, streams = torch.cuda.current_stream(device), [torch.cuda.Stream(device) for _ in range(count)]
    for stream in streams:
        stream.wait_stream(outside)
    try:
        yield [torch.cuda.stream(stream) for stream in streams]
    finally:
        for stream in streams:
            outside.wait_stream(stream)


def recorded(step: Step, changed: Sequence[Tensor], generators: Sequence[torch.Generator], network: nn.Module) -> Step:
    """On CUDA, a function that does what `step` does by replaying a graph of it; on a CPU, `step` itself.

    A graph repeats kernels and nothing else. So a step is recorded only if it never synchronises with the device and
    leaves the Python state unchanged, which `_warm_up` checks. Otherwise it runs unrecorded, and the log says why.

    Args:
        step: takes tensors and changes tensors in place. It is recorded once for each combination of input shapes.
        changed: every tensor that the step changes and does not set first.
        generators: on the device, those that the step draws from besides torch's global one.
        network: the network that the step calls.
    """
    return _Recorder(step, changed, generators, network) if changed[0].is_cuda else step


class _Recorder:
    """A step that records itself on its first call with inputs of new shapes, and replays the graph."""

    def __init__(
        self, step: Step, changed: Sequence[Tensor], generators: Sequence[torch.Generator], network: nn.Module
    ):
        self.step, self.changed, self.generators, self.network = step, changed, generators, network
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}
        self.recordable = True

    def __call__(self, *inputs: Tensor) -> None:
        if not self.recordable:
            return self.step(*inputs)
        shapes = tuple(t.shape for t in inputs)
        if shapes not in self.graphs:
            try:
                self.graphs[shapes] = self._record(inputs)
            except RuntimeError as error:
                self.recordable = False
                log.info("steps are not recorded as a CUDA graph: %s", str(error).splitlines()[0])
                return self.step(*inputs)
        graph, graph_inputs = self.graphs[shapes]
        for graph_input, tensor in zip(graph_inputs, inputs, strict=True):
            graph_input.copy_(tensor)
        graph.replay()

    def _record(self, inputs: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        """A graph of the step, and the tensors from which it reads its inputs.

        The tensors that the step changed and the generators are restored. Raises RuntimeError if it is not recordable.
        """
        generators = [*self.generators, global_generator(inputs[0].device)]
        values, states = [t.clone() for t in self.changed], [g.get_state() for g in generators]
        try:
            self._warm_up(inputs)
            graph, graph_inputs = torch.cuda.CUDAGraph(), [t.clone() for t in inputs]
            for generator in self.generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.step(*graph_inputs)
        finally:
            for tensor, value in zip(self.changed, values, strict=True):
                tensor.copy_(value)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        return graph, graph_inputs

    def _warm_up(self, inputs: Sequence[Tensor]) -> None:
        """Run the step a few times. Raises RuntimeError if it synchronises or changes the Python state."""
        before = python_state(self.network)
        with _forbid_synchronisation():
            for _ in range(WARM_UPS):
                self.step(*inputs)
        after = python_state(self.network)
        if different := [name for name in before | after if before.get(name) != after.get(name)]:
            raise NotRecordable(f"a step changes {different[0]}, which a graph would not change")


@contextmanager
def _forbid_synchronisation() -> Iterator[None]:
    """A block in which an operation that synchronises with the device raises RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # warns that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def python_state(network: nn.Module) -> dict[str, Any]:
    """{name: value} of what a step might change in Python: generators of the CPU, and plain attributes of modules.

    A graph does not repeat such changes: a layer that is skipped at random, for example, would be skipped in every
    step or in none.
    """
    state: dict[str, Any] = {
        "torch's generator of the CPU": torch.default_generator.get_state().numpy().tobytes(),
        "the generator of `random`": random.getstate(),
        "the generator of numpy": str(np.random.get_state()),
    }
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if _is_plain(value):
                state[f"`{name}.{attribute}`".replace("`.", "`")] = repr(value)
    return state


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, PLAIN)
