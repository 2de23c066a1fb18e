"""The description of a job of the workflow: the files it reads, its settings, and the code it runs. Torch-free.

For every rule of the workflow there is one function of the same name, decorated with `@rule`, that describes the rule's
jobs. Those for one path are in `path_jobs.py`, those for a study in `study_jobs.py`; `graph.py` imports both.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuralign.config.catalogue import Catalogue, Entry

Wildcards = dict[str, str]


class Setting(NamedTuple):
    """The names of a dataset, a network and a regime. Entries of the config can be overridden for each such triple."""

    dataset: str
    network: str
    regime: str

    def entry(self, c: Catalogue, section: str, name: str) -> Any:
        """An entry of the config, with the overrides for this setting applied."""
        return c.entry(section, name, **self._asdict())


class Ref(NamedTuple):
    """A reference to one output of another job."""

    rule: str
    output: str
    wildcards: tuple[tuple[str, str], ...]


def ref(rule: str, output: str, setting: Setting | None = None, /, **wildcards: str) -> Ref:
    """A reference to the output `output` of the job of `rule` with these wildcards, and those of `setting` if given."""
    if setting is not None:
        wildcards |= setting._asdict()
    return Ref(rule, output, tuple(sorted(wildcards.items())))


Inputs = dict[str, Ref | list[Ref]]


@dataclass(frozen=True)
class Job:
    """The description of one job.

    Attributes:
        inputs: {argument of the script's `main`: the output, or outputs, of other jobs}.
        settings: {argument of the script's `main`: value}, from the config.
        plugins: (kind, name) of the plug-ins that the script loads by name.
        files: data files that the code reads, relative to the package; or an object of the user's own code, whose file
            is read.
        software: distributions on whose version the numbers depend.
        source: the config entry of data from outside the workflow (a download, a file of the user). The job's key
            depends on their content or checksum.
        places: the settings, as names with dots, that are paths or URLs of these data. The key does not depend on them.
    """

    inputs: Inputs
    settings: Entry
    plugins: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    software: tuple[str, ...] = ()
    source: Entry | None = None
    places: list[str] = field(default_factory=list)

    @property
    def declared_source(self) -> str | None:
        """The digest of the source that its config entry declares, by which the data are known without reading them."""
        source = self.source or {}
        return source.get("content") or source.get("checksum") or None


RULES: dict[str, Callable[..., Job]] = {}  # {rule: the function that describes its jobs}


def rule(function: Callable[..., Job]) -> Callable[..., Job]:
    """Decorator: register a function as the one that describes the jobs of the rule of the same name.

    The function is called with the catalogue and with the wildcards of the job by name. If these include dataset,
    network and regime, the three are passed as one argument `setting`.
    """
    RULES[function.__name__] = function
    return function


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """A text that names a job, as a key of dictionaries."""
    return json.dumps([rule, dict(wildcards)], sort_keys=True)


def describe(c: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """The description of the job of `rule` with these wildcards. The module that describes it must be imported."""
    arguments: dict[str, Any] = dict(wildcards)
    if arguments.keys() >= set(Setting._fields):
        arguments["setting"] = Setting(*(arguments.pop(name) for name in Setting._fields))
    return RULES[rule](c, **arguments)
