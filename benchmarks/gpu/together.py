"""Several trainings at once on one GPU: in one process, each on its CUDA stream, and in several processes."""

import multiprocessing
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from threading import BrokenBarrierError
from typing import Any

import torch

from benchmarks.gpu import paper
from benchmarks.gpu.memory import peak, release, used
from benchmarks.gpu.result import Result
from benchmarks.gpu.trainings import PRECISIONS, problem, seconds_per_step, timed_regime
from benchmarks.problems import augment, pictures
from benchmarks.timing import Action, seconds_of
from neuralign.common.seeding import preserved_generators
from neuralign.training.cuda_graphs import side_streams
from neuralign.training.simultaneous import fit_together

WARM_UP = 10  # steps of a process before it is timed; the first one is recorded
PATIENCE = 300  # seconds that a process waits for the others to be ready


def measure(result: Result, device: str, quick: bool) -> None:
    """Endpoints of each network, trained at once: time of a step of one network, and memory."""
    c = paper.catalogue(quick)
    counts, lengths, repeats = ((1, 2), (1, 2), 1) if quick else ((1, 2, 4, 6), (32, 96), 5)
    for network, title in paper.networks(quick).items():
        settings = paper.training(c, network, "endpoint").settings
        for precision in PRECISIONS[-1:] if quick else PRECISIONS:
            what = f"{title}, endpoint, {precision}"
            for count in counts:
                _in_one_process(result, what, network, settings, precision, count, lengths, repeats, device)
    for network, title in paper.networks(quick).items():
        settings = paper.training(c, network, "endpoint").settings
        for count in counts[:1] if quick else counts:
            what = f"{title}, endpoint, float32, {count} processes"
            with result.part(what):
                _in_processes(result, what, network, settings, count, 2 if quick else 500, device)


def _in_one_process(
    result: Result,
    what: str,
    network: str,
    settings: dict[str, Any],
    precision: str,
    count: int,
    lengths: tuple[int, int],
    repeats: int,
    device: str,
) -> None:
    """The numbers of `count` trainings in this process."""
    networks, regime = problem(network, settings, device), timed_regime(settings, precision)

    def of_length(steps: int) -> Action:
        images = pictures(regime.batch_size * steps, device)

        def train() -> list[Any]:
            return fit_together(
                [networks.training("endpoint", images, regime, augment(), seed=seed) for seed in range(count)]
            )

        return train

    seconds = [s / count for s in seconds_per_step(of_length, lengths, repeats, device)]
    release(device)
    of_length(lengths[0])()
    note = f"batches of {regime.batch_size}, epochs of {lengths[0]} and {lengths[1]} steps"
    what = f"{what}, {count} in one process"
    result.number(f"{what}: time", [s * 1e3 for s in seconds], "ms a step of one network", note)
    result.number(f"{what}: speed", [regime.batch_size / s for s in seconds], "images/s in all", note)
    result.number(f"{what}: memory", [peak(device)[1] / count], "MiB a network", "reserved, without CUDA's own")


def _in_processes(
    result: Result, what: str, network: str, settings: dict[str, Any], count: int, steps: int, device: str
) -> None:
    """The numbers of `count` processes that train one network each."""
    spawn = multiprocessing.get_context("spawn")
    release(device)
    used_before = used(device)
    start = spawn.Barrier(count)
    arguments = (network, settings, steps, device)
    # a pool, because it notices a process that dies
    with ProcessPoolExecutor(count, spawn, initializer=_begin, initargs=(start,)) as pool:
        measured = [future.result() for future in [pool.submit(_train, *arguments) for _ in range(count)]]
    seconds, reserved, used_at_once = zip(*measured, strict=True)
    note = f"{steps} steps of {settings['training']['batch_size']} images in each process; n is the number of processes"
    result.number(f"{what}: time", [s / steps / count * 1e3 for s in seconds], "ms a step of one network", note)
    result.number(f"{what}: memory of PyTorch", reserved, "MiB a process", "reserved")
    of_one = (max(used_at_once) - used_before) / count
    result.number(f"{what}: memory", [of_one], "MiB a process", "taken from the card, with CUDA's own")


_start: Any = None  # in a process of the pool: the barrier at which all of them wait for each other


def _begin(start: Any) -> None:
    """Prepare a process of the pool."""
    global _start
    _start = start
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True


def _train(network: str, settings: dict[str, Any], steps: int, device: str) -> tuple[float, float, float]:
    """(seconds of the steps, MiB that PyTorch reserved, MiB in use on the card) of a training in this process.

    The steps begin when all processes are ready for them. An error in one ends the wait of the others.
    """
    try:
        regime = timed_regime(settings, "float32")
        images = pictures(regime.batch_size * (WARM_UP + steps), device)
        training = problem(network, settings, device).training("endpoint", images, regime, augment())
        remaining = training.steps()
        with preserved_generators(training.device), side_streams(training.device, 1) as (on_stream,), on_stream:
            deque(islice(remaining, WARM_UP), maxlen=0)
            _start.wait(PATIENCE)
            seconds = seconds_of(lambda: deque(islice(remaining, steps), maxlen=0), device)
        memory = peak(device)[1], used(device)
        _start.wait(PATIENCE)  # until all have seen how much is used
        return seconds, *memory
    except BrokenBarrierError:
        raise RuntimeError("another process has failed") from None
    except Exception:
        _start.abort()
        raise
