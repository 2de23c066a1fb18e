"""Training steps as CUDA graphs. A step of a small network is hundreds of kernels, and launching one takes longer than
running it; a graph launches them all at once. The numbers are the same, to the bit.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralign.common.seeding import global_generator

log = logging.getLogger(__name__)

REHEARSALS = 3  # steps before a recording, in which libraries choose kernels and take their memory
PLAIN = (bool, int, float, str, bytes, type(None))

Step = Callable[..., None]


class NotRecordable(RuntimeError):
    """A step that must not be recorded; the message says why."""


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """A block whose work runs on a CUDA stream of its own, which recording needs; nothing of the kind on a CPU."""
    if device.type != "cuda":
        yield
        return
    outside, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(outside)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        outside.wait_stream(stream)


def recorded(step: Step, changed: Sequence[Tensor], generators: Sequence[torch.Generator], network: nn.Module) -> Step:
    """`step` as it is on a CPU; on CUDA a function that does the same by replaying a graph of it.

    A graph repeats its kernels and nothing else, so a step is recorded only where it never waits for the device and
    leaves everything in Python as it was (see `_rehearse`); elsewhere it runs as it is, and the log says why.

    Args:
        step: takes tensors and changes tensors in place; each shape of its inputs is recorded once.
        changed: every tensor that it changes.
        generators: of the device, from which it draws, besides torch's own.
        network: what it calls.
    """
    return _Recorder(step, changed, generators, network) if changed[0].is_cuda else step


class _Recorder:
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
        graph, held = self.graphs[shapes]
        for mine, theirs in zip(held, inputs, strict=True):
            mine.copy_(theirs)
        graph.replay()

    def _record(self, inputs: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        """A graph of the step and the tensors it reads its inputs from; everything is left as it was."""
        drawing = [*self.generators, global_generator(inputs[0].device)]
        values, states = [t.clone() for t in self.changed], [g.get_state() for g in drawing]
        try:
            self._rehearse(inputs)
            graph, held = torch.cuda.CUDAGraph(), [t.clone() for t in inputs]
            for generator in self.generators:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.step(*held)
        finally:
            for tensor, value in zip(self.changed, values, strict=True):
                tensor.copy_(value)
            for generator, state in zip(drawing, states, strict=True):
                generator.set_state(state)
        return graph, held

    def _rehearse(self, inputs: Sequence[Tensor]) -> None:
        """Run the step a few times. Raises where it reads from the device or where Python is not left as it was."""
        before = python_state(self.network)
        with _no_waiting():
            for _ in range(REHEARSALS):
                self.step(*inputs)
        after = python_state(self.network)
        if different := [name for name in before | after if before.get(name) != after.get(name)]:
            raise NotRecordable(f"a step changes {different[0]}, which a graph would leave as it is")


@contextmanager
def _no_waiting() -> Iterator[None]:
    """A block in which an operation that waits for the device raises RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # is a prototype that may miss something
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def python_state(network: nn.Module) -> dict[str, Any]:
    """What a step could change without the device's knowledge, by name: generators of the CPU, attributes of modules.

    Layers left out at random, or a count of calls, would be frozen in a graph.
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
