"""Does jobs of the workflow in this process: calls the `main` of their scripts, without Snakemake, recipes or notes."""

import inspect
import runpy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from benchmarks.timing import seconds_of
from neuralign.config.catalogue import Catalogue
from neuralign.datasets.dataset import Dataset
from neuralign.datasets.storage import save
from neuralign.networks import setup
from neuralign.workflow.graph import job
from neuralign.workflow.job import Job, Ref, Wildcards, job_name

ROOT = Path(__file__).resolve().parents[2]
Paths = dict[str, str]  # {name of an input or output: path}


class Call(NamedTuple):
    """A job that can be done: its rule, the files it reads, and its settings."""

    rule: str
    inputs: Paths
    settings: dict[str, Any]


class MissingInput(RuntimeError):
    """An input of a job is missing, because the job that makes it has failed."""


class Jobs:
    """Does jobs of a config, each once, after those whose outputs they read.

    `seconds` and `errors` have the time of each job that is done, and the error of each that failed, by `job_name`.

    Args:
        catalogue: the config.
        folder: where outputs are written.
        device: "cuda" or "cpu".
        change: (rule, settings) -> the settings that the job gets.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        folder: Path,
        device: str,
        change: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda rule, settings: settings,
    ):
        self.catalogue, self.folder, self.device, self.change = catalogue, folder, device, change
        self.outputs: dict[str, Paths] = {}  # {name of a job: its outputs}
        self.seconds: dict[str, float] = {}
        self.errors: dict[str, Exception] = {}

    def supply(self, name: str, dataset: Dataset) -> None:
        """Use this as the dataset `name` of the config, in place of what the job `fetch_data` would make."""
        path = self.folder / "data"
        save(dataset, path)
        self.outputs[job_name("fetch_data", {"dataset": name})] = {"data": str(path)}

    def make(self, rule: str, wildcards: Wildcards) -> Paths:
        """{output: path} of a job. Raises what the job raises, and MissingInput where a job before it has failed."""
        name = job_name(rule, wildcards)
        if name in self.errors:
            raise self.errors[name]
        if name not in self.outputs:
            try:
                call, folder = self.call(rule, wildcards), self._folder(rule, wildcards)
                self.seconds[name] = seconds_of(
                    lambda: self.outputs.update({name: do([call], [folder], self.device)[0]})
                )
            except Exception as error:
                self.errors[name] = error
                raise
        return self.outputs[name]

    def call(self, rule: str, wildcards: Wildcards) -> Call:
        """A job as a call, after the jobs whose outputs it reads."""
        description = job(self.catalogue, rule, wildcards)
        inputs = {name: self._path(reference) for name, reference in _references(description)}
        return Call(rule, inputs, self.change(rule, dict(description.settings)))

    def _folder(self, rule: str, wildcards: Wildcards) -> Path:
        """Where the outputs of a job are written."""
        return self.folder / "-".join([rule, *(value.replace("/", "_") for _, value in sorted(wildcards.items()))])

    def _path(self, reference: Ref) -> str:
        wildcards = dict(reference.wildcards)
        try:
            return self.make(reference.rule, wildcards)[reference.output]
        except Exception as error:
            raise MissingInput(f"an input is missing: {job_name(reference.rule, wildcards)} has failed") from error


def do(calls: Sequence[Call], folders: Sequence[Path], device: str) -> list[Paths]:
    """{output: path} of each of these jobs, which one call of the script's `main` does together.

    `folders` are those of the outputs and of the scratch files. More than one job is possible for trainings alone.
    """
    main, arguments, outputs = _main(calls[0].rule), [], []
    for call, folder in zip(calls, folders, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        outputs.append({name: str(folder / name) for name in _output_names(main, call)})
        scratch = {"scratch": folder / "scratch"} if "scratch" in inspect.signature(main).parameters else {}
        arguments.append(call.inputs | outputs[-1] | deepcopy(call.settings) | scratch)
    first, *others = arguments
    with _jobs_on(device):
        main(**first, **({"others": others} if others else {}))
    return outputs


def path_jobs(jobs: Iterable[tuple[str, Wildcards, Job]]) -> Iterator[tuple[str, Wildcards, Job]]:
    """Those jobs that are done by path: data, trainings, alignments, measurements. The others make tables and pages."""
    return ((rule, wildcards, job) for rule, wildcards, job in jobs if "study" not in wildcards)


@cache
def _main(rule: str) -> Callable[..., None]:
    """The function `main` of the rule's script."""
    main: Callable[..., None] = runpy.run_path(str(ROOT / "scripts" / f"{rule}.py"))["main"]
    return main


def _output_names(main: Callable[..., None], call: Call) -> list[str]:
    """The outputs of a job: the positional parameters of `main` that are not inputs."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(main).parameters
    positional = [name for name, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return [name for name in positional if name not in call.inputs]


def _references(description: Job) -> Iterator[tuple[str, Ref]]:
    """(input, reference) of a job, each of whose inputs is a single file."""
    for name, reference in description.inputs.items():
        assert isinstance(reference, Ref), f"the input {name} is a list, as in tables of a study"
        yield name, reference


@contextmanager
def _jobs_on(device: str) -> Iterator[None]:
    """A block in which jobs compute on this device, whatever others there are."""
    with mock.patch.object(setup, "device", lambda: torch.device(device)):
        yield
