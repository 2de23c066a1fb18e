"""The evaluations of a study as five tables, whose columns `neuralign.report.summary` explains."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.report import summary
from neuralign.workflow.running.run import run


def main(
    evaluations: Sequence[str],
    points: str,
    paths: str,
    accuracy: str,
    robust: str,
    contrasts: str,
    *,
    runs: Sequence[dict[str, Any]],
    compared: Sequence[str],
) -> None:
    """`runs[i]` identifies the path of `evaluations[i]`; published values are added for the regimes in `compared`."""
    files = zip(evaluations, runs, strict=True)
    rows = pd.concat([summary.tidy(pd.read_csv(f), r, source=str(f)) for f, r in files], ignore_index=True)
    per_path = summary.paths(rows)
    write_frames(
        {
            points: rows,
            paths: per_path,
            accuracy: summary.accuracy(rows, per_path, compared=compared),
            robust: summary.robust(rows, per_path),
            contrasts: summary.contrasts(per_path),
        }
    )


if __name__ == "__main__":
    run(main)
