"""The parts of an evaluation, test images and batch-norm statistics, and from them the time of a point of a curve."""

import torch

from benchmarks.gpu import paper
from benchmarks.gpu.memory import peak, release
from benchmarks.gpu.result import Result
from benchmarks.gpu.trainings import problem
from benchmarks.problems import Problem, pictures
from benchmarks.timing import Action, interleaved
from neuralign.config.plugins import plugin
from neuralign.evaluation.along_curve import measure as measure_point
from neuralign.training import augmentation
from neuralign.training.batch_norm import POINTS_AT_ONCE, Estimate, refresh_each
from neuralign.training.progress import Attack
from neuralign.workflow.planning.costs import estimation_images

BATCHES = 10  # of test images that are timed


def measure(result: Result, device: str, quick: bool) -> None:
    """Each part on random images, and seconds of a point with the numbers of images from the config."""
    c = paper.catalogue(quick)
    sizes, repeats = paper.sizes(c, quick), 1 if quick else 5
    for network, title in paper.networks(quick).items():
        settings = paper.evaluation(c, network, "robust").settings
        protocol = settings["protocol"]
        size, sample = protocol["batch_size"], estimation_images(protocol, sizes)
        networks = problem(network, settings, device)
        tests = {"clean": None} | {name: plugin("attacks", entry) for name, entry in settings["attacks"].items()}
        tested = size * (1 if quick else BATCHES)
        actions = {
            f"test images, {name}": (tested, _test(networks, tested, size, a, device)) for name, a in tests.items()
        }
        estimate = Estimate.on(
            pictures(sample, device), augmentation.pipeline(settings["augment"]), batch_size=size, seed=0
        )
        for points in (1, POINTS_AT_ONCE):
            what = f"statistics at {points} point{'s' * (points > 1)}, with augmentation"
            actions[what] = (sample * points, _statistics(networks, estimate, points))
        release(device)
        seconds = interleaved(*(action for _, action in actions.values()), repeats=repeats, device=device)
        per_image = {
            what: [s / images for s in rounds]
            for (what, (images, _)), rounds in zip(actions.items(), seconds, strict=True)
        }
        for what, rounds in per_image.items():
            result.number(f"{title}, {what}", [1 / s for s in rounds], "images/s", f"batches of {size}")
        *passes, _, at_once = per_image.values()
        for name, rounds in zip(tests, passes, strict=True):
            point = [sizes.test * t + sample * s for t, s in zip(rounds, at_once, strict=True)]
            note = f"{sample} images for the statistics, {sizes.test} test images"
            result.number(f"{title}, a point of a curve, {name}", point, "s", note)
        result.number(f"{title}, memory", peak(device)[:1], "MiB", "of tensors, for all of these at once")


def _test(networks: Problem, count: int, size: int, attack: Attack | None, device: str) -> Action:
    """A pass over test images."""
    state = networks.layout.views(networks.curve.ends[0]) | networks.buffers
    images, draws = pictures(count, device), torch.Generator(device)
    return lambda: measure_point(networks.model, state, images, batch_size=size, attack=attack, generator=draws)


def _statistics(networks: Problem, estimate: Estimate, points: int) -> Action:
    """An estimate of the statistics at some points."""
    place = networks.layout.views(networks.curve.ends[0])
    return lambda: refresh_each(networks.model, [place] * points, networks.buffers, estimate.sample())
