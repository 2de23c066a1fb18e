"""How long one job will take: from finished jobs, from a calibration of this machine, or at a rough guess.

Times of finished jobs, from their notes of origin, are scaled by the work (`costs.py`) of the job in question. Those of
another machine, such as restored ones, count where there is no calibration. A calibration is kept in a file of the
results folder (`calibration_file.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from neuralign.config.catalogue import Catalogue
from neuralign.config.schema import PLACES
from neuralign.report.costs import undisturbed_seconds
from neuralign.workflow.job import Wildcards, job_name
from neuralign.workflow.planning.calibration_file import read_calibration
from neuralign.workflow.planning.costs import (
    WORK,
    Settings,
    Sizes,
    has_training_steps,
    network_key,
    precision_of,
    rate,
    training_key,
    work,
)
from neuralign.workflow.planning.sizes import published_sizes, sizes_by_making, sizes_in_file
from neuralign.workflow.provenance.consistency import NOT_RESULTS
from neuralign.workflow.running.gpus import devices
from neuralign.workflow.running.notes import processor, read_note

# For the rough guess: seconds that a forward pass takes per number of the input, as measured for TinyTen, whose
# convolutions keep most of the resolution of an image (docs/measurements.md). Large networks take 10 times as long.
ROUGHLY_ON_CPU = 1e-7  # with one thread
ROUGHLY_ON_GPU = 2e-9
NOMINAL = Sizes(train=10_000, test=2_000, channels=1, side=32, classes=10)
START_UP = 3.0  # seconds until a job has started Python and imported its libraries, which notes do not count


class Estimator:
    """Estimates for the jobs of one config, from what lies in a results folder.

    Args:
        catalogue: the config.
        results: the folder.
        makes_data: whether a dataset of unknown sizes is made, which may take minutes. Else it counts as `NOMINAL`, so
            that only the ratios between its jobs are right.
    """

    def __init__(self, catalogue: Catalogue, results: Path, *, makes_data: bool = True):
        self.catalogue, self.results, self.makes_data = catalogue, results, makes_data
        self.notes = read_notes(results)
        self._sizes: dict[str, Sizes] = {}
        self._rates: dict[tuple[Any, ...], float | None] = {}

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """The calibration of the results folder; it is read where it is needed, so not before it is made anew."""
        return read_calibration(self.results)

    def seconds(self, rule: str, wildcards: Wildcards, settings: Settings) -> tuple[float | None, str]:
        """(estimated seconds of a job, None if unknown; the source of the number)."""
        if rule not in WORK:
            seconds = [note["seconds"] for note in self.notes.values() if note["rule"] == rule]
            return (sum(seconds) / len(seconds), f"{rule} jobs done") if seconds else (0.0, "seconds each, not counted")
        sizes = self.sizes_of(wildcards, settings)
        has_buffers = self.calibration_of(sizes, settings).get("buffers", 1) > 0
        passes = work(rule, settings, sizes, has_buffers=has_buffers)
        for source, seconds_per_pass in self._rates_by_source(
            rule, wildcards, settings, sizes, has_buffers=has_buffers
        ):
            if seconds_per_pass:
                return passes * seconds_per_pass, source
        return None, "unknown"

    def _rates_by_source(
        self, rule: str, wildcards: Wildcards, settings: Settings, sizes: Sizes, *, has_buffers: bool
    ) -> Iterator[tuple[str, float | None]]:
        """(source, seconds per forward pass, None if unknown) for a job, from the best source to the worst."""
        precision = precision_of(settings)
        of_regime, of_network = ({k: wildcards[k] for k in keys} for keys in (PLACES, ("dataset", "network")))
        rate_of = partial(self._rate, precision=precision, has_buffers=has_buffers)
        for place in (of_regime, of_network):
            yield f"{rule} jobs done", rate_of((rule,), place, here=True)
        key = training_key(precision) if has_training_steps(rule, settings) else "forward"
        yield "calibration", self.calibration_of(sizes, settings).get(key)
        for place in (of_regime, of_network):
            yield f"{rule} jobs done elsewhere", rate_of((rule,), place, here=False)
        yield "other jobs of the network done", rate_of(tuple(WORK), of_network, here=True)
        yield "other jobs of the network done elsewhere", rate_of(tuple(WORK), of_network, here=False)

    def seconds_or_guess(self, rule: str, wildcards: Wildcards, settings: Settings) -> tuple[float, bool]:
        """(estimated seconds of a job with its start, whether from measured times; else they are a rough guess)."""
        seconds, _ = self.seconds(rule, wildcards, settings)
        if seconds is not None:
            return seconds + START_UP, True
        sizes = self.sizes_of(wildcards, settings)
        per_pass = sizes.channels * sizes.side**2 * (ROUGHLY_ON_GPU if devices() else ROUGHLY_ON_CPU)
        return work(rule, settings, sizes) * per_pass + START_UP, False

    def sizes(self, dataset: str, side: int | None = None) -> Sizes:
        """Sizes of a dataset, if need be by making it or `NOMINAL`. `side`: if images are resized."""
        if dataset not in self._sizes:
            known = self.known_sizes(dataset)
            entry = self.catalogue.entry("datasets", dataset)
            self._sizes[dataset] = known or (sizes_by_making(entry) if self.makes_data else NOMINAL)
        sizes = self._sizes[dataset]
        return Sizes(sizes.train, sizes.test, sizes.channels, side or sizes.side, sizes.classes)

    def known_sizes(self, dataset: str) -> Sizes | None:
        """Sizes of a dataset from its file, else from sizes.csv; None if they are in neither."""
        file = self.results / "data" / f"{dataset}.safetensors"
        return sizes_in_file(file) if file.exists() else published_sizes(self.catalogue.entry("datasets", dataset))

    def sizes_of(self, wildcards: Wildcards, settings: Settings) -> Sizes:
        """Sizes of the dataset of a job, with images as the job's network sees them."""
        return self.sizes(wildcards["dataset"], settings.get("model", {}).get("input_size"))

    def calibration_of(self, sizes: Sizes, settings: Settings) -> dict[str, Any]:
        """The counts and timings of the job's network in the calibration; empty if there are none."""
        key = network_key(settings["model"]["network"], sizes)
        return self.calibration.get("networks", {}).get(key, {})

    def _rate(
        self, rules: tuple[str, ...], wildcards: Mapping[str, str], *, precision: str, has_buffers: bool, here: bool
    ) -> float | None:
        """Seconds per forward pass of the finished jobs of these rules, with these wildcards and in this precision.

        `here`: of those of this machine, or of all others.
        """
        key = (rules, *wildcards.items(), precision, has_buffers, here)
        if key not in self._rates:
            counted = partial(work, has_buffers=has_buffers)
            self._rates[key] = rate(self._finished(rules, wildcards, precision, counted, here=here))
        return self._rates[key]

    def _finished(
        self,
        rules: tuple[str, ...],
        wildcards: Mapping[str, str],
        precision: str,
        counted: Callable[[str, Any, Sizes], float],
        *,
        here: bool,
    ) -> Iterator[tuple[float, float]]:
        """(seconds, forward passes) of finished jobs of these rules, with these wildcards and in this precision.

        The passes are `counted` from the settings in the notes, so jobs with other settings count too.
        """
        for note in self.notes.values():
            matches = note["rule"] in rules and wildcards.items() <= note["wildcards"].items()
            if matches and precision_of(note["settings"]) == precision and _is_of_this_machine(note) == here:
                side = note["settings"]["model"]["input_size"]
                sizes = self.sizes(wildcards["dataset"], side)
                yield undisturbed_seconds(note), counted(note["rule"], note["settings"], sizes)


def _is_of_this_machine(note: Mapping[str, Any]) -> bool:
    """Whether the note names a processor like this one, and a GPU if this machine has one. Old notes name none."""
    return note.get("processor") == processor() and (note.get("device") == "CPU") == (not devices())


def read_notes(results: Path) -> dict[str, dict[str, Any]]:
    """{job_name: note of origin} of all results in a folder."""
    others = [results / folder for folder in NOT_RESULTS]
    files = (p for p in results.glob("**/*.*.json") if not any(map(p.is_relative_to, others)))
    of_jobs = [note for path in files if (note := read_note(path.with_suffix(""))).get("rule")]
    return {job_name(note["rule"], note["wildcards"]): note for note in of_jobs}
