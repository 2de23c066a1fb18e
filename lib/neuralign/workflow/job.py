"""What a job of the workflow is: the files it reads, the settings it may see, the code it runs. Torch-free.

Every rule of the workflow has one function of its name, decorated with `@rule`, that describes one of its jobs: those
from data to evaluations are in `path_jobs.py`, those of a whole study in `study_jobs.py`. `graph.py` imports both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuralign.config.catalogue import Catalogue, Entry

Wildcards = dict[str, str]


class Setting(NamedTuple):
    """What is trained, on what, and how: all that overrides in the config may depend on."""

    dataset: str
    network: str
    regime: str

    def entry(self, c: Catalogue, section: str, name: str) -> Any:
        """An entry of the config with the overrides for this setting."""
        return c.entry(section, name, **self._asdict())


class Ref(NamedTuple):
    """One output of another job."""

    rule: str
    output: str
    wildcards: tuple[tuple[str, str], ...]


def ref(rule: str, output: str, setting: Setting | None = None, /, **wildcards: str) -> Ref:
    """The output `output` of the job of `rule` with these wildcards, and those of a setting."""
    if setting is not None:
        wildcards |= setting._asdict()
    return Ref(rule, output, tuple(sorted(wildcards.items())))


Inputs = dict[str, Ref | list[Ref]]


@dataclass(frozen=True)
class Job:
    """One run of a rule."""

    inputs: Inputs
    settings: Entry
    plugins: list[tuple[str, str]] = field(default_factory=list)  # (kind, name): code that is loaded by name
    files: list[str] = field(default_factory=list)  # data files of the package that the code reads
    software: tuple[str, ...] = ()  # packages whose version the numbers depend on
    source: Entry | None = None  # where bytes from outside come from; what they are counts, not where they lie
    places: list[str] = field(default_factory=list)  # the settings, with dots, that only say where they lie


RULES: dict[str, Callable[..., Job]] = {}  # every rule, with the function that describes one of its jobs


def rule(function: Callable[..., Job]) -> Callable[..., Job]:
    """Register a function that describes a job of the rule of the same name.

    Its parameters are the catalogue and the wildcards of the rule, of which dataset, network and regime come together
    as one `setting`.
    """
    RULES[function.__name__] = function
    return function


def describe(c: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """The job of `rule` with these wildcards. Only rules of modules that have been imported are known."""
    arguments: dict[str, Any] = dict(wildcards)
    if arguments.keys() >= set(Setting._fields):
        arguments["setting"] = Setting(*(arguments.pop(name) for name in Setting._fields))
    return RULES[rule](c, **arguments)
