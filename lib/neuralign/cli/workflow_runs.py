"""Runs of Snakemake by commands, in a folder that the command holds the lock of."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from neuralign.cli.configs import UsageError

LOCKS = Path(".snakemake", "locks")  # where Snakemake has its lock files, in its working directory


def workflow_command(snakefile: Path, folder: Path, configfiles: Iterable[Path], *options: str) -> list[str]:
    """The command line of Snakemake in `folder`, without a target. Raises `UsageError` if it is not installed."""
    if find_spec("snakemake") is None:
        raise UsageError("Snakemake is not installed: pip install 'neuralign[workflow]'")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder.absolute())]
    files = [str(file.absolute()) for file in configfiles]
    return [*command, *(["--configfile", *files] if files else []), "--quiet", "host", *options]


def unlock(command: list[str], target: str, folder: Path, lock: int) -> None:
    """Remove the lock files that a run of Snakemake has left which was killed.

    The caller holds the lock of the folder, so no other run can be active.
    """
    if any((folder / LOCKS).glob("*")):
        start([*command, "--unlock"], target, lock)


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
