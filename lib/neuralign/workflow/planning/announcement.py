"""What a run says before its first job: how long it will take, if that is above a day, and which studies are smaller.

The estimates of all jobs that are due go with it, for the view of the run (`progress/`).
"""

import json
import logging
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from neuralign.config.catalogue import Catalogue
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import RULES
from neuralign.workflow.planning.estimator import Estimator
from neuralign.workflow.progress.run_state import Estimate
from neuralign.workflow.progress.words import count, duration

DAY = 86_400.0  # seconds
CANDIDATES = 8  # so many of the other studies, those with the fewest paths, are estimated: a tenth of a second each
SMALLER = 5  # so many of these are named
WITHOUT_NETWORKS = ("plot", "report")  # rules that need seconds; their descriptions take longest to make


def announce(config: dict[str, Any], dag: Any, logger: logging.Logger) -> None:
    """Log the estimates of the jobs that are due, and in words if they take more than a day on this machine.

    It is called when Snakemake is about to start jobs, and must not end the run: what goes wrong becomes a warning.

    Args:
        config: the config of the Snakefile, with the default config laid under it.
        dag: the jobs, as Snakemake has them (`workflow.dag` of the Snakefile).
        logger: the logger of Snakemake. One record has `estimates`, {number of a job: Estimate}, and `targets`, the
            names of the rules that run nothing.
    """
    if dag.workflow.touch:
        return
    try:
        due = [job for job in dag.needrun_jobs() if not job.is_norun]
        targets = sorted({job.rule.name for job in dag.needrun_jobs() if job.is_norun})
        catalogue = Catalogue(config)
        estimator = Estimator(catalogue, Path("results"), makes_data=False)
        estimates = {dag.jobid(job): estimate for job in due if (estimate := _estimate(estimator, dag, job))}
        logger.info(None, extra={"estimates": estimates, "targets": targets})
        seconds = sum(estimate.seconds for estimate in estimates.values())
        if seconds > DAY and dag.workflow.local_exec:
            is_measured = all(estimate.is_measured for estimate in estimates.values())
            studies = [e.wildcards["study"] for e in estimates.values() if "study" in e.wildcards]
            study = studies[0] if studies else catalogue.default_study
            logger.warning(in_words(catalogue, estimator, study, len(estimates), seconds, is_measured))
    except Exception as error:  # of whatever kind: the jobs themselves may be fine
        logger.warning(f"it is not known how long this run takes: {type(error).__name__}: {error}")


def in_words(
    catalogue: Catalogue, estimator: Estimator, study: str, number: int, seconds: float, is_measured: bool
) -> str:
    """What is said before a long run.

    Args:
        catalogue: the config.
        estimator: estimates jobs of that config.
        study: the name of the study that is about to run.
        number: how many jobs are due.
        seconds: their estimated time.
        is_measured: whether it comes from measured times.
    """
    guess = f"; a rough guess, `neuralign plan {study} --calibrate` times this machine" if not is_measured else ""
    lines = [f"This is a long run: {count(number, 'job')}, about {duration(seconds)} if one runs at a time{guess}."]
    others = sorted(_smaller_studies(catalogue, estimator, study, seconds))[:SMALLER]
    if others:
        lines.append("Smaller studies, if nothing of them is done yet:")
        width = max(len(name) for _, name in others)
        lines += [f"  neuralign run {name:<{width}}  about {duration(estimate)}" for estimate, name in others]
    lines.append("The run goes on all the same. After Ctrl-C, what is finished is kept, and the next run continues.")
    return "\n".join(lines)


def _estimate(estimator: Estimator, dag: Any, job: Any) -> Estimate | None:
    """The estimate of a job of Snakemake; None if it is none of this workflow."""
    rule, path = job.rule.name, job.input.get("recipe")
    if rule not in RULES or path is None:
        return None
    recipe = json.loads(Path(path).read_text())
    wildcards = recipe["wildcards"]
    needs = tuple(dag.jobid(other) for other in dag.dependencies[job])
    return Estimate(rule, wildcards, *estimator.seconds_or_guess(rule, wildcards, recipe["settings"]), needs)


def _smaller_studies(
    catalogue: Catalogue, estimator: Estimator, study: str, seconds: float
) -> Iterator[tuple[float, str]]:
    """(seconds, name) of those of the other studies with few paths that take less than `seconds`.

    Studies of datasets whose sizes are not known yet are left out.
    """

    def datasets(name: str) -> set[str]:
        return {dataset for grid in catalogue.studies[name]["grids"] for dataset in grid["dataset"]}

    def paths(name: str) -> int:
        grids = catalogue.studies[name]["grids"]
        axes = ("dataset", "network", "regime", "method")
        return sum(len(grid["pair"]) * prod(len(grid[axis]) for axis in axes) for grid in grids)

    others = [n for n in catalogue.studies if n != study and all(map(estimator.known_sizes, datasets(n)))]
    for name in sorted(others, key=paths)[:CANDIDATES]:
        estimates = [
            estimator.seconds_or_guess(rule, wildcards, job.settings)[0]
            for rule, wildcards, job in jobs(catalogue, name)
            if rule not in WITHOUT_NETWORKS
        ]
        if sum(estimates) < seconds:
            yield sum(estimates), name
