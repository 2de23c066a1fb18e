"""Whether the GPU computes the right numbers: the same bits twice, those of the CPU, and every rule of the workflow."""

import csv
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice, zip_longest
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu import paper
from benchmarks.gpu.jobs import Call, Jobs, do, path_jobs
from benchmarks.gpu.result import Result
from benchmarks.gpu.trainings import PRECISIONS, attack_of, problem, recording, timed_regime
from benchmarks.problems import Kind, Problem, augment, pictures
from neuralign.common.seeding import preserved_generators
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.datasets.images import as_is
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.cuda_graphs import side_streams
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Attack, Progress, Regime
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import job_name
from neuralign.workflow.planning.costs import TRAININGS, Sizes, has_training_steps

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("config.yaml", "tests/smoke.yaml", "tests/everything.yaml")
STUDIES = ("smoke", "everything")
OTHER_PARTNERS, TEXTS = "share of units with other partners", "cells with other texts"
# Largest differences between a GPU and a CPU; losses are in nats, accuracies in percent. A GPU convolves in TF32; where
# attacks or trainings are part of a job, they also draw other random numbers there.
ALLOWED = {"loss": 0.01, "accuracy": 1.0, OTHER_PARTNERS: 0.1, TEXTS: 0}
ALLOWED_WITH_DRAWS = {"loss": 0.2, "accuracy": 5.0, OTHER_PARTNERS: 0.25, TEXTS: 0}


def measure(result: Result, device: str, quick: bool) -> None:
    """Bits of trainings, one epoch on GPU and CPU, and all jobs that run every rule."""
    c = paper.catalogue(quick)
    for network, title in paper.networks(quick).items():
        for name, kind, settings in paper.trainings(c, network):
            for precision in PRECISIONS[-1:] if quick else PRECISIONS:
                regime = replace(timed_regime(settings, precision), epochs=2)
                what = f"{title}, {name}, {precision}"
                with result.part(what):
                    networks, attack = problem(network, settings, device), attack_of(settings)
                    _same_bits(result, what, networks, kind, regime, attack, quick, device)
        with result.part(f"{title}, an epoch"):
            _same_epoch(result, title, network, paper.training(c, network, "endpoint").settings, quick, device)
    _every_rule(result, device, quick)


def _same_bits(
    result: Result,
    what: str,
    networks: Problem,
    kind: Kind,
    regime: Regime,
    attack: Attack | None,
    quick: bool,
    device: str,
) -> None:
    """Check that a training gives the same bits again, not recorded, and when it is resumed in its second epoch."""
    steps = 2 if quick else 20  # of an epoch, besides one with a short batch
    images = pictures(regime.batch_size * steps + regime.batch_size // 2, device)

    def training(keeper: Checkpoint | None = None) -> Training:
        return networks.training(kind, images, regime, augment(), attack, keeper=keeper)

    recorded = training()
    first = _tensors(fit(recorded))
    if device == "cuda":
        graphs = len(getattr(recorded._recorded_step, "graphs", {}))
        result.check(f"{what}: recorded, for both sizes of batches", graphs == 2, found=graphs, allowed=2)
    again = _tensors(fit(training()))
    with recording(False):
        launched = _tensors(fit(training()))
    with tempfile.TemporaryDirectory() as folder:
        begun = training(Checkpoint(folder, every=0))
        with (
            preserved_generators(images.labels.device),
            side_streams(images.labels.device, 1) as (on_stream,),
            on_stream,
        ):
            deque(islice(begun.steps(), steps + 2), maxlen=0)  # into the second epoch
        resumed_training = training(Checkpoint(folder, every=inf))
        at = (resumed_training.progress.epoch, resumed_training.progress.step)
        resumed = _tensors(fit(resumed_training))
    result.check(f"{what}: resumed after epoch, step", at == (1, 1), found=at, allowed=(1, 1))
    for way, tensors in (("again", again), ("not recorded", launched), ("resumed", resumed)):
        different = [name for name in first if not torch.equal(first[name], tensors[name])]
        result.check(f"{what}: tensors with other bits, {way}", not different, found=different, allowed=[])


def _tensors(progress: Progress) -> dict[str, Tensor]:
    return {"trainable": progress.trainable} | progress.optimiser | progress.buffers


def _same_epoch(result: Result, title: str, network: str, settings: dict[str, Any], quick: bool, device: str) -> None:
    """Check loss and accuracy of an epoch without augmentation against the CPU's."""
    rows = []
    for place in (device, "cpu"):
        regime = timed_regime(settings, "float32")
        images = pictures(regime.batch_size * (2 if quick else 8), place)
        training = problem(network, settings, place).training("endpoint", images, regime, as_is)
        rows += fit(training).history
    for column in ("loss", "accuracy"):
        apart = abs(rows[0][column] - rows[1][column])
        what = f"{title}: {column} of an epoch, apart from the CPU's"
        result.check(what, apart <= ALLOWED[column], found=apart, allowed=ALLOWED[column])


def _every_rule(result: Result, device: str, quick: bool) -> None:
    """Do every job that computes on the device, and those that train nothing also on the CPU, from the same inputs."""
    c = Catalogue(read_config(ROOT / name for name in CONFIGS))
    described = {job_name(rule, w): (rule, w) for study in STUDIES for rule, w, _ in path_jobs(jobs(c, study))}
    if quick:  # one job for each rule that computes with networks
        described = {rule: (rule, w) for rule, w in reversed(described.values()) if rule != "fetch_data"}
    with tempfile.TemporaryDirectory() as folder:
        done = Jobs(c, Path(folder, "device"), device)
        if quick:
            done.supply("small_digits", paper.random_dataset(Sizes(80, 40, channels=1, side=16, classes=10)))
        for number, (rule, wildcards) in enumerate(described.values()):
            what = " ".join(["job", rule, *wildcards.values()])
            with result.part(what):
                outputs = done.make(rule, wildcards)
                seconds = done.seconds[job_name(rule, wildcards)]
                result.number(what, [seconds], "s", "the first time in this process")
                if rule not in ("fetch_data", *TRAININGS):
                    call = done.call(rule, wildcards)
                    (others,) = do([call], [Path(folder, "cpu", str(number))], "cpu")
                    _check_differences(result, what, call, differences(outputs, others))


def _check_differences(result: Result, what: str, call: Call, apart: dict[str, float]) -> None:
    """Check that what is `apart` between the outputs of a job on two devices is within its bounds."""
    allowed = ALLOWED_WITH_DRAWS if draws(call) else ALLOWED
    passed = all(difference <= allowed.get(name, inf) for name, difference in apart.items())
    nonzero = {name: difference for name, difference in apart.items() if difference}
    result.check(f"{what}: apart from the CPU's", passed, found=nonzero, allowed=allowed)


def draws(call: Call) -> bool:
    """Whether a job draws random numbers on its device: it attacks images, or it aligns by gradient descent."""
    settings = call.settings
    attacks = (settings.get("attacks"), settings.get("attack"), settings.get("protocol", {}).get("attacked_statistics"))
    return any(attacks) or has_training_steps(call.rule, settings)


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, float]:
    """{what: largest difference} between the outputs of one job on two devices.

    `ours` and `theirs` are {output: path}. OTHER_PARTNERS is the share of units that a permutation maps elsewhere;
    TEXTS the number of cells of tables that are other texts, or missing; all other names are columns of tables.
    """
    apart: dict[str, float] = {}
    for name in ours:
        if name == "permutation":
            one, other = (load_file(outputs[name]) for outputs in (ours, theirs))
            moved = sum(int((one[group] != other[group]).sum()) for group in one)
            apart[OTHER_PARTNERS] = moved / max(1, sum(len(p) for p in one.values()))
        elif name != "moved":  # that table follows from the permutation
            for column, difference in _cell_differences(ours[name], theirs[name]):
                apart[column] = max(difference, apart.get(column, 0.0)) if column != TEXTS else apart.get(TEXTS, 0) + 1
    return apart


def _cell_differences(ours: str, theirs: str) -> Iterator[tuple[str, float]]:
    """(column, difference) for each cell of two tables that is a number; (TEXTS, 1) for each other one that differs."""
    tables = []
    for path in (ours, theirs):
        with Path(path).open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for one, other in zip_longest(*tables, fillvalue={}):
        for column in one | other:
            first, second = one.get(column, ""), other.get(column, "")
            try:
                yield column, abs(float(first) - float(second))
            except ValueError:  # a text, or no cell
                if first != second:
                    yield TEXTS, 1
