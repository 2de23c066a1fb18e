"""`neuralign run`: a study made by the workflow in the working directory, and its main table."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.commands.show import show
from neuralign.cli.configs import folder_config, load_study, workflow_file
from neuralign.cli.interface.options import ConfigFiles, Cores, StudyOrDefault, Verbose
from neuralign.cli.workflow_runs import failure, run_study, start, workflow_command
from neuralign.config.checking.names import INCOMPLETE
from neuralign.workflow.running.run_lock import exclusive, has_begun

DESCRIPTION = "Run a study by Snakemake in this folder, and print its main table."
EXAMPLES = [
    "neuralign run            # the default study of the config",
    "neuralign run demo --cores 2",
    "neuralign run demo --dry-run",
    "neuralign run paper -- --workflow-profile profiles/slurm   # options of Snakemake",
]
STUDIES = Path("results", "studies")


def run(
    study: StudyOrDefault = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPTION", help="after --: options that are passed on to Snakemake"),
    ] = None,
    cores: Cores = "all",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the jobs, and why they are due; run nothing")
    ] = False,
    configfile: ConfigFiles = None,
    verbose: Verbose = False,
) -> tuple[int, dict[str, Any], str]:
    """Run the workflow. If jobs fail, make the report of what is finished, which says what is missing and why."""
    if study and study.startswith("-"):  # `neuralign run -- --retries 1`: the default study, and an option of Snakemake
        options = [study, *(options or ())]
        study = None
    catalogue, study = load_study(study, configfile)
    snakefile = Path("Snakefile").absolute() if folder_config() else workflow_file("Snakefile")
    all_options = ["--cores", cores, "--keep-going", *(options or ())]
    command = workflow_command(snakefile, Path(), configfile or (), all_options, dry_run=dry_run, verbose=verbose)
    incomplete = f"{study}{INCOMPLETE}"
    with exclusive(Path()) as lock:
        status = run_study(command, study, catalogue.studies[study], Path(), lock)
        if dry_run:
            return int(status != 0), {"study": study, "status": status}, "nothing was run"
        if not status:
            shutil.rmtree(STUDIES / incomplete, ignore_errors=True)
        # a run that was killed is to be continued, not reported; of one without a job there is nothing to report
        elif status < 0 or not has_begun(Path()) or start(command, incomplete, lock):
            return 1, {"study": study, "status": status}, failure(status, Path())
    table, text = show(STUDIES / (incomplete if status else study))
    if status:
        text += "\nINCOMPLETE: something has failed; the report of what is there says what, and why"
    return int(status != 0), {"study": study, "status": status} | table, text
