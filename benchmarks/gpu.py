"""On a GPU: training steps, several trainings at once, synchronisations, and the time for the paper's table.

`python -m benchmarks.run gpu --device cuda`. Without a GPU it prints that it measures nothing.
"""

import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import attacks, training
from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, Ready, augment, pictures
from benchmarks.timing import Row, count, interleaved, limit, row, seconds_of
from neuralign.datasets.images import as_is
from neuralign.evaluation.along_curve import measure as measure_point
from neuralign.training.batch_norm import Estimate, refresh

PRECISIONS = ("float32", "bfloat16")
TRAIN, TEST, EPOCHS = 50_000, 10_000, 250  # images of CIFAR10; epochs in the paper
POINTS, IMAGES, FULL = 65, 1024, 9  # of a curve; for the statistics at each point; full passes that correct these
ENDPOINTS, CURVES = 6, 6  # three pairs, unaligned and aligned
SECONDS = {"TinyTen": 900, "ResNet32": 3600}  # targets for all of this on one H200
PROCESSES = (1, 2, 4)


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """The rows; [] without a GPU, unless `quick`, which runs the code on any device."""
    if not (quick or (device.startswith("cuda") and torch.cuda.is_available())):
        print("\ngpu: no GPU was asked for (--device cuda) or there is none; nothing measured")
        return []
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        problem = Problem.of(name, entry, device)
        steps, repeats = (1, 2) if quick else (100, 9)
        rows += _steps(problem, steps, repeats, device)
        rows.append(_synchronisations(problem, steps, device))
        rows += _simultaneous(name, steps, PROCESSES[:1] if quick else PROCESSES, device)
        rows.append(_paper_table(problem, steps, repeats, device))
    if not quick:
        rows += training.measure(device=device) + attacks.measure(device=device)
    return rows


def _steps(problem: Problem, steps: int, repeats: int, device: str) -> list[Row]:
    """For each precision: curve against endpoint steps, with augmentation against without; precisions compared."""
    size, name = REGIME.batch_size, problem.name
    images = pictures(size * steps, device)
    ready, rows = Ready.of(images, size), []
    first: list[float] = []
    for precision in PRECISIONS:
        regime = replace(REGIME, precision=precision)
        endpoint, curve, epoch = interleaved(
            problem.endpoint(ready, regime, as_is),
            problem.bezier(ready, regime, as_is),
            problem.endpoint(images, regime, augment()),
            repeats=repeats,
            device=device,
        )
        first, note = first or endpoint, f"{precision}, {steps} steps of {size}, channels last"
        target = training.LIMITS[name]
        rows += [
            row(f"{name}: curve step / endpoint step", baseline=endpoint, ours=curve, target=target, note=note),
            row(f"{name}: bare endpoint steps / epoch", baseline=endpoint, ours=epoch, target=">= 0.9", note=note),
            row(f"{name}: endpoint step / in {PRECISIONS[0]}", baseline=first, ours=endpoint, note=note),
        ]
    return rows


def _synchronisations(problem: Problem, steps: int, device: str) -> Row:
    """How many more synchronisations with the GPU an epoch has than an epoch of half as many steps, per step."""
    size = REGIME.batch_size
    counts = []
    for length in (steps, 2 * steps):
        epoch = problem.bezier(pictures(size * length, device), REGIME, augment())
        counts.append(synchronisations(epoch, device))
    note = f"{counts[0]} in an epoch of {steps} steps, {counts[1]} in one of {2 * steps}"
    per_step = (counts[1] - counts[0]) / steps
    return count(f"{problem.name}: synchronisations per step", per_step, target="<= 0", note=note)


def synchronisations(action: Callable[[], object], device: str) -> int:
    """Number of operations in `action` that synchronise with the GPU, as PyTorch reports them; 0 on a CPU."""
    action()  # once before, because the first call sets things up
    if not device.startswith("cuda"):
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)


def _simultaneous(name: str, steps: int, counts: tuple[int, ...], device: str) -> list[Row]:
    """Several trainings at once on one GPU, each in its own process, against the same trainings one after another."""
    alone: list[float] = []
    rows = []
    for together in counts:
        seconds = _seconds_at_once(name, steps, together, device)
        alone = alone or seconds
        baseline = [together * s for s in alone]
        note = f"each {steps} steps of {REGIME.batch_size}; the slowest process against {together} x one alone"
        rows.append(
            row(f"{name}: {together} trainings in turn / at once", baseline=baseline, ours=[max(seconds)], note=note)
        )
    return rows


def _seconds_at_once(name: str, steps: int, count: int, device: str) -> list[float]:
    """Seconds of each of `count` processes that train at the same time."""
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(count), spawn.Queue()
    workers = [spawn.Process(target=_worker, args=(name, steps, device, start, results)) for _ in range(count)]
    for worker in workers:
        worker.start()
    seconds = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return seconds


def _worker(name: str, steps: int, device: str, start, results) -> None:
    """The code of one process: after a warm-up and when all are ready, train one epoch and report its seconds."""
    torch.set_num_threads(1)
    entry = SMALL[name] if device == "cpu" else NETWORKS[name]
    epoch = Problem.of(name, entry, device).endpoint(pictures(REGIME.batch_size * steps, device), REGIME, augment())
    epoch()
    start.wait()
    results.put(seconds_of(epoch, device))


def _paper_table(problem: Problem, steps: int, repeats: int, device: str) -> Row:
    """Seconds for a network's rows in the paper's table, computed from the seconds per image of each part.

    Alignments are left out, because they are short.
    """
    images = pictures(REGIME.batch_size * steps, device)
    parameters = problem.layout.views(problem.curve.ends[0])
    state, estimate = {**parameters, **problem.buffers}, Estimate.on(images, augment(), batch_size=256, seed=0)

    def statistics() -> None:
        refresh(problem.model, parameters, problem.buffers, estimate.sample())

    def test() -> None:
        measure_point(problem.model, state, images, batch_size=512, attack=None, generator=torch.Generator(device))

    endpoint, curve, estimation, forward = interleaved(
        problem.endpoint(images, REGIME, augment()),
        problem.bezier(images, REGIME, augment()),
        statistics,
        test,
        repeats=repeats,
        device=device,
    )
    seconds = []
    for e, c, s, f in zip(endpoint, curve, estimation, forward, strict=True):
        trained = EPOCHS * TRAIN * (ENDPOINTS * e + CURVES * c)
        evaluated = CURVES * (FULL * TRAIN * s + POINTS * (IMAGES * s + TEST * f))
        seconds.append((trained + evaluated) / len(images))
    note = f"{ENDPOINTS} endpoints, {CURVES} curves, {EPOCHS} epochs, {POINTS} points; one process, float32"
    return limit(
        f"{problem.name}: rows of the table, CIFAR10", ours=seconds, target=f"<= {SECONDS[problem.name]}", note=note
    )
