"""The evaluations of a study as five tables, whose columns `neuralign.report.summary` explains."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.config.metrics import metrics_of
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
    measured: Mapping[str, str] | None = None,
) -> None:
    """`runs[i]` identifies the path of `evaluations[i]`; published values are added for the regimes in `compared`.

    `measured`: the arguments of `metrics_of`.
    """
    metrics, files = metrics_of(**measured or {}), zip(evaluations, runs, strict=True)
    parts = [summary.tidy(pd.read_csv(f), r, source=str(f), metrics=metrics) for f, r in files]
    rows = pd.concat(parts, ignore_index=True)
    per_path = summary.paths(rows, metrics)
    write_frames(
        {
            points: rows,
            paths: per_path,
            accuracy: summary.accuracy(rows, per_path, compared=compared, metrics=metrics),
            robust: summary.robust(rows, per_path, metrics),
            contrasts: summary.contrasts(per_path, metrics),
        }
    )


if __name__ == "__main__":
    run(main)
