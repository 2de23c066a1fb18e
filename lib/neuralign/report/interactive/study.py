"""The interactive views of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.common.quantities import Metrics
from neuralign.report.interactive.paths import paths_view
from neuralign.report.interactive.planes import planes_view
from neuralign.report.interactive.view import View


def views(
    points: pd.DataFrame, planes: Sequence[tuple[pd.DataFrame, Mapping[str, Any]]], metrics: Metrics
) -> list[View]:
    """Of the paths, and of the planes if there are any.

    Args:
        points: the table of `summary.tidy`.
        planes: grids and marks of planes, each with the description of its run, as the figure `plane` gets them.
        metrics: what is measured.
    """
    found = [paths_view(points, metrics)]
    parts = [frame.assign(**run, run=i) for i, (frame, run) in enumerate(planes)]
    kinds = [[part for part in parts if ("method" in part) is of_curves] for of_curves in (False, True)]
    if parts:
        found.append(planes_view([pd.concat(kind, ignore_index=True) for kind in kinds if kind], metrics))
    return found
