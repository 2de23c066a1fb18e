"""Processes that train together, for tests: they are started once and take calls of functions of the test modules."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Ranks:
    """Some processes in one process group."""

    def __init__(self, connections: list[Connection]):
        self.connections = connections

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(processes, *arguments)` in every process at once: what each returns, or raises if it fails."""
        for connection in self.connections:
            connection.send((function, arguments))
        answers = [
            connection.recv() if connection.poll(600) else (False, "no answer") for connection in self.connections
        ]
        assert all(worked for worked, _ in answers), "\n".join(str(text) for worked, text in answers if not worked)
        return [value for _, value in answers]


@contextmanager
def started(count: int, folder: Path) -> Iterator[Ranks]:
    """A block with so many processes; `folder` is empty."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_serve, args=(pipes[i][1], i, count, str(folder))) for i in range(count)]
    for process in processes:
        process.start()
    try:
        yield Ranks([pipe[0] for pipe in pipes])
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(connection: Connection, rank: int, count: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "NEURALIGN_RENDEZVOUS": f"file://{folder}/meeting"}
    import torch

    from neuralign.training.distributed.processes import joined

    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as processes:
        while True:
            function, arguments = connection.recv()
            try:
                connection.send((True, function(processes, *arguments)))
            except Exception:
                connection.send((False, traceback.format_exc()))
