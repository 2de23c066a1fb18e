"""Correlation signatures of a pair."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny import pictures, randomised, shifts
from torch import Tensor

from neuralign.alignment.activations import correlations
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.problem import Problem
from neuralign.datasets.images import Images, as_float
from neuralign.evaluation.signatures import compare, midpoint
from neuralign.networks.model import Model
from neuralign.symmetry.permutations import identity, inverse, permute
from neuralign.symmetry.tracing.trace import trace


def problem_of(model: Model, images: Images, source: dict[str, Tensor] | None = None) -> Problem:
    traced = trace(model.network, model.normalise(as_float(images.pixels[:2])))
    target = randomised(model.network, 1)
    return Problem(model, traced, target, randomised(model.network, 2) if source is None else source, images)


def test_there_is_a_row_for_every_activation_in_the_order_of_depth(model: Model, images: Images) -> None:
    problem = problem_of(model, images)
    rows = list(compare(problem, identity(problem.trace.spec)))
    assert {tuple(row) for row in rows} == {
        ("layer", "order", "group", "units", "before", "before_sd", "after", "after_sd")
    }
    taps = [(tap.node, group) for group, group_taps in problem.trace.taps.items() for tap in group_taps]
    assert sorted((row["layer"], row["group"]) for row in rows) == sorted(taps)
    depths = [problem.trace.depths[row["layer"]] for row in rows]
    assert depths == sorted(depths)
    assert [row["order"] for row in rows] == list(range(len(rows)))
    assert all(row["units"] == problem.trace.spec.sizes[row["group"]] for row in rows)


def test_the_layers_of_tinyten_come_one_after_the_other(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    rows = list(compare(problem, identity(problem.trace.spec)))
    assert [row["layer"] for row in rows] == [f"features_relu{i}" for i in range(1, 9)]


def test_before_and_after_are_the_mean_correlations_of_matched_units(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    permutation = shifts(problem.trace.spec)
    matrices = correlations(problem)
    for row in compare(problem, permutation):
        (matrix,) = (m.numpy() for m in matrices[row["group"]].values())
        units, match = range(len(matrix)), permutation[row["group"]].tolist()
        assert row["before"] == pytest.approx(np.mean([matrix[i, i] for i in units]), abs=1e-12)
        assert row["after"] == pytest.approx(np.mean([matrix[i, match[i]] for i in units]), abs=1e-12)
        assert row["before_sd"] == pytest.approx(np.std([matrix[i, i] for i in units], ddof=1), abs=1e-12)
        assert row["after_sd"] == pytest.approx(np.std([matrix[i, match[i]] for i in units], ddof=1), abs=1e-12)


def test_nothing_changes_under_the_identity(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    for row in compare(problem, identity(problem.trace.spec)):
        assert (row["before"], row["before_sd"]) == (row["after"], row["after_sd"])


def test_the_true_permutation_brings_every_live_layer_to_one(tinyten: Model, images: Images) -> None:
    spec, target = problem_of(tinyten, images).trace.spec, randomised(tinyten.network, 1)
    problem = problem_of(tinyten, images, permute(spec, shifts(spec), target))
    first, *_ = compare(problem, inverse(shifts(spec)))
    assert first["after"] == pytest.approx(1, abs=1e-6) and first["after_sd"] == pytest.approx(0, abs=1e-6)
    assert first["before"] < 0.9


def test_all_images_of_the_problem_are_used(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    fewer = Problem(tinyten, problem.trace, problem.target, problem.source, images.first(11))
    permutation = identity(problem.trace.spec)
    assert next(compare(problem, permutation))["before"] != next(compare(fewer, permutation))["before"]


def test_a_single_unit_has_no_deviation(images: Images) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 1, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(14 * 14, 5)]
    model = Model(torch.nn.Sequential(*layers).double(), torch.zeros(3, 1, 1).double(), torch.ones(3, 1, 1).double())
    (row,) = compare(problem := problem_of(model, images), identity(problem.trace.spec))
    assert row["units"] == 1
    assert math.isnan(row["before_sd"]) and math.isnan(row["after_sd"])


# midpoints


def by_series(rows: list[dict]) -> dict[str, list[float]]:
    return {s: [r["correlation"] for r in rows if r["series"] == s] for s in dict.fromkeys(r["series"] for r in rows)}


def test_a_midpoint_has_three_series_in_every_layer(model: Model, images: Images) -> None:
    problem = problem_of(model, images)
    rows = list(midpoint(problem, randomised(model.network, 3), images.first(7)))
    layers = list(compare(problem, identity(problem.trace.spec)))
    assert len(rows) == 3 * len(layers)
    assert {tuple(r) for r in rows} == {("layer", "order", "group", "units", "series", "correlation", "correlation_sd")}
    assert [r["layer"] for r in rows[::3]] == [r["layer"] for r in layers]


def test_a_midpoint_is_compared_on_held_out_images_and_realigned_on_the_others(tinyten: Model, images: Images) -> None:
    problem, initial, held_out = problem_of(tinyten, images), randomised(tinyten.network, 3), pictures(9, seed=4)
    rows = by_series(list(midpoint(problem, initial, held_out)))
    on_held_out = dataclasses.replace(problem, examples=held_out)
    expected = list(compare(on_held_out, correlation(problem)))
    assert rows["before"] == [r["before"] for r in expected]
    assert rows["re-aligned"] == [r["after"] for r in expected]
    other = compare(dataclasses.replace(on_held_out, source=initial), identity(problem.trace.spec))
    assert rows["linear midpoint"] == [r["before"] for r in other]


def test_a_midpoint_that_is_a_permuted_end_is_realigned_to_it(tinyten: Model, images: Images) -> None:
    spec, target = problem_of(tinyten, images).trace.spec, randomised(tinyten.network, 1)
    problem = problem_of(tinyten, images, permute(spec, shifts(spec), target))
    rows = by_series(list(midpoint(problem, target, pictures(9, seed=4))))
    assert rows["re-aligned"][0] == pytest.approx(1, abs=1e-6) and rows["before"][0] < 0.9
    assert rows["linear midpoint"][0] == pytest.approx(1, abs=1e-6)
