"""A figure, as PNG and PDF, from the tidy tables of many jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from neuralign.config.metrics import metrics_of
from neuralign.config.plugins import plugin
from neuralign.report.drawing import save
from neuralign.workflow.running.run import run


def main(
    frames: Sequence[str],
    png: str,
    pdf: str,
    *,
    kind: str,
    options: dict[str, Any] | None = None,
    runs: Sequence[dict[str, Any]],
    measured: Mapping[str, str] | None = None,
) -> None:
    """Draw all `frames` as one table; the entries of `runs[i]` become columns of `frames[i]`, i the column `run`.

    `measured`: the arguments of `metrics_of`.
    """
    if not frames:
        raise ValueError(f"figure {kind!r}: there are no tables to draw")
    parts = [pd.read_csv(f).assign(**r, run=i) for i, (f, r) in enumerate(zip(frames, runs, strict=True))]
    draw = plugin("figures", {"use": kind, **(options or {})})
    save(draw(pd.concat(parts, ignore_index=True), metrics_of(**measured or {})), png, pdf)


if __name__ == "__main__":
    run(main)
