"""The seconds of a network's row in the paper's table of CIFAR-10, from its jobs on random images of that size.

Of jobs with the same settings one is done, by the script of its rule. A training is done with two numbers of epochs:
the difference gives the seconds of an epoch, and the config says how many there are.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import paper
from benchmarks.gpu.jobs import Call, Jobs, do
from benchmarks.gpu.result import Result
from benchmarks.timing import interleaved, seconds_of
from neuralign.config.catalogue import Catalogue
from neuralign.datasets.storage import save
from neuralign.workflow.job import Wildcards
from neuralign.workflow.planning.costs import TRAININGS

EPOCHS = (1, 3)  # of the trainings that are timed
TOGETHER = 6  # trainings at once, as by NEURALIGN_TOGETHER
SECONDS = {"tinyten": 900, "resnet32": 3600}  # targets for the row on one H200


@dataclass(frozen=True)
class Group:
    """Jobs of the row with equal settings, so that each takes as long as the others."""

    rule: str
    wildcards: list[Wildcards]
    epochs: int  # of a training; 0 for another job


def measure(result: Result, device: str, quick: bool) -> None:
    """The row of each network."""
    c = paper.catalogue(quick)
    starts = [_start_seconds(device, quick) for _ in range(1 if quick else 3)]
    start = result.number(
        "start of a job", starts, "s", "a process until its first steps are done, less these when warm"
    )
    for network, title in paper.networks(quick).items():
        groups = groups_of(c, network)
        count = sum(len(group.wildcards) for group in groups)
        with tempfile.TemporaryDirectory() as folder:
            jobs = Jobs(c, Path(folder), device, _with_few_epochs)
            jobs.supply(paper.DATASET, paper.random_dataset(paper.sizes(c, quick)))
            row = _Row(result, title, jobs, quick)
            alone, together = map(sum, zip(*map(row.seconds, groups), strict=True))
        note = f"{count} jobs: {dict(Counter(g.rule for g in groups for _ in g.wildcards))}; starts included"
        result.number(f"{title}: the row, one job after the other", [alone + count * start], "s", note)
        note = f"{note}; target {SECONDS[network]} s on one H200"
        result.number(f"{title}: the row, {row.at_once} trainings at once", [together + count * start], "s", note)


def groups_of(c: Catalogue, network: str) -> list[Group]:
    """The jobs of the row but the data, grouped by rule and settings without seeds; trainings of endpoints first."""
    groups: dict[str, Group] = {}
    for rule, wildcards, job in paper.row(c, network):
        settings = {name: value for name, value in job.settings.items() if name != "seed"}
        epochs = settings["training"]["epochs"] if rule in TRAININGS else 0
        group = groups.setdefault(json.dumps([rule, settings], sort_keys=True), Group(rule, [], epochs))
        group.wildcards.append(wildcards)
    return sorted(groups.values(), key=lambda g: [*TRAININGS, g.rule].index(g.rule))


class _Row:
    """Times the jobs of one row."""

    def __init__(self, result: Result, title: str, jobs: Jobs, quick: bool):
        self.result, self.title, self.jobs = result, title, jobs
        self.at_once, self.repeats, self.warm_up = (2, 1, 0) if quick else (TOGETHER, 2, 1)

    def seconds(self, group: Group) -> tuple[float, float]:
        """Seconds of all jobs of a group: one after the other, and, where they are trainings, several at once."""
        count = len(group.wildcards)
        calls = [self.jobs.call(group.rule, wildcards) for wildcards in group.wildcards[: self.at_once]]
        if group.rule in TRAININGS:
            alone, together = (self._training_seconds(group, some) for some in (calls[:1], calls))
            return count * alone, count / len(calls) * together
        (seconds,) = self._timed([calls[:1]])
        curve = group.wildcards[0].get("curve", "")
        one = self.result.number(f"{self.title}: {group.rule} {curve}".strip(), seconds, "s a job", f"{count} jobs")
        return count * one, count * one

    def _training_seconds(self, group: Group, calls: list[Call]) -> float:
        """Seconds of trainings that are done at once, with all epochs of the config."""
        few, more = self._timed([[_with_epochs(call, n) for call in calls] for n in EPOCHS])
        what = f"{self.title}: {group.rule}, {len(calls)} at once"
        note = f"{group.epochs} epochs in batches of {calls[0].settings['training']['batch_size']}"
        epochs = [(b - a) / (EPOCHS[1] - EPOCHS[0]) for a, b in zip(few, more, strict=True)]
        rest = [a - EPOCHS[0] * e for a, e in zip(few, epochs, strict=True)]
        whole = [a + group.epochs * e for a, e in zip(rest, epochs, strict=True)]
        self.result.number(f"{what}: an epoch", epochs, "s", note)
        self.result.number(f"{what}: all but epochs", rest, "s", "reading, recording, writing")
        return self.result.number(f"{what}: in all", whole, "s", note)

    def _timed(self, variants: list[list[Call]]) -> list[list[float]]:
        """Seconds of each variant, which consists of jobs that are done at once, in each round."""
        folders = [self.jobs.folder / "timed" / str(number) for number in range(self.at_once)]
        actions = [lambda calls=calls: do(calls, folders[: len(calls)], self.jobs.device) for calls in variants]
        return interleaved(*actions, repeats=self.repeats, device=self.jobs.device, warm_up=self.warm_up)


def _with_epochs(call: Call, epochs: int) -> Call:
    return call._replace(settings=call.settings | {"training": call.settings["training"] | {"epochs": epochs}})


def _with_few_epochs(rule: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a job, whose training is short if it is one: other jobs only need its result."""
    return settings | {"training": settings["training"] | {"epochs": EPOCHS[0]}} if rule in TRAININGS else settings


def _start_seconds(device: str, quick: bool) -> float:
    """Seconds that a process takes longer for the first steps of a training than this one does once it is warm."""
    code = f"from benchmarks.gpu.row import first_steps; first_steps({device!r}, {quick!r})"
    environment_of_this = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    cold = seconds_of(lambda: subprocess.run([sys.executable, "-c", environment_of_this], check=True))
    first_steps(device, quick)
    return cold - seconds_of(lambda: first_steps(device, quick), device)


def first_steps(device: str, quick: bool) -> None:
    """An epoch of two steps, by the script of the rule."""
    c = paper.catalogue(quick)
    settings = paper.training(c, next(iter(paper.networks(quick))), "endpoint").settings
    few = replace(paper.sizes(c, quick), train=2 * settings["training"]["batch_size"], test=2)
    with tempfile.TemporaryDirectory() as folder:
        save(paper.random_dataset(few), f"{folder}/data")
        call = _with_epochs(Call("train_endpoint", {"data": f"{folder}/data"}, settings), 1)
        do([call], [Path(folder, "outputs")], device)
