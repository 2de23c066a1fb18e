"""The merged pairs of a study as three tables, which `neuralign.report.merges` explains."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign.common.tables import write_frames
from neuralign.report.merges import by_pair, contrasts, over_pairs
from neuralign.workflow.running.run import run


def main(
    models: Sequence[str],
    barrier: Sequence[str],
    layers: Sequence[str],
    merges: str,
    merges_by_pair: str,
    merges_contrasts: str,
    *,
    runs: Sequence[dict[str, Any]],
) -> None:
    """`runs[i]` identifies the pair and the alignment of `models[i]`, `barrier[i]` and `layers[i]`."""
    files = zip(runs, models, barrier, layers, strict=True)
    table = pd.DataFrame([row for run, *paths in files for row in by_pair(run, *map(pd.read_csv, paths))])
    write_frames({merges: over_pairs(table), merges_by_pair: table, merges_contrasts: contrasts(table)})


if __name__ == "__main__":
    run(main)
