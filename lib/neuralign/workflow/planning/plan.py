"""The estimated cost of a study, rule by rule, before it is run.

Hours come from the notes of origin of finished jobs, scaled by the work (`costs.py`) of the jobs that are due. Without
such notes they come from a calibration of this machine, which is kept in results/.calibration.json. Each row of the
plan names its source.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neuralign.common.files import atomic
from neuralign.config.catalogue import Catalogue
from neuralign.datasets.dataset import Split
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Job, Wildcards, job_name
from neuralign.workflow.planning.costs import (
    TRAININGS,
    WORK,
    Counts,
    Sizes,
    TimedTraining,
    disk,
    has_training_steps,
    highest,
    memory,
    network_key,
    precision_of,
    rate,
    total,
    training_key,
    work,
)
from neuralign.workflow.planning.sizes import (
    arrays_by_making,
    arrays_in_file,
    published_sizes,
    sizes_by_making,
    sizes_in_file,
)
from neuralign.workflow.provenance.consistency import NOT_RESULTS
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import read_note, stands_for

CALIBRATION = ".calibration.json"


class Plan:
    """The plan of one study: how many jobs of each rule there are, which are done, and what the others will take."""

    def __init__(self, catalogue: Catalogue, study: str, results: Path):
        self.catalogue, self.results = catalogue, results
        self.jobs = list(jobs(catalogue, study))
        self.notes = read_notes(results)
        self.calibration = _read(results / CALIBRATION)
        self._sizes: dict[str, Sizes] = {}
        recipes = Recipes.without_paths(catalogue)
        self.done = {
            job_name(rule, w)
            for rule, w, _ in self.jobs
            if (note := self.notes.get(job_name(rule, w))) and stands_for(note, recipes.of(rule, w)["key"])
        }

    def calibrate(self) -> None:
        """Time a few steps of every network on this machine, and keep the result in a file for later plans."""
        from neuralign.workflow.planning.calibration import calibrate

        self.calibration = calibrate(self.trainings_to_time())
        with atomic(self.results / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(self.calibration, indent=1))

    def sizes(self, dataset: str, side: int | None = None) -> Sizes:
        """Sizes of a dataset, from its file, else from sizes.csv, else by making it. `side`: if images are resized."""
        if dataset not in self._sizes:
            entry = self.catalogue.entry("datasets", dataset)
            file = self.results / "data" / f"{dataset}.safetensors"
            self._sizes[dataset] = (
                sizes_in_file(file) if file.exists() else published_sizes(entry) or sizes_by_making(entry)
            )
        sizes = self._sizes[dataset]
        return Sizes(sizes.train, sizes.test, sizes.channels, side or sizes.side, sizes.classes)

    def sizes_of(self, wildcards: Wildcards, job: Job) -> Sizes:
        """Sizes of the dataset of a job, with images as the job's network sees them."""
        return self.sizes(wildcards["dataset"], job.settings.get("model", {}).get("input_size"))

    def calibration_of(self, sizes: Sizes, job: Job) -> dict[str, Any]:
        """The counts and timings of the job's network in the calibration; empty if there are none."""
        key = network_key(job.settings["model"]["network"], sizes)
        return self.calibration.get("networks", {}).get(key, {})

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per rule, in the order of the workflow: jobs, done, hours, disk and memory (bytes), source."""
        by_rule: dict[str, list[tuple[Wildcards, Job]]] = defaultdict(list)
        for rule, wildcards, job in self.jobs:
            by_rule[rule].append((wildcards, job))
        for rule, all_jobs in sorted(by_rule.items(), key=lambda item: _position(item[0])):
            due = [(w, j) for w, j in all_jobs if job_name(rule, w) not in self.done]
            hours, sources = self._hours(rule, due)
            sized = [(self.sizes_of(w, j), j) for w, j in all_jobs if "dataset" in w]
            counted = [(s, j, _counts(self.calibration_of(s, j)) if "model" in j.settings else None) for s, j in sized]
            yield {
                "rule": rule,
                "jobs": len(all_jobs),
                "done": len(all_jobs) - len(due),
                "hours": hours,
                "disk": total(disk(rule, j.settings, s, c) for s, j, c in counted),
                "memory": highest(memory(rule, j.settings, s, c) for s, j, c in counted),
                "source": sources,
            }

    def _hours(self, rule: str, due: list[tuple[Wildcards, Job]]) -> tuple[float | None, str]:
        """(hours of the due jobs, None if that of any is unknown; the sources of the numbers)."""
        estimates = [self._seconds(rule, wildcards, job) for wildcards, job in due]
        seconds = total(s for s, _ in estimates)
        sources = ", ".join(dict.fromkeys(source for _, source in estimates))
        return (None if seconds is None else seconds / 3600), sources or "nothing left to do"

    def _seconds(self, rule: str, wildcards: Wildcards, job: Job) -> tuple[float | None, str]:
        """(estimated seconds of a job, None if unknown; the source of the number)."""
        if rule not in WORK:
            seconds = [note["seconds"] for note in self.notes.values() if note["rule"] == rule]
            return (sum(seconds) / len(seconds), f"{rule} jobs done") if seconds else (0.0, "seconds each, not counted")
        sizes = self.sizes_of(wildcards, job)
        has_buffers = self.calibration_of(sizes, job).get("buffers", 1) > 0
        counted, precision = partial(work, has_buffers=has_buffers), precision_of(job.settings)
        passes = counted(rule, job.settings, sizes)
        for keys in (("dataset", "network", "regime"), ("dataset", "network")):
            if seconds_per_pass := rate(self._finished([rule], {k: wildcards[k] for k in keys}, precision, counted)):
                return passes * seconds_per_pass, f"{rule} jobs done"
        key = training_key(precision) if has_training_steps(rule, job.settings) else "forward"
        if seconds_per_pass := self.calibration_of(sizes, job).get(key):
            return passes * seconds_per_pass, "calibration"
        of_network = {k: wildcards[k] for k in ("dataset", "network")}
        if seconds_per_pass := rate(self._finished(list(WORK), of_network, precision, counted)):
            return passes * seconds_per_pass, "other jobs of the network done"
        return None, "unknown"

    def _finished(
        self, rules: list[str], wildcards: Wildcards, precision: str, counted: Callable[[str, Any, Sizes], float]
    ) -> Iterator[tuple[float, float]]:
        """(seconds, forward passes) of finished jobs of these rules, with these wildcards and in this precision.

        The passes are `counted` from the settings in the notes, so jobs with other settings count too.
        """
        for note in self.notes.values():
            matches = note["rule"] in rules and wildcards.items() <= note["wildcards"].items()
            if matches and precision_of(note["settings"]) == precision:
                side = note["settings"]["model"]["input_size"]
                yield note["seconds"], counted(note["rule"], note["settings"], self.sizes(wildcards["dataset"], side))

    def trainings_to_time(self) -> list[TimedTraining]:
        """One training for each combination of network, sizes and precision, for `calibrate`."""
        trainings: dict[str, TimedTraining] = {}
        for rule, wildcards, job in self.jobs:
            if rule in TRAININGS:
                sizes, network = self.sizes_of(wildcards, job), job.settings["model"]["network"]
                batch_size, precision = job.settings["training"]["batch_size"], precision_of(job.settings)
                objective, augment = job.settings.get("objective"), job.settings["augment"]
                key = str((network, sizes, precision))
                if key not in trainings:
                    examples = self._arrays(wildcards["dataset"])
                    trainings[key] = TimedTraining(network, sizes, augment, batch_size, precision, objective, examples)
        return list(trainings.values())

    def _arrays(self, dataset: str) -> Split | None:
        """The training split of a dataset of arrays, from its file, else by making it; None for one of images."""
        file, entry = self.results / "data" / f"{dataset}.safetensors", self.catalogue.entry("datasets", dataset)
        if file.exists():
            return arrays_in_file(file)
        return None if published_sizes(entry) else arrays_by_making(entry)


def read_notes(results: Path) -> dict[str, dict[str, Any]]:
    """{job_name: note of origin} of all results in a folder."""
    others = [results / folder for folder in NOT_RESULTS]
    files = (p for p in results.glob("**/*.*.json") if not any(map(p.is_relative_to, others)))
    of_jobs = [note for path in files if (note := read_note(path.with_suffix(""))).get("rule")]
    return {job_name(note["rule"], note["wildcards"]): note for note in of_jobs}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _counts(measured: Mapping[str, Any]) -> Counts | None:
    return Counts(measured["parameters"], measured["buffers"], measured["activations"]) if measured else None


def _position(rule: str) -> tuple[int, str]:
    """A key to sort rules in the order of the workflow, rules without networks last."""
    order = ["fetch_data", *WORK]
    return (order.index(rule) if rule in order else len(order), rule)
