"""The graph of the workflow: the description of any job, and all jobs that a study needs. Torch-free.

Both the inputs of Snakemake's rules and the keys of recipes come from these descriptions. So what a script reads and
what decides whether it runs again cannot differ.
"""

from collections.abc import Iterator

from neuralign.config.catalogue import Catalogue
from neuralign.workflow import path_jobs, study_jobs  # noqa: F401 (importing them registers their rules)
from neuralign.workflow.job import Job, Wildcards, describe, ref
from neuralign.workflow.running.notes import entries


def job(c: Catalogue, rule: str, wildcards: Wildcards) -> Job:
    """As `workflow.job.describe`; importing it from here makes sure that all rules are registered."""
    return describe(c, rule, wildcards)


def jobs(c: Catalogue, study: str) -> Iterator[tuple[str, Wildcards, Job]]:
    """(rule, wildcards, description) of every job that the report of a study needs, the report included, each once."""
    pending, seen = [ref("report", "html", study=study)], set()
    while pending:
        output = pending.pop()
        if (output.rule, output.wildcards) in seen:
            continue
        seen.add((output.rule, output.wildcards))
        wildcards = dict(output.wildcards)
        described = job(c, output.rule, wildcards)
        yield output.rule, wildcards, described
        pending += entries(described.inputs)
