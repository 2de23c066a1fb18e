"""The merged networks of a study beside their members, as `neuralign.report.summary.cohorts` explains."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.report import summary
from neuralign.workflow.running.run import run


def main(
    evaluations: Sequence[str], alignments: Sequence[str], cohorts: str, *, runs: Sequence[dict[str, Any]]
) -> None:
    """`runs[i]` identifies the networks of `evaluations[i]` and `alignments[i]`."""
    files = zip(runs, evaluations, alignments, strict=True)
    rows = [row for run, e, a in files for row in summary.cohorts(run, pd.read_csv(e), pd.read_csv(a))]
    write_frames({cohorts: pd.DataFrame(rows)})


if __name__ == "__main__":
    run(main)
