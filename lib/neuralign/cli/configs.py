"""The config that a command works with, and the files of the workflow."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuralign.common.errors import UserError
from neuralign.common.workflow_files import WORKFLOW
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.files import lay_over, read_config
from neuralign.config.lines import with_lines
from neuralign.config.references import file_found_only_here, is_object

Config = dict[str, Any]
PATHS = {("datasets", "path"), ("checkpoints", "file")}  # (section, key) of paths of the user's files


class UsageError(UserError):
    """Arguments that contradict each other, or that name something that does not exist."""


def workflow_file(name: str) -> Path:
    """A file of the workflow. Raises UsageError for a copy of the package that is without it."""
    path = WORKFLOW / name
    if not path.is_file():
        raise UsageError(f"no {path}: this copy of neuralign lacks its workflow; install the wheel, or a checkout")
    return path


def folder_config() -> list[Path]:
    """config.yaml of the working directory, if that is a folder made by `neuralign init`; else nothing."""
    config, snakefile = Path("config.yaml"), Path("Snakefile")
    if not (config.is_file() and snakefile.is_file()) or WORKFLOW.samefile(Path()):
        return []
    return [config] if "neuralign" in snakefile.read_text() else []


def load_config(configfiles: Iterable[Path] | None) -> Config:
    """The default config, and laid over it that of the folder and the files of --configfile; {} without any of them."""
    return read_config(config_files(configfiles))


def load_catalogue(configfiles: Iterable[Path] | None) -> Catalogue:
    """The catalogue of `load_config`. Raises ConfigError, whose problems have the files and lines of their keys."""
    try:
        return Catalogue(load_config(configfiles))
    except ConfigError as error:
        raise with_lines(error, config_files(configfiles)) from None


def extended_catalogue(config: Config, overlay: Mapping[str, Any]) -> Catalogue:
    """The catalogue of a config with an overlay. Raises ConfigError."""
    merged = json.loads(json.dumps(config))
    lay_over(merged, overlay)
    return Catalogue(merged)


def absolute_paths(config: Config) -> Config:
    """What is to be laid over a config so that it means the same in any folder: its relative paths, made absolute.

    They are those of files with plug-ins and networks, of data and of checkpoints. What does not exist here is left.
    Raises UsageError for a package that only the working directory has.
    """
    return _changes(config, {section: _absolute(entries, section, "") for section, entries in config.items()})


def load_study(study: str | None, configfiles: Iterable[Path] | None) -> tuple[Catalogue, str]:
    """(the catalogue of `load_config`, the name of the study, or of the default one), to make its jobs.

    Raises UsageError if there is no such study, and ConfigError if files that it reads are missing.
    """
    from neuralign.workflow.sources import check_sources  # imports numpy, which the help does without

    catalogue = load_catalogue(configfiles)
    study = study or catalogue.default_study
    check_study(catalogue, study)
    try:
        check_sources(catalogue, study)
    except ConfigError as error:
        raise with_lines(error, config_files(configfiles)) from None
    return catalogue, study


def check_study(catalogue: Catalogue, study: str) -> None:
    """Raise `UsageError` if the config has no study of this name."""
    if study not in catalogue.studies:
        raise UsageError(f"no study {study!r} in the config (allowed: {', '.join(catalogue.studies)})")


def _absolute(value: Any, section: str, key: str) -> Any:
    """The value of a key, at any depth of a section, with absolute paths."""
    if isinstance(value, Mapping):
        return {name: _absolute(part, section, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_absolute(part, section, key) for part in value]
    if not isinstance(value, str):
        return value
    if key == "use":
        return _absolute_object(value) if is_object(value) else value
    return str(Path(value).absolute()) if (section, key) in PATHS and Path(value).exists() else value


def _absolute_object(name: str) -> str:
    """The name of an object, with the absolute path of its file if it is found from the working directory only."""
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py"):
        return f"{Path(module).absolute()}:{attribute}" if Path(module).exists() else name
    file = file_found_only_here(name)
    if file and file != Path(f"{module}.py").absolute():
        raise UsageError(
            f"{name}: its package is found in the working directory only, and the jobs run in another folder; install "
            f"the package, or have {Path.cwd()} in PYTHONPATH"
        )
    return f"{file}:{attribute}" if file else name


def _changes(before: Any, after: Any) -> Any:
    """The parts of a mapping that differ; a list as a whole, for one that is laid over another replaces it."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return after
    return {name: _changes(before[name], part) for name, part in after.items() if part != before[name]}


def config_files(configfiles: Iterable[Path] | None) -> list[Path]:
    """The files that `load_config` reads. Raises UsageError if one of --configfile does not exist."""
    files = list(configfiles or ())
    if missing := [f for f in files if not f.is_file()]:
        raise UsageError(f"--configfile: no such file as {missing[0]}")
    default = WORKFLOW / "config.yaml"
    return [*([default] if default.is_file() else []), *folder_config(), *files]
