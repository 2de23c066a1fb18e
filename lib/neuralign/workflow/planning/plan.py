"""The estimated cost of a study, rule by rule, before it is run.

Hours come from finished jobs, or from a calibration of this machine (`estimator.py`). Each row of the plan names its
source.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuralign.config.catalogue import Catalogue
from neuralign.datasets.dataset import Split
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Job, Wildcards, job_name
from neuralign.workflow.planning.calibration_file import write_calibration
from neuralign.workflow.planning.costs import (
    WORK,
    Counts,
    Sizes,
    TimedTraining,
    disk,
    has_training_steps,
    highest,
    memory,
    precision_of,
    total,
)
from neuralign.workflow.planning.estimator import Estimator
from neuralign.workflow.planning.sizes import (
    arrays_by_making,
    arrays_in_file,
    published_sizes,
)
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import stands_for


class Plan:
    """The plan of one study: how many jobs of each rule there are, which are done, and what the others will take."""

    def __init__(self, catalogue: Catalogue, study: str, results: Path):
        self.catalogue, self.results = catalogue, results
        self.jobs = list(jobs(catalogue, study))
        self.estimator = Estimator(catalogue, results)
        recipes = Recipes.without_paths(catalogue)
        self.done = {
            job_name(rule, w)
            for rule, w, _ in self.jobs
            if (note := self.estimator.notes.get(job_name(rule, w))) and stands_for(note, recipes.of(rule, w)["key"])
        }

    def calibrate(self) -> None:
        """Time a few steps of every network on this machine, and keep the result in a file for later plans."""
        from neuralign.workflow.planning.calibration import calibrate

        write_calibration(calibrate(self.trainings_to_time()), self.results)
        self.estimator = Estimator(self.catalogue, self.results)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per rule, in the order of the workflow: jobs, done, hours, disk and memory (bytes), source."""
        by_rule: dict[str, list[tuple[Wildcards, Job]]] = defaultdict(list)
        for rule, wildcards, job in self.jobs:
            by_rule[rule].append((wildcards, job))
        for rule, all_jobs in sorted(by_rule.items(), key=lambda item: _position(item[0])):
            due = [(w, j) for w, j in all_jobs if job_name(rule, w) not in self.done]
            hours, sources = self._hours(rule, due)
            sized = [(self.estimator.sizes_of(w, j.settings), j) for w, j in all_jobs if "dataset" in w]
            counted = [(s, j, self._counts(s, j) if "model" in j.settings else None) for s, j in sized]
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
        estimates = [self.estimator.seconds(rule, wildcards, job.settings) for wildcards, job in due]
        seconds = total(s for s, _ in estimates)
        sources = ", ".join(dict.fromkeys(source for _, source in estimates))
        return (None if seconds is None else seconds / 3600), sources or "nothing left to do"

    def trainings_to_time(self) -> list[TimedTraining]:
        """One training for each combination of network, sizes and precision, for `calibrate`."""
        trainings: dict[str, TimedTraining] = {}
        for rule, wildcards, job in self.jobs:
            training = job.settings.get("training") or job.settings.get("method", {})
            if has_training_steps(rule, job.settings) and "batch_size" in training:  # else its steps read no data
                sizes, network = self.estimator.sizes_of(wildcards, job.settings), job.settings["model"]["network"]
                batch_size, precision = training["batch_size"], precision_of(job.settings)
                objective, augment = job.settings.get("objective"), job.settings.get("augment", [])
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

    def _counts(self, sizes: Sizes, job: Job) -> Counts | None:
        """Sizes of the network of a job, from the calibration."""
        measured = self.estimator.calibration_of(sizes, job.settings)
        return Counts(measured["parameters"], measured["buffers"], measured["activations"]) if measured else None


def _position(rule: str) -> tuple[int, str]:
    """A key to sort rules in the order of the workflow, rules without networks last."""
    order = ["fetch_data", *WORK]
    return (order.index(rule) if rule in order else len(order), rule)
