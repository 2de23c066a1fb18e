"""The graph of the workflow: any of its jobs, and all jobs behind a study. Torch-free.

Snakemake's rules take their inputs from it and `recipes.py` its keys, so what a script is given and what its staleness
depends on are the same thing.
"""

from collections.abc import Iterator

from neuralign.config.catalogue import Catalogue
from neuralign.workflow import path_jobs, study_jobs  # noqa: F401 (importing them registers their rules)
from neuralign.workflow.job import Job, Wildcards, describe, ref
from neuralign.workflow.running.notes import entries


def job(c: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """The job of `rule` with these wildcards."""
    return describe(c, rule, wildcards)


def jobs(c: Catalogue, study: str) -> Iterator[tuple[str, Wildcards, Job]]:
    """Every job behind the report of a study, once."""
    waiting, seen = [ref("report", "html", study=study)], set()
    while waiting:
        needed = waiting.pop()
        if (needed.rule, needed.wildcards) in seen:
            continue
        seen.add((needed.rule, needed.wildcards))
        wildcards = dict(needed.wildcards)
        described = job(c, needed.rule, wildcards)
        yield needed.rule, wildcards, described
        waiting += entries(described.inputs)
