"""`neuralign run`: a study made by the workflow in the working directory, and its main table."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.commands.show import show
from neuralign.cli.workflow_runs import introduce, start, unlock, view_options, workflow_command
from neuralign.config.checking.names import INCOMPLETE
from neuralign.workflow.running.run_lock import exclusive

EXAMPLES = [
    "neuralign run            # the default study of the config",
    "neuralign run demo --cores 2",
    "neuralign run demo --dry-run",
    "neuralign run paper -- --workflow-profile profiles/slurm   # options of Snakemake",
]
STUDIES = Path("results", "studies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = parser.add_argument
    add("study", metavar="STUDY", nargs="?", help="a study of the config (default: its default_study)")
    add("options", metavar="OPTION", nargs="*", help="after --: options that are passed on to Snakemake")
    shared.add_cores(parser)
    add("--dry-run", action="store_true", help="list the jobs, and why they are due; run nothing")
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Run the workflow. If jobs fail, make the report of what is finished, which says what is missing and why."""
    catalogue = shared.load_catalogue(arguments)
    study = arguments.study or catalogue.default_study
    shared.check_study(catalogue, study)
    snakefile = Path("Snakefile").absolute() if shared.folder_config() else shared.workflow_file("Snakefile")
    quiet = [] if arguments.verbose or arguments.dry_run else ["rules"]
    view = [] if arguments.dry_run else view_options(arguments.options, verbose=arguments.verbose)
    options = [*quiet, "--cores", arguments.cores, "--keep-going", *view, *arguments.options]
    command = workflow_command(snakefile, Path(), arguments.configfile, *options)
    incomplete = f"{study}{INCOMPLETE}"
    with exclusive(Path()) as lock:
        if arguments.dry_run:
            status = start([*command, "--dry-run"], study, lock)
            return int(status != 0), {"study": study, "status": status}, "nothing was run"
        introduce(study, catalogue.studies[study])
        unlock(command, study, Path(), lock)
        status = start(command, study, lock)
        if not status:
            shutil.rmtree(STUDIES / incomplete, ignore_errors=True)
        elif start(command, incomplete, lock):
            return 1, {"study": study, "status": status}, "failed; the messages above say where"
    table, text = show(STUDIES / (incomplete if status else study))
    if status:
        text += "\nINCOMPLETE: something has failed; the report of what is there says what, and why"
    return int(status != 0), {"study": study, "status": status} | table, text
