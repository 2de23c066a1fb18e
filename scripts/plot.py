"""One figure, as PNG and PDF, from the tidy files of many runs."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from neuralign import figures
from neuralign.job import run
from neuralign.plugins import plugin


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
    figures.save(draw(pd.concat(parts, ignore_index=True)), png, pdf)


if __name__ == "__main__":
    run(main)
