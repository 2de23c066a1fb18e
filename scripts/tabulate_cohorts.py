"""The merged networks of a study beside their members, as `neuralign.report.summary.cohorts` explains."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.config.metrics import metrics_of
from neuralign.report import summary
from neuralign.workflow.running.run import run


def main(
    evaluations: Sequence[str],
    alignments: Sequence[str],
    cohorts: str,
    *,
    runs: Sequence[dict[str, Any]],
    measured: Mapping[str, str] | None = None,
) -> None:
    """`runs[i]` identifies the networks of `evaluations[i]` and `alignments[i]`; `measured`: see `metrics_of`."""
    files, metrics = zip(runs, evaluations, alignments, strict=True), metrics_of(**measured or {})
    rows = [row for run, e, a in files for row in summary.cohorts(run, pd.read_csv(e), pd.read_csv(a), metrics)]
    write_frames({cohorts: pd.DataFrame(rows)})


if __name__ == "__main__":
    run(main)
