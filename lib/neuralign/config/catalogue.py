"""The entries of a checked config: one entry at one place, all studies, the default study."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from neuralign.config.checking.check import check, default_study
from neuralign.config.checking.entries import read_entry
from neuralign.config.checking.validation import Entry, Validation
from neuralign.config.problems import ConfigError
from neuralign.config.schema import SECTIONS

__all__ = ["SECTIONS", "Catalogue", "ConfigError", "Entry"]


class Catalogue:
    """The entries of a config. Raises a `ConfigError` that lists all problems that `check` finds in it."""

    def __init__(self, config: Mapping[str, Any]):
        if problems := check(config):
            raise ConfigError(problems)
        self._sections: dict[str, dict[str, Any]] = {section: config.get(section) or {} for section in SECTIONS}
        self._entries = dict[tuple[Any, ...], Any]()  # a cache: planning a study of 800 jobs asks 50,000 times
        self.default_study: str = default_study(config, self._sections["studies"])
        self.studies: dict[str, Entry] = {name: self.entry("studies", name) for name in self._sections["studies"]}

    def entry(self, section: str, name: str, **place: str) -> Any:
        """One entry for a place (dataset, network, regime): its overrides merged in and all defaults filled in.

        Raises a `ConfigError` if several overrides apply that are valid one by one but not together.
        """
        key = (section, name, *sorted(place.items()))
        if key not in self._entries:
            problems = Validation(self._sections)
            entry = read_entry(section, name, place, f"{section}.{name}", problems)
            if problems:
                raise ConfigError(problems.messages)
            self._entries[key] = entry
        return deepcopy(self._entries[key])

    def trained(self, curve: str) -> bool:
        """Whether curves of this entry have bends to train."""
        return "bends" in self.entry("curves", curve)
