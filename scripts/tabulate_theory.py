"""The bounds of a study beside the losses of its curves, and their rank correlations (`report.theory_ranks`)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.report import summary, theory_ranks
from neuralign.workflow.running.run import run


def main(
    bounds: Sequence[str],
    evaluations: Sequence[str],
    theory: str,
    theory_paths: str,
    *,
    runs: Sequence[dict[str, Any]],
) -> None:
    """`runs[i]` describes the trained curve of `bounds[i]` and `evaluations[i]`; its entries become columns."""
    lines = [pd.read_csv(f).assign(**r) for f, r in zip(bounds, runs, strict=True)]
    points = [summary.tidy(pd.read_csv(f), r, source=str(f)) for f, r in zip(evaluations, runs, strict=True)]
    measured = summary.paths(pd.concat(points, ignore_index=True))
    paths = theory_ranks.paths(pd.concat(lines, ignore_index=True), measured)
    write_frames({theory: theory_ranks.ranks(paths), theory_paths: paths})


if __name__ == "__main__":
    run(main)
