"""Correlation signatures (the paper, section 4): the mean correlation of matched units of two networks, per layer."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from neuralign.alignment.activations import correlations
from neuralign.alignment.algorithms.correlation import correlation as align
from neuralign.alignment.problem import Problem
from neuralign.datasets.batches import Examples
from neuralign.networks.model import State
from neuralign.symmetry.permutations import Permutation, identity

COLUMNS = ("layer", "order", "group", "units", "before", "before_sd", "after", "after_sd")  # of `compare`


def compare(problem: Problem, permutation: Permutation) -> Iterator[dict[str, Any]]:
    """One row per activation: the mean correlation of matched units, before and after alignment.

    Columns: layer, order (of the layers, by depth), group, units, before, before_sd, after, after_sd. The standard
    deviations are over the units.
    """
    depth = problem.trace.depths
    matrices = [(tap, group, m) for group, taps in correlations(problem).items() for tap, m in taps.items()]
    by_depth = sorted(matrices, key=lambda entry: (depth[entry[0].node], entry[0].start))
    for order, (tap, group, matrix) in enumerate(by_depth):
        row: dict[str, Any] = {"layer": tap.node, "order": order, "group": group, "units": len(matrix)}
        for when, values in {"before": matrix.diag(), "after": matrix[range(len(matrix)), permutation[group]]}.items():
            row |= {when: values.mean().item(), f"{when}_sd": values.std().item() if len(values) > 1 else float("nan")}
        yield row


def midpoint(problem: Problem, initial: State, held_out: Examples) -> Iterator[dict[str, Any]]:
    """The correlation of a curve's midpoint (the problem's source) with an end of the curve (the problem's target).

    One row per activation and series, with the mean correlation of matched units on the `held_out` examples. Series:
    "before", of the midpoint as it is; "re-aligned", of the midpoint after its alignment to that end on the problem's
    images; "linear midpoint", of the network `initial`, the midpoint when the training of the curve began. Columns:
    layer, order (of the layers, by depth), group, units, series, correlation, correlation_sd (over the units).
    """
    on_held_out = replace(problem, examples=held_out)
    trained_rows = compare(on_held_out, align(problem))
    initial_rows = compare(replace(on_held_out, source=initial), identity(problem.trace.spec))
    for trained, untrained in zip(trained_rows, initial_rows, strict=True):
        layer = {key: trained[key] for key in ("layer", "order", "group", "units")}
        series = {"before": (trained, "before"), "re-aligned": (trained, "after")}
        series["linear midpoint"] = (untrained, "before")
        for name, (row, when) in series.items():
            yield layer | dict(series=name, correlation=row[when], correlation_sd=row[f"{when}_sd"])
