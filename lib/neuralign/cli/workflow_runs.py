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

LOCKS = Path(".snakemake", "locks")  # where Snakemake has its lock files, in its working directory


def workflow_command(snakefile: Path, folder: Path, configfiles: Iterable[Path], *options: str) -> list[str]:
    """The command line of Snakemake in `folder`, without a target. Raises `UsageError` if it is not installed."""
    if find_spec("snakemake") is None:
        raise UsageError("Snakemake is not installed: pip install 'neuralign[workflow]'")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder.absolute())]
    files = [str(file.absolute()) for file in configfiles]
    return [*command, *(["--configfile", *files] if files else []), "--quiet", "host", *options]


def view_options(options: Sequence[str], *, verbose: bool) -> list[str]:
    """The options of Snakemake for the view of a run (lib/snakemake_logger_plugin_neuralign).

    None if `options`, those of the user, name a logger, or if Snakemake's own lines are asked for (`verbose`).
    """
    has_logger = any(option.partition("=")[0] == "--logger" for option in options)
    return [] if verbose or has_logger else ["--logger", "neuralign"]


def introduce(study: str, entry: Mapping[str, Any]) -> None:
    """Print what a study does, by its config entry, and where its files will be."""
    paragraphs = [
        f"Study {study}: {entry['title'].rstrip('.')}. {entry.get('description', '')}".strip(),
        "Its jobs write to results/, and their logs to logs/. After Ctrl-C, the same command continues.",
    ]
    width = min(100, shutil.get_terminal_size().columns)
    print(*(textwrap.fill(text, width) for text in paragraphs), sep="\n", file=sys.stderr, flush=True)


def unlock(command: list[str], target: str, folder: Path, lock: int) -> None:
    """Remove the lock files that a run of Snakemake has left which was killed.

    The caller holds the lock of the folder, so no other run can be active.
    """
    if any((folder / LOCKS).glob("*")):
        start([*command, "--unlock"], target, lock)


def failure(status: int) -> str:
    """What to say after a run of Snakemake that has failed."""
    if status < 0:
        return f"Snakemake was ended by signal {-status}; what is done is kept, and the same command continues"
    return "failed; the messages above say where"


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
