"""Tables of the study's numbers beside the published ones, of verdicts on the paper's claims, and of alignments."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.config.metrics import metrics_of
from neuralign.report.claims import evidence as evidence_tables
from neuralign.report.claims.claims import judged
from neuralign.report.published import against_published, published_table
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
    compared: Sequence[str],
    measured: Mapping[str, str] | None = None,
) -> None:
    """Judge the paper's claims by the tables of the study.

    `runs[name][i]` describes the i-th file of the list `name`; its entries become columns. `theory` is the table of
    bounds by path. A claim whose tables are missing is reported as not measured. `measured`: the arguments of
    `metrics_of`.
    """
    metrics = metrics_of(**measured or {})
    lists = {"moved": moved, "signatures": signatures, "histories": histories, "midpoints": midpoints}
    evidence = evidence_tables.Evidence(
        points=pd.read_csv(points),
        paths=pd.read_csv(paths),
        theory=pd.read_csv(theory) if theory else pd.DataFrame(),
        metrics=metrics,
        **{name: gather(files, runs.get(name, ())) for name, files in lists.items()},
    )
    write_frames(
        {
            published: against_published(pd.read_csv(accuracy), published_table(), compared, metrics),
            claims: judged(evidence),
            alignments: evidence_tables.alignments(evidence.moved),
        }
    )


def gather(files: Sequence[str], runs: Runs) -> pd.DataFrame:
    """The rows of all files in one table, with the entries of their runs as columns."""
    parts = [pd.read_csv(file).assign(**run) for file, run in zip(files, runs, strict=True)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


if __name__ == "__main__":
    run(main)
