"""Runs of Snakemake by commands, in a folder that the command holds the lock of."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neuralign.cli.configs import UsageError

DRY_RUN = "--dry-run"
LOCKS = Path(".snakemake", "locks")  # where Snakemake has its lock files, in its working directory


def workflow_command(
    snakefile: Path,
    folder: Path,
    configfiles: Iterable[Path],
    options: Sequence[str],
    *,
    dry_run: bool = False,
    verbose: bool = False,
) -> list[str]:
    """The command line of Snakemake in `folder`, without a target: with the view of a run, or Snakemake's own lines.

    Raises `UsageError` if Snakemake is not installed.
    """
    if find_spec("snakemake") is None:
        raise UsageError("Snakemake is not installed: pip install 'neuralign[workflow]'")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder.absolute())]
    files = [str(file.absolute()) for file in configfiles]
    quiet = ["host"] if verbose or dry_run else ["host", "rules"]
    view = [DRY_RUN] if dry_run else _view_options(options, verbose=verbose)
    return [*command, *(["--configfile", *files] if files else []), "--quiet", *quiet, *view, *options]


def run_study(command: list[str], study: str, entry: Mapping[str, Any], folder: Path, lock: int) -> int:
    """Say what a study does, by its config entry, run Snakemake on it in `folder`, and return the exit status."""
    if DRY_RUN not in command:
        _introduce(study, entry, folder)
        _unlock(command, study, folder, lock)
    return start(command, study, lock)


def _view_options(options: Sequence[str], *, verbose: bool) -> list[str]:
    """The options of Snakemake for the view of a run (lib/snakemake_logger_plugin_neuralign).

    None if `options`, those of the user, name a logger, or if Snakemake's own lines are asked for (`verbose`).
    """
    has_logger = any(option.partition("=")[0] == "--logger" for option in options)
    return [] if verbose or has_logger else ["--logger", "neuralign"]


def _introduce(study: str, entry: Mapping[str, Any], folder: Path) -> None:
    """Print what a study does, by its config entry, and where its files will be."""
    paragraphs = [
        f"Study {study}: {entry['title'].rstrip('.')}. {entry.get('description', '')}".strip(),
        f"Its jobs write to {folder / 'results'}/, and their logs to {folder / 'logs'}/. After Ctrl-C, the same "
        "command continues.",
    ]
    width = min(100, shutil.get_terminal_size().columns)
    print(*(textwrap.fill(text, width) for text in paragraphs), sep="\n", file=sys.stderr, flush=True)


def _unlock(command: list[str], target: str, folder: Path, lock: int) -> None:
    """Remove the lock files that a run of Snakemake has left which was killed.

    The caller holds the lock of the folder, so no other run can be active.
    """
    if any((folder / LOCKS).glob("*")):
        start([*command, "--unlock"], target, lock)


def failure(status: int, folder: Path) -> str:
    """What to say after a run of Snakemake in `folder` that has failed."""
    if status < 0:
        return f"Snakemake was ended by signal {-status}; what is done is kept, and the same command continues"
    return "failed; the messages above say where" + (f", with paths in {folder}" if folder != Path() else "")


def start(command: list[str], target: str, lock: int) -> int:
    """Run Snakemake and return its exit status. An interrupt is waited for, and then ends this process, too.

    Snakemake inherits the file descriptor `lock`, so that the folder stays locked if only this process is killed.
    """
    with subprocess.Popen([*command, "--", target], stdout=sys.stderr, pass_fds=[lock]) as process:
        interrupted = False
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:  # Snakemake has received it as well, and ends its jobs
                interrupted = True
    if interrupted:
        sys.exit(130)
    return process.returncode
