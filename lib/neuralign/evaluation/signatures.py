"""Correlation signatures (the paper, section 4): how similar two networks are, unit by unit, in every layer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from neuralign.alignment.activations import correlations
from neuralign.alignment.algorithms.correlation import correlation as align
from neuralign.alignment.problem import Problem
from neuralign.datasets.images import Images
from neuralign.networks.model import State
from neuralign.symmetry.permutations import Permutation, identity

COLUMNS = ("layer", "order", "group", "units", "before", "before_sd", "after", "after_sd")  # of a table of `compare`


def compare(problem: Problem, permutation: Permutation) -> Iterator[dict[str, Any]]:
    """One row per activation: the mean correlation of matched units over all of the problem's images, before and after.

    Columns: layer, order (depth), group, units, before, before_sd, after, after_sd; the sd is over the units.
    """
    depth = problem.trace.order
    found = [(tap, group, m) for group, taps in correlations(problem).items() for tap, m in taps.items()]
    for order, (tap, group, matrix) in enumerate(sorted(found, key=lambda f: (depth[f[0].node], f[0].start))):
        row: dict[str, Any] = {"layer": tap.node, "order": order, "group": group, "units": len(matrix)}
        for when, values in {"before": matrix.diag(), "after": matrix[range(len(matrix)), permutation[group]]}.items():
            row |= {when: values.mean().item(), f"{when}_sd": values.std().item() if len(values) > 1 else float("nan")}
        yield row


def midpoint(problem: Problem, initial: State, held_out: Images) -> Iterator[dict[str, Any]]:
    """How the midpoint of a trained curve, the problem's source, compares with an end of it, the problem's target.

    One row per activation and series: the mean correlation of matched units over the `held_out` images. The series are
    the midpoint `before` and after it is `re-aligned` to that end on the problem's own images, and, as it is, the
    `linear midpoint`, where training began: the network `initial`. Columns: layer, order (depth), group, units, series,
    correlation, correlation_sd; the sd is over the units.
    """
    held = replace(problem, images=held_out)
    trained = compare(held, align(problem))
    untrained = compare(replace(held, source=initial), identity(problem.trace.spec))
    for row, other in zip(trained, untrained, strict=True):
        place = {key: row[key] for key in ("layer", "order", "group", "units")}
        series = {"before": (row, "before"), "re-aligned": (row, "after"), "linear midpoint": (other, "before")}
        for name, (found, when) in series.items():
            yield place | dict(series=name, correlation=found[when], correlation_sd=found[f"{when}_sd"])
