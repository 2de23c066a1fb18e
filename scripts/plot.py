"""One figure, as PNG and PDF, from the tidy files of many runs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

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
) -> None:
    """`runs[i]` names what `frames[i]` is of; its entries become columns, and `run`, its place, another."""
    if not frames:
        raise ValueError(f"a figure '{kind}' of nothing: no frames given")
    parts = [pd.read_csv(f).assign(**r, run=i) for i, (f, r) in enumerate(zip(frames, runs, strict=True))]
    draw = plugin("figures", {"use": kind, **(options or {})})
    save(draw(pd.concat(parts, ignore_index=True)), png, pdf)


if __name__ == "__main__":
    run(main)
