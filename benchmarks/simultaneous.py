"""Several small networks trained in turns in one process, against the same trainings one after another."""

from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, augment, pictures
from benchmarks.timing import Row, interleaved, row
from neuralign.training.loop import Training
from neuralign.training.simultaneous import fit_together

COUNT, STEPS = 4, 6  # number of networks; steps of an epoch


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """A row for each network. On a CPU there is no gain; parallel jobs use its cores better."""
    rows = []
    for name, entry in (SMALL if quick else NETWORKS).items():
        problem = Problem.of(name, entry, device)
        rows.append(_compare(problem, *((2, 1, 2) if quick else (COUNT, STEPS, 5)), device))
    return rows


def _compare(problem: Problem, count: int, steps: int, repeats: int, device: str) -> Row:
    """The row of `count` trainings of one epoch with `steps` steps."""
    images = pictures(REGIME.batch_size * steps, device)

    def training(seed: int) -> Training:
        return problem.training("endpoint", images, REGIME, augment(), seed=seed)

    alone, together = interleaved(
        lambda: [fit_together([training(seed)]) for seed in range(count)],
        lambda: fit_together([training(seed) for seed in range(count)]),
        repeats=repeats,
        device=device,
    )
    note = f"{steps} steps of {REGIME.batch_size} images for each"
    return row(f"{problem.name}: {count} in turn / together", baseline=alone, ours=together, note=note)
