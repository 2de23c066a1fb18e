"""The paper beside the study: its numbers, its claims, and how far alignments reach, as three tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.files import atomic
from neuralign.report.claims.claims import judged
from neuralign.report.claims.evidence import Evidence
from neuralign.report.claims.evidence import alignments as reach
from neuralign.report.published import against_published
from neuralign.report.summary import published as published_table
from neuralign.workflow.running.run import run

Runs = Sequence[dict[str, Any]]


def main(
    accuracy: str,
    points: str,
    paths: str,
    moved: Sequence[str],
    signatures: Sequence[str],
    histories: Sequence[str],
    published: str,
    claims: str,
    alignments: str,
    *,
    runs: dict[str, Runs],
    midpoints: Sequence[str] = (),
    theory: str | None = None,
    compared: Sequence[str] = ("standard",),
) -> None:
    """`runs[name][i]` says what the i-th file of the list `name` is of; its entries become columns.

    `theory` is the table of bounds by path. What is not given is evidence of nothing.
    """
    lists = {"moved": moved, "signatures": signatures, "histories": histories, "midpoints": midpoints}
    gathered = {name: gather(files, runs.get(name, ())) for name, files in lists.items()}
    whole = {"points": pd.read_csv(points), "paths": pd.read_csv(paths)}
    evidence = Evidence(**whole, **gathered, theory=pd.read_csv(theory) if theory else pd.DataFrame())
    tables = {
        published: against_published(pd.read_csv(accuracy), published_table(), compared),
        claims: judged(evidence),
        alignments: reach(evidence.moved),
    }
    for path, table in tables.items():
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")


def gather(files: Sequence[str], runs: Runs) -> pd.DataFrame:
    """The rows of all files in one table, each with what its run says."""
    parts = [pd.read_csv(file).assign(**about) for file, about in zip(files, runs, strict=True)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


if __name__ == "__main__":
    run(main)
