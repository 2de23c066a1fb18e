"""Kernel launches per step, and how often the host waits for the GPU, counted on a pretended GPU.

`python -m benchmarks.launches` writes them to launches.csv. A small network is bound by its launches, each of which
takes microseconds, and by waits. A test demands that no step has more of either than that file says.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.alignment import alignment_problem
from benchmarks.gpu.trainings import recording
from benchmarks.pretended_gpu import Observations, pretended_gpu
from benchmarks.problems import NETWORKS, REGIME, Problem, augment, pictures
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.algorithms.pam import pam
from neuralign.config.plugins import Entry
from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure
from neuralign.training.attacks.pgd import pgd
from neuralign.training.batch_norm import refresh

FILE = Path(__file__).parent / "launches.csv"
COLUMNS = ("network", "step", "launches", "waits")
SIZE = 2  # images in a batch: the number of launches does not depend on it
ATTACK = partial(pgd, eps=8 / 255, step=2 / 255, steps=5)  # the paper's, in training
Action = Callable[[int], object]  # number of batches -> that many steps


def per_step(action: Action) -> Observations:
    """What one step does: the difference of an action with three steps and one with two.

    Steps are not recorded as CUDA graphs, whose replays are not counted.
    """
    with recording(False):
        two, three = (_observe(action, count) for count in (2, 3))
    return Observations(three.launches - two.launches, three.waits - two.waits, three.float64 - two.float64)


def _observe(action: Action, steps: int) -> Observations:
    with pretended_gpu() as seen:
        action(steps)
    return seen


def steps() -> Iterator[tuple[str, str, Action]]:
    """(network, name of the step, the action) of every step that is counted."""
    regime = replace(REGIME, batch_size=SIZE)
    bfloat16 = replace(regime, precision="bfloat16")
    for name, entry in NETWORKS.items():
        problem = partial(Problem.of, name, entry, "cuda")
        yield name, "endpoint", lambda n, p=problem: p().endpoint(_images(n), regime, augment())()
        yield name, "endpoint, bfloat16", lambda n, p=problem: p().endpoint(_images(n), bfloat16, augment())()
        yield name, "endpoint, PGD-5", lambda n, p=problem: p().endpoint(_images(n), regime, augment(), ATTACK)()
        yield name, "curve", lambda n, p=problem: p().bezier(_images(n), regime, augment())()
        yield name, "PAM", lambda n, e=entry: _pam(e, n)
        yield name, "alignment batch", lambda n, e=entry: _align(e, n)
        yield name, "statistics batch", lambda n, p=problem: _statistics(p(), n)
        yield name, "evaluation batch", lambda n, p=problem: _evaluate(p(), n, attacked=False)
        yield name, "evaluation batch, PGD-5", lambda n, p=problem: _evaluate(p(), n, attacked=True)


def _images(batches: int) -> Images:
    return pictures(SIZE * batches, "cuda")


def _pam(entry: Entry, batches: int) -> None:
    problem = alignment_problem(entry, _images(batches), "cuda")
    pam(problem, epochs=1, batch_size=SIZE, candidates=0, scoring_batches=1)


def _align(entry: Entry, batches: int) -> None:
    correlation(alignment_problem(entry, _images(batches), "cuda"), batch_size=SIZE)


def _statistics(problem: Problem, batches: int) -> None:
    parameters = problem.layout.views(problem.curve.ends[0])
    refresh(problem.model, parameters, problem.buffers, _images(batches).batches(SIZE))


def _evaluate(problem: Problem, batches: int, *, attacked: bool) -> None:
    state = problem.layout.views(problem.curve.ends[0]) | problem.buffers
    generator = torch.Generator("cuda")
    attack = ATTACK if attacked else None
    measure(problem.model, state, _images(batches), batch_size=SIZE, attack=attack, generator=generator)


def recorded() -> dict[tuple[str, str], tuple[int, int]]:
    """{(network, step): (launches, waits)} of launches.csv."""
    with FILE.open() as lines:
        return {(r["network"], r["step"]): (int(r["launches"]), int(r["waits"])) for r in csv.DictReader(lines)}


def main() -> None:
    """Write launches.csv."""
    torch.set_num_threads(1)
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for network, step, action in steps():
            seen = per_step(action)
            print(f"{network}, {step}: {seen.launches.total()} launches, waits: {dict(seen.waits)}", flush=True)
            writer.writerow([network, step, seen.launches.total(), seen.waits.total()])


if __name__ == "__main__":
    main()
