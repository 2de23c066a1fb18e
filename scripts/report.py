"""The report of a study: one self-contained HTML page with its tables, figures and provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuralign.common.files import atomic
from neuralign.config.metrics import metrics_of
from neuralign.report.costs import one_for_each_job
from neuralign.report.interactive.study import views
from neuralign.report.page import merge_tables, paper_tables
from neuralign.report.page.page import render
from neuralign.workflow.running.run import run


def main(
    accuracy: str,
    robust: str,
    contrasts: str,
    paths: str,
    points: str,
    alignments: str,
    published: str,
    claims: str,
    figures: Sequence[str],
    artefacts: Sequence[str],
    html: str,
    *,
    study: dict[str, Any],
    drawings: Sequence[dict[str, Any]],
    measured: Mapping[str, str] | None = None,
    planes: Sequence[str] = (),
    plane_runs: Sequence[dict[str, Any]] = (),
    cohorts: str | None = None,
    merges: str | None = None,
    merges_by_pair: str | None = None,
    merges_contrasts: str | None = None,
    missing: Mapping[str, Any] | None = None,
) -> None:
    """Write the page. `drawings[i]` is the config entry that `figures[i]` (PNG) was drawn with. The notes of origin are
    read from beside the `artefacts`. `measured`: the arguments of `metrics_of`. `planes`: grids and marks, `planes[i]`
    of `plane_runs[i]`. `missing`: what an unfinished study lacks (`workflow.incomplete.finished_part`).
    """
    tables = [pd.read_csv(table) for table in (accuracy, robust, contrasts, paths)]
    methods, metrics = tables[0]["method"].unique(), metrics_of(**measured or {})
    files = (file for file in (Path(f"{artefact}.json") for artefact in artefacts) if file.exists())
    notes = one_for_each_job(json.loads(file.read_text()) for file in files)
    merged = [pd.read_csv(table) for table in (merges, merges_by_pair, merges_contrasts) if table is not None]
    page = render(
        *tables,
        drawn=[(Path(figure).read_bytes(), drawing) for figure, drawing in zip(figures, drawings, strict=True)],
        alignments=paper_tables.alignment_tables(pd.read_csv(alignments), metrics),
        paper=paper_tables.sections(pd.read_csv(published), pd.read_csv(claims), drawings, methods, metrics),
        notes=notes,
        study=study,
        metrics=metrics,
        cohorts=None if cohorts is None else pd.read_csv(cohorts),
        merges=merge_tables.section(*merged, notes) if merged else None,
        missing=missing,
        views=views(
            pd.read_csv(points),
            [(pd.read_csv(plane), run) for plane, run in zip(planes, plane_runs, strict=True)],
            metrics,
        ),
    )
    with atomic(html) as temporary:
        temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
