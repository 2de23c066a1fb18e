"""Whether the user's own files are there that a study reads: its checkpoints, and its local data. Torch-free."""

from pathlib import Path

from neuralign.common.errors import UserError
from neuralign.common.shards import checkpoint_files
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.problems import Problems, short_repr
from neuralign.datasets.reading.locations import local_path
from neuralign.workflow.graph import jobs


def check_sources(c: Catalogue, study: str) -> None:
    """Raise a `ConfigError` that names the key of every file or folder of the study that cannot be found.

    Data whose content or checksum the config declares are left out: once a study is finished or restored, nothing of
    it needs them, and `fetch_data` names them if they are missing when it does.
    """
    problems = Problems()
    for _, wildcards, job in jobs(c, study):
        if job.declared_source is None:
            for place in job.places:
                kind, key = place.split(".")  # such as `checkpoint.file`, a setting of the job and a key of the config
                if (value := job.settings[kind][key]) and (problem := _problem(kind, key, value)):
                    problems.note(f"{kind}s.{wildcards[kind]}.{key}", f"found {short_repr(value)}: {problem}")
    if problems:
        raise ConfigError(sorted(problems.messages))


def _problem(kind: str, key: str, value: str) -> str | None:
    """Why what a key of the config names cannot be read; None if it is there, or is an address."""
    try:
        if kind == "checkpoint":
            checkpoint_files(value)
            return None
        path = local_path(value) if key == "url" else Path(value)
    except UserError as error:
        return str(error).removeprefix(f"{Path(value)}: ")
    return None if path is None or path.exists() else "no such file or folder"
