"""The trainings whose steps are timed, with batch sizes and attacks from config.yaml, and the seconds of a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from benchmarks import problems
from benchmarks.alignment import alignment_problem
from benchmarks.gpu import paper
from benchmarks.problems import REGIME, Problem, augment, pictures
from benchmarks.timing import Action, interleaved
from neuralign.config.catalogue import Catalogue
from neuralign.config.plugins import plugin
from neuralign.training import loop
from neuralign.training.progress import Attack, Regime

PRECISIONS = ("float32", "bfloat16")
Steps = Callable[[int], Action]  # number of steps -> an epoch of so many steps, ready to be called


@dataclass(frozen=True)
class Kind:
    """One kind of training: its name, the settings of its steps, and the epoch of any number of steps."""

    name: str
    batch_size: int
    precisions: tuple[str, ...]
    epoch: Callable[[str], Steps]  # precision -> steps


def kinds(c: Catalogue, network: str, device: str) -> Iterator[Kind]:
    """An endpoint, a curve, an endpoint under attack, and PAM, as the config trains them on CIFAR-10."""
    for name, kind, settings in paper.trainings(c, network):
        yield _gradient_descent(name, kind, network, settings, device)
    yield _pam(c, network, device)


def problem(network: str, settings: dict[str, Any], device: str) -> Problem:
    """Random networks of a job's settings, on the device."""
    model = settings["model"]
    return Problem.of(network, model["network"], device, normalise=model["normalise"])


def timed_regime(settings: dict[str, Any], precision: str) -> Regime:
    """One epoch with the batch size of a job's settings, and a learning rate at which random images are no trouble."""
    return replace(REGIME, batch_size=settings["training"]["batch_size"], precision=precision)


def attack_of(settings: dict[str, Any]) -> Attack | None:
    """The attack of a job's settings."""
    return plugin("attacks", settings["attack"]) if settings["attack"] else None


def seconds_per_step(steps: Steps, lengths: tuple[int, int], repeats: int, device: str) -> list[float]:
    """Seconds of a step in each round.

    They are those of the longer of two epochs less those of the shorter one, so that what a training does once, such
    as recording its step, does not count.
    """
    short, long = interleaved(*(steps(length) for length in lengths), repeats=repeats, device=device)
    return [(b - a) / (lengths[1] - lengths[0]) for a, b in zip(short, long, strict=True)]


@contextmanager
def recording(wanted: bool) -> Iterator[None]:
    """A block in which new trainings record their steps as CUDA graphs, as they do by themselves, or do not."""
    if wanted:
        yield
        return
    with mock.patch.object(loop, "recorded", lambda step, *_: step):
        yield


def _gradient_descent(name: str, kind: problems.Kind, network: str, settings: dict[str, Any], device: str) -> Kind:
    """The training of an endpoint or a curve."""
    networks, attack = problem(network, settings, device), attack_of(settings)
    size = settings["training"]["batch_size"]

    def epoch(precision: str) -> Steps:
        regime = timed_regime(settings, precision)

        def of_length(count: int) -> Action:
            images = pictures(size * count, device)
            return lambda: loop.fit(networks.training(kind, images, regime, augment(), attack))

        return of_length

    return Kind(name, size, PRECISIONS, epoch)


def _pam(c: Catalogue, network: str, device: str) -> Kind:
    """The training of relaxed permutations, with as little as possible of what PAM does besides."""
    settings = paper.alignment(c, network, "pam_unaligned").settings
    method = settings["method"] | {"epochs": 1, "candidates": 0, "scoring_batches": 1}
    size = method["batch_size"]
    pair = alignment_problem(settings["model"]["network"], pictures(size, device), device)

    def of_length(count: int) -> Action:
        aligned = replace(pair, examples=pictures(size * count, device), transform=augment())
        return lambda: plugin("alignments", method)(aligned)

    return Kind("PAM", size, ("float32",), lambda precision: of_length)
