"""The report of a study: one self-contained HTML page with its tables, figures and provenance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from neuralign.common.files import atomic
from neuralign.report.page import paper_tables
from neuralign.report.page.page import render
from neuralign.workflow.running.run import run


def main(
    accuracy: str,
    robust: str,
    contrasts: str,
    paths: str,
    alignments: str,
    published: str,
    claims: str,
    figures: Sequence[str],
    artefacts: Sequence[str],
    html: str,
    *,
    study: dict[str, Any],
    drawings: Sequence[dict[str, Any]],
    missing: Mapping[str, Any] | None = None,
) -> None:
    """`drawings[i]` is the config entry that `figures[i]` (PNG) was drawn with; the provenance notes of `artefacts` lie
    beside them. `missing`: what an unfinished study lacks (`neuralign.workflow.incomplete.part`).
    """
    tables = [pd.read_csv(table) for table in (accuracy, robust, contrasts, paths)]
    pairs = zip(figures, drawings, strict=True)
    pictures = [(Path(figure).read_bytes(), caption(drawing)) for figure, drawing in pairs]
    beside = paper_tables.sections(pd.read_csv(published), pd.read_csv(claims), drawings, tables[0]["method"].unique())
    notes = [json.loads(note.read_text()) for note in (Path(f"{a}.json") for a in artefacts) if note.exists()]
    more = {"alignments": paper_tables.alignment_tables(pd.read_csv(alignments)), "paper": beside}
    page = render(*tables, pictures=pictures, notes=notes, study=study, missing=missing, **more)
    with atomic(html) as temporary:
        temporary.write_text(page, encoding="utf-8")


def caption(drawing: Mapping[str, Any]) -> str:
    """The caption of a figure with this config entry: the entry's own `caption`, else one made of its options."""
    if "caption" in drawing:
        return str(drawing["caption"])
    attack, column = drawing.get("attack", "clean"), str(drawing.get("column", "accuracy"))
    images = "clean test images" if attack == "clean" else f"test images under the attack {attack}"
    above = " (above: clean images)" if drawing.get("beside_clean") else ""
    which = {"all": "", "curves": ", trained curves only", "lines": ", straight lines only"}[drawing.get("show", "all")]
    shows = {
        "path": f"Test {column} along the path from one endpoint (t = 0) to the other (t = 1), "
        f"on {images}{above}{which}.",
        "signature": "Correlation of matched units on held-out data, layer by layer in order of depth, before and "
        "after alignment. A value is a mean over the units of a layer.",
        "training": "Cross-entropy (left) and accuracy (right) on the training data while training. "
        "The points of a curve are drawn at random.",
        "plane": f"Test {column} on the plane of weight space through three models, batch-norm statistics re-estimated "
        "at every node of a grid: mean over pairs and, below, sample standard deviation (none for n = 1). A dot is a "
        "model of a pair.",
        "midpoint": "Correlation of the units of a curve's midpoint with those of both ends on held-out data, layer by "
        "layer: as they are, after the midpoint is aligned anew to that end, and of the straight line's midpoint. A "
        "value is a mean over the units of a layer, over ends and pairs.",
        "theory": "Three quantities known before a curve is trained, against the mean test loss of the trained "
        "curve: the bound on the straight line's loss, its data-dependent estimate, and the distance of activations. "
        "One point per path; rank correlations in tables/theory.csv.",
    }
    text = shows.get(str(drawing.get("use")), f"{str(drawing.get('use', 'figure')).capitalize()}.")
    if drawing.get("use") in ("plane", "theory"):
        return text
    return f"{text} Lines are means over repetitions, bands one sample standard deviation (none for n = 1)."


if __name__ == "__main__":
    run(main)
