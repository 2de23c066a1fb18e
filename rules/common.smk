"""What all rules share: the checked config, and recipes as inputs (lib/neuralign/workflow/provenance/recipes.py)."""

import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

from neuralign.common.memory import BUDGET
from neuralign.common.workflow_files import IS_CHECKOUT, WORKFLOW
from neuralign.workflow.running import failure
from neuralign.workflow.running.environment import environment_of_jobs
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.checking.names import INCOMPLETE
from neuralign.config.lines import with_lines
from neuralign.datasets.dataset import DataError
from neuralign.workflow.running.termination import RUN
from neuralign.workflow.running.gpus import slots
from neuralign.workflow.incomplete import finished_part, outcome_of
from neuralign.config.references import ObjectError
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.sources import check_sources
from neuralign.workflow.study_jobs import cohorts_of, figures, merges_of
from snakemake.exceptions import WorkflowError

CONFIG_FILES = [WORKFLOW / "config.yaml", *workflow.configfiles]
try:
    CATALOGUE = Catalogue(config)
except ConfigError as error:
    raise WorkflowError(str(with_lines(error, CONFIG_FILES)))


if workflow.deployment_settings.deployment_method and not IS_CHECKOUT:
    raise WorkflowError(
        "--software-deployment-method needs a checkout of neuralign: the jobs of the installed package run in the "
        "environment that it is installed in"
    )


os.environ[RUN] = str(os.getpid())  # each job ends when this process does (running/termination.py)


if workflow.local_exec and slots() and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(slots()))  # so that no job occupies a core while it waits for a GPU


def paths(rule, wildcards):
    """{name: path} of the outputs of a job."""
    return {name: str(pattern).format(**wildcards) for name, pattern in getattr(rules, rule).output.items()}


RECIPES = Recipes(CATALOGUE, paths)


def inputs(rule):
    """An input function: writes the recipe of a job, and returns its path and the files that the job reads."""

    def recipe_and_files(wildcards):
        if study := wildcards.get("study"):
            check_files(study)
            add_finished_part(study)
        try:
            recipe = RECIPES.of(rule, dict(wildcards))
        except (ConfigError, DataError, ObjectError) as error:
            raise WorkflowError(str(error))
        try:
            path = RECIPES.write(rule, dict(wildcards))
        except OSError as error:
            raise WorkflowError(f"the results folder cannot be written to: {error}")
        workflow.iocache.exists_local[path] = True  # Snakemake may have listed its folder before
        return {"recipe": path} | RECIPES.inputs_to_demand(rule, dict(wildcards))

    return recipe_and_files


def command(wildcards, input, resources):
    """The command line of the job. Snakemake reruns no job for a parameter that is made from input and resources."""
    recipe = RECIPES.written[input.recipe]
    script = WORKFLOW / "scripts" / f"{recipe['rule']}.py"
    environment = environment_of_jobs()
    environment.append(f"{BUDGET}={os.environ.get(BUDGET) or resources.get('mem_mb', '')}")
    python = "python" if workflow.deployment_settings.deployment_method else sys.executable
    gpus = str(resources.get("gpu", 0))
    job = [python, "-P", str(script), input.recipe, "--key", recipe["key"], "--gpu", gpus]
    return shlex.join(environment + job)


def refuse(wildcards):
    """The input function of `job`, which is called only if that rule is itself the target of a run."""
    raise WorkflowError("`job` makes no file, the other rules only inherit from it: ask for a study or a file")


def needs(memory=2000, minutes=10, **others):
    """The resources of a job: memory in MB and time in minutes, n times as much in attempt n, and others by name."""
    return {
        "mem_mb": lambda wildcards, attempt: memory * attempt,
        "runtime": lambda wildcards, attempt: minutes * attempt,
    } | others


def on_gpu(minutes):
    """The resources of a job that uses one GPU."""
    return needs(8000, minutes, gpu=1)


def processes(rule):
    """A function of wildcards: the number of processes of a training, each of which has a GPU and a thread."""
    return lambda wildcards: RECIPES.of(rule, dict(wildcards))["settings"].get("gpus", 1)


def training(rule, minutes):
    """The resources of a training. All attempts get the same time, as they resume from a checkpoint."""
    count = processes(rule)
    return {
        "gpu": lambda wildcards: count(wildcards),  # Snakemake accepts no other callables
        "mem_mb": lambda wildcards, attempt: 8000 * count(wildcards) * attempt,
        "runtime": minutes,
    }


# parts of the rules' messages
NETWORK = "{wildcards.network} on {wildcards.dataset} ({wildcards.regime})"
PAIR = "the pair {wildcards.pair} of %s" % NETWORK
ALIGNED = "%s, aligned by {wildcards.alignment}" % PAIR
MEMBERS = "the networks {wildcards.members} of %s" % NETWORK
CURVE = "the curve {wildcards.curve}, seed {wildcards.curve_seed}, of %s" % ALIGNED


def known(section):
    """A regular expression that matches the names in a section of the config, for wildcard constraints."""
    return "|".join(map(re.escape, config.get(section) or ["-"]))  # "-" matches nothing: no name starts with it


wildcard_constraints:
    dataset=known("datasets"),
    network=known("networks"),
    regime=known("regimes"),
    alignment=known("alignments"),
    cohort=known("cohorts"),
    members=rf"(\d+|{known('checkpoints')})(-(\d+|{known('checkpoints')}))+",
    curve=known("curves"),
    evaluation=known("evaluations"),
    plane=known("planes"),
    merge=known("merges"),
    through=rf"initial|({known('curves')})/\d+",
    study=rf"({known('studies')})({INCOMPLETE})?",
    pair=rf"(\d+|{known('checkpoints')})-(\d+|{known('checkpoints')})",
    seed=r"\d+",
    checkpoint=known("checkpoints"),
    curve_seed=r"\d+",
    figure=r"[\w.-]+",


def products(study):
    """The paths of a study's report, tables and figures."""
    plots = [paths("plot", {"study": study, "figure": figure}) for figure in figures(CATALOGUE, study)]
    outputs = [paths("report", {"study": study}), paths("tabulate", {"study": study}), *plots]
    if any(True for _ in cohorts_of(CATALOGUE, study)):
        outputs.append(paths("tabulate_cohorts", {"study": study}))
    if any(True for _ in merges_of(CATALOGUE, study)):
        outputs.append(paths("tabulate_merges", {"study": study}))
    return [path for files in outputs for path in files.values()]


@cache
def check_files(study):
    """Refuse a study, or its finished part, if checkpoints or data of the user that it reads are not there."""
    try:
        check_sources(CATALOGUE, study.removesuffix(INCOMPLETE))
    except ConfigError as error:
        raise WorkflowError(str(with_lines(error, CONFIG_FILES)))


def add_finished_part(study):
    """If `study` is NAME_incomplete, add it to the catalogue: the study of those paths of NAME that are finished."""
    if not study.endswith(INCOMPLETE) or study in CATALOGUE.studies:
        return
    complete = study.removesuffix(INCOMPLETE)
    part = finished_part(CATALOGUE, complete, RECIPES.is_current, outcome)
    finished, planned = part["missing"]["paths"]
    if not part["missing"]["jobs"]:
        raise WorkflowError(f"nothing of the study {complete} is missing: ask for {complete}")
    if not finished:
        causes = "".join(f"\n  {row['rule']} {row['wildcards']}: {row['why']}" for row in part["missing"]["jobs"])
        raise WorkflowError(f"none of the {planned} paths of the study {complete} is finished:{causes}")
    CATALOGUE.studies[study] = part


def outcome(rule, wildcards):
    """What became of a job whose results are missing or not current."""
    log = str(getattr(rules, rule).log[0]).format(**wildcards)
    failure_report = failure.report_path(Path(RECIPES.write(rule, wildcards)))
    return outcome_of(failure_report, Path(log), RECIPES.of(rule, wildcards)["key"])


def products_of_finished_part(study):
    """An input function: the report, tables and figures of the finished part of a study."""

    def products_now(wildcards):
        check_files(study)
        add_finished_part(f"{study}{INCOMPLETE}")
        return products(f"{study}{INCOMPLETE}")

    return products_now
