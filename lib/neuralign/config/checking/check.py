"""The check of a whole config. Torch-free, so that a typo stops Snakemake at once, before any job is planned."""

from collections.abc import Iterable, Mapping
from typing import Any

from neuralign.common.workflow_files import WORKFLOW
from neuralign.config.checking.entries import read_entry
from neuralign.config.checking.names import name_problem
from neuralign.config.checking.validation import Validation
from neuralign.config.problems import printable, short_repr
from neuralign.config.schema import OVERRIDABLE, PLACES, SECTIONS

RULES = ("all", "job", *(path.stem for path in WORKFLOW.glob("scripts/*.py")))  # a study must not have these


def check(config: Mapping[str, Any]) -> list[str]:
    """All problems of a config, each as one line that begins with the path of the key; [] if there are none."""
    problems = Validation()
    problems.sections = {section: _read_section(config, section, problems) for section in SECTIONS}
    for key in [key for key in config if key not in (*SECTIONS, "default_study")]:
        problems.note_not_allowed(str(key), "unknown section", key, [*SECTIONS, "default_study"])
    for section, entries in problems.sections.items():
        for name, raw in entries.items():
            _check_entry(section, name, raw, problems)
    problems.check_name("studies", default_study(config, problems.sections["studies"]), "default_study")
    return problems.messages


def default_study(config: Mapping[str, Any], studies: Iterable[str]) -> Any:
    """The study that `snakemake` makes if none is named: `default_study`, or else the first one."""
    return config.get("default_study", next(iter(studies), None))


def _read_section(config: Mapping[str, Any], section: str, problems: Validation) -> dict[str, Any]:
    """The entries of a section by name, as written."""
    entries = config.get(section)
    if entries is None:
        return {}
    if not isinstance(entries, Mapping):
        problems.note(section, f"must map names to entries, found {short_repr(entries)}")
        return {}
    for name in entries:
        problems.note(f"{section}.{printable(name)}", name_problem(section, name, entries.keys(), RULES))
    return {str(name): entry for name, entry in entries.items()}


def _check_entry(section: str, name: str, raw: Any, problems: Validation) -> None:
    """Note the problems of an entry without its overrides, then with each of its overrides alone."""
    path = f"{section}.{name}"
    if raw is not None and not isinstance(raw, Mapping):
        return problems.note(path, f"must be a mapping, found {short_repr(raw)}")
    overrides = (raw or {}).get("overrides")
    overrides = [] if overrides is None else overrides
    if overrides and section not in OVERRIDABLE:
        return problems.note(f"{path}.overrides", f"{section} are the same everywhere and take no overrides")
    if not isinstance(overrides, list):
        return problems.note(f"{path}.overrides", f"must be a list, found {short_repr(overrides)}")
    count = len(problems)
    read_entry(section, name, {}, path, problems)
    if len(problems) > count:
        return  # with an override, the entry would have the same problems again
    for i, override in enumerate(overrides):
        override_path = f"{path}.overrides[{i}]"
        when = override.get("when") if isinstance(override, Mapping) else None
        if not isinstance(when, Mapping) or not when:
            needed = f"needs `when`, a mapping with some of {', '.join(PLACES)}"
            problems.note(override_path, f"{needed}; found {short_repr(override)}")
            continue
        _check_condition(section, name, when, f"{override_path}.when", problems)
        read_entry(section, name, {key: str(value) for key, value in when.items()}, override_path, problems)


def _check_condition(section: str, name: str, when: Mapping[Any, Any], path: str, problems: Validation) -> None:
    """Note the problems of the `when` of an override."""
    for key, value in when.items():
        if key not in PLACES:
            problems.note_not_allowed(path, "unknown key", key, PLACES)
            continue
        problems.check_name(f"{key}s", value, f"{path}.{key}")
        if section == f"{key}s" and value != name:
            problems.note(f"{path}.{key}", f"never applies: this is the entry {name}, not {short_repr(value)}")
