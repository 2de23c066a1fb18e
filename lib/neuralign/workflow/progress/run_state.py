"""The state of a run of the workflow, from the events that Snakemake logs: stages, jobs, failures and the time left."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from neuralign.workflow.progress import job_log
from neuralign.workflow.progress.words import stage

Group = tuple[str | None, ...]


class Estimate(NamedTuple):
    """How long a job is expected to take."""

    rule: str
    wildcards: Mapping[str, str]
    seconds: float
    is_measured: bool  # whether these come from measured times; else they are a rough guess
    needs: tuple[int, ...]  # the numbers of the jobs whose outputs it reads


@dataclass
class Stage:
    """The jobs of one rule."""

    total: int
    done: int = 0
    running: int = 0
    failed: int = 0


@dataclass
class Job:
    """A job that has been started."""

    number: int
    rule: str
    sentence: str
    log: Path | None
    started: float
    ended: float | None = None
    step: job_log.Step | None = None
    has_resumed: bool = False  # from a checkpoint, so that its time says nothing about others

    def seconds(self, now: float) -> float:
        """How long it has run, or ran."""
        return (self.ended or now) - self.started


@dataclass
class RunState:
    """Everything that the view shows. Times are seconds since 1970."""

    began: float
    stages: dict[str, Stage] = field(default_factory=dict)  # {rule: its jobs}, in the order of the workflow
    running: dict[int, Job] = field(default_factory=dict)
    done: dict[int, Job] = field(default_factory=dict)
    failed: dict[int, Job] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)  # rules that run nothing: names of studies
    estimates: dict[int, Estimate] = field(default_factory=dict)
    busy: float = 0.0  # seconds that jobs have run for, those at the same time added

    # events

    def plan(self, jobs_by_rule: Mapping[str, int]) -> None:
        """Snakemake has counted the jobs."""
        self.stages = {rule: Stage(count) for rule, count in jobs_by_rule.items() if rule != "total"}

    def estimate(self, estimates: Mapping[int, Estimate], targets: Iterable[str]) -> None:
        """The estimates of the jobs are there; they also say in which order the stages come."""
        self.estimates, self.targets = dict(estimates), list(targets)
        depths: dict[str, int] = {}
        for number, depth in self._depths().items():
            rule = self.estimates[number].rule
            depths[rule] = max(depth, depths.get(rule, 0))
        kept = [rule for rule in self.stages if rule not in self.targets]
        self.stages = {rule: self.stages[rule] for rule in sorted(kept, key=lambda rule: depths.get(rule, 0))}

    def start(self, number: int, rule: str, sentence: str | None, log: Path | None, now: float) -> Job | None:
        """A job is started, or started again; None if it is a target, which runs nothing."""
        if rule in self.targets:
            return None
        of_rule = self.stages.setdefault(rule, Stage(0))
        if self.failed.pop(number, None):
            of_rule.failed -= 1
        of_rule.running += 1
        of_rule.total = max(of_rule.total, of_rule.done + of_rule.running + of_rule.failed)
        self.running[number] = Job(number, rule, sentence or stage(rule), log, now)
        return self.running[number]

    def finish(self, number: int, now: float) -> Job | None:
        """A job has succeeded; None if it is not known."""
        job = self._end(number, now)
        if job:
            job.has_resumed = job.log is not None and job_log.has_resumed(job.log)
            self.done[number] = job
            self.stages[job.rule].done += 1
        return job

    def fail(self, number: int, now: float) -> Job | None:
        """A job has failed; None if it is not known, was known to have failed, or has been interrupted."""
        if (job := self._end(number, now)) and job.log and job_log.was_interrupted(job.log):
            return None
        if job:
            self.failed[number] = job
            self.stages[job.rule].failed += 1
        return job

    def read_logs(self, now: float) -> None:
        """Look how far the running jobs are."""
        for job in self.running.values():
            if job.log and (step := job_log.last_step(job.log, job.started, now)):
                job.has_resumed = job.has_resumed if job.step else job_log.has_resumed(job.log)
                job.step = step

    # answers

    def counts(self) -> tuple[int, int]:
        """(jobs that are done, all jobs)."""
        return len(self.done), sum(stage.total for stage in self.stages.values())

    def blocked(self) -> set[int]:
        """The numbers of the jobs that cannot run because one that they need has failed."""
        blocked: set[int] = set()
        unusable = set(self.failed)
        while unusable:
            unusable = {n for n, e in self.estimates.items() if n not in blocked and unusable.intersection(e.needs)}
            blocked |= unusable
        return blocked

    def seconds_left(self, now: float) -> float | None:
        """Estimated time until all jobs that can run are done; None as long as that of some is not known.

        It is what is left of all jobs, divided by the number of jobs that have run at the same time until now; but at
        least what is left of the longest of those that are running.
        """
        if not self.estimates:
            return None
        ratios, begun = self._ratios(now), self.done.keys() | self.running.keys() | self.failed.keys() | self.blocked()
        waiting = [self._expected(number, ratios) for number in self.estimates if number not in begun]
        running = [self._left_of(job, ratios, now) for job in self.running.values()]
        if None in waiting or None in running:
            return None
        at_once = (self.busy + sum(job.seconds(now) for job in self.running.values())) / max(now - self.began, 1.0)
        total = sum(seconds or 0.0 for seconds in [*waiting, *running])
        return max([total / max(at_once, 1.0), *(seconds or 0.0 for seconds in running)])

    def _depths(self) -> dict[int, int]:
        """{number of a job: how many jobs come one after another before it}."""
        depths: dict[int, int] = {}

        def depth(number: int) -> int:
            if number not in depths:
                needs = [other for other in self.estimates[number].needs if other in self.estimates]
                depths[number] = 1 + max(map(depth, needs), default=0)
            return depths[number]

        for number in self.estimates:
            depth(number)
        return depths

    def _end(self, number: int, now: float) -> Job | None:
        job = self.running.pop(number, None)
        if job:
            job.ended = now
            self.busy += job.seconds(now)
            self.stages[job.rule].running -= 1
        return job

    def _left_of(self, job: Job, ratios: Mapping[Group, float], now: float) -> float | None:
        """What is left of a running job: as it says itself, else as estimated; 0.0 for jobs of other workflows."""
        if job.step and job.step.seconds_left is not None:
            return job.step.seconds_left
        if job.number not in self.estimates:
            return 0.0
        expected = self._expected(job.number, ratios)
        return None if expected is None else max(0.0, expected - job.seconds(now))

    def _expected(self, number: int, ratios: Mapping[Group, float]) -> float | None:
        """The seconds that a job will take: its estimate, corrected by those of jobs like it; None if it is a guess."""
        estimate = self.estimates[number]
        ratio = next((ratios[group] for group in _groups(estimate) if group in ratios), None)
        if ratio is None:
            return estimate.seconds if estimate.is_measured else None
        return estimate.seconds * ratio

    def _ratios(self, now: float) -> dict[Group, float]:
        """The ratio of observed to estimated seconds in each group of jobs.

        Observed are jobs that are done, and those that say themselves how long they will take; but no training that
        went on from a checkpoint.
        """
        observed: dict[Group, float] = defaultdict(float)
        estimated: dict[Group, float] = defaultdict(float)
        for job in [*self.done.values(), *self.running.values()]:
            left = 0.0 if job.ended else job.step.seconds_left if job.step else None
            if left is None or job.has_resumed or job.number not in self.estimates:
                continue
            estimate = self.estimates[job.number]
            for group in _groups(estimate):
                observed[group] += job.seconds(now) + left
                estimated[group] += estimate.seconds
        return {group: observed[group] / estimated[group] for group in observed}


def _groups(estimate: Estimate) -> list[Group]:
    """The groups of jobs that a job belongs to, those that are most like it first."""
    rule, place = estimate.rule, (estimate.wildcards.get("dataset"), estimate.wildcards.get("network"))
    return [(rule, *place), place, (rule,), ()] if all(place) else [(rule,)]
