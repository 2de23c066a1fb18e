"""Several small networks trained in turns in one process, against the same trainings one after another."""

from dataclasses import replace

from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, augment, pictures
from benchmarks.timing import Row, interleaved, row
from neuralign.datasets.images import Images
from neuralign.training.loop import Training
from neuralign.training.simultaneous import fit_together

COUNT, STEPS = 4, 6  # number of networks; steps of an epoch


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """A row for each network. On a CPU there is no gain; parallel jobs use its cores better."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        images = pictures(REGIME.batch_size * (1 if quick else STEPS), device)
        problem, count = Problem.of(name, entry, device), 2 if quick else COUNT
        alone, together = interleaved(
            lambda problem=problem, images=images, count=count: [
                _train(problem, [seed], images) for seed in range(count)
            ],
            lambda problem=problem, images=images, count=count: _train(problem, range(count), images),
            repeats=2 if quick else 5,
            device=device,
        )
        note = f"{len(images) // REGIME.batch_size} steps of {REGIME.batch_size} images for each"
        rows.append(row(f"{name}: {count} in turn / together", baseline=alone, ours=together, note=note))
    return rows


def _train(problem: Problem, seeds: list[int] | range, images: Images) -> None:
    regime = replace(REGIME, epochs=1)
    fit_together([_training(problem, seed, images, regime) for seed in seeds])


def _training(problem: Problem, seed: int, images: Images, regime: object) -> Training:
    start = problem.curve.ends[seed % 2]
    arguments = (problem.model, start, lambda weights, _: weights, problem.layout, problem.buffers, images, regime)
    return Training(*arguments, transform=augment(), seed=seed)
