"""Several small networks at once: their steps stacked in one process, against the same trainings one after another."""

from dataclasses import replace

from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, augment, pictures
from benchmarks.timing import Row, interleaved, row
from neuralign.images import Images
from neuralign.training import Task, fit_together

COUNT, STEPS = 4, 6  # networks at once, steps of an epoch


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """A row for each network. On a CPU stacking is slower: parallel jobs are the way to use its cores."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        images = pictures(REGIME.batch_size * (1 if quick else STEPS), device)
        problem = Problem.of(name, entry, device)
        tasks = [_task(problem, seed) for seed in range(2 if quick else COUNT)]
        alone, together = interleaved(
            lambda problem=problem, tasks=tasks, images=images: [_train(problem, [task], images) for task in tasks],
            lambda problem=problem, tasks=tasks, images=images: _train(problem, tasks, images),
            repeats=2 if quick else 5,
            device=device,
        )
        note = f"{len(images) // REGIME.batch_size} steps of {REGIME.batch_size} images for each"
        rows.append(row(f"{name}: {len(tasks)} in turn / together", baseline=alone, ours=together, note=note))
    return rows


def _task(problem: Problem, seed: int) -> Task:
    return Task(problem.curve.ends[seed % 2], lambda weights, _: weights, problem.buffers, seed)


def _train(problem: Problem, tasks: list[Task], images: Images) -> None:
    fit_together(problem.model, tasks, problem.layout, images, replace(REGIME, epochs=1), transform=augment())
