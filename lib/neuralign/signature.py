"""Correlation signatures (the paper, section 4): how similar two networks are, unit by unit, in every layer."""

from collections.abc import Iterator
from typing import Any

from neuralign.align import Problem
from neuralign.align.correlation import correlations
from neuralign.symmetry import Permutation


def compare(problem: Problem, permutation: Permutation) -> Iterator[dict[str, Any]]:
    """One row per activation: the mean correlation of matched units over all of the problem's images, before and after.

    Columns: layer, order (depth), group, units, before, before_sd, after, after_sd; the sd is over the units.
    """
    depth = {node.name: i for i, node in enumerate(problem.trace.graph.graph.nodes)}
    found = [(tap, group, m) for group, taps in correlations(problem).items() for tap, m in taps.items()]
    for order, (tap, group, matrix) in enumerate(sorted(found, key=lambda f: (depth[f[0].node], f[0].start))):
        row: dict[str, Any] = {"layer": tap.node, "order": order, "group": group, "units": len(matrix)}
        for when, values in {"before": matrix.diag(), "after": matrix[range(len(matrix)), permutation[group]]}.items():
            row |= {when: values.mean().item(), f"{when}_sd": values.std().item() if len(values) > 1 else float("nan")}
        yield row
