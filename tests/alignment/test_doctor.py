"""Recovery of planted permutations: the share of recovered units, the noise, and the level where a method breaks."""

import pytest
import tiny
import torch
from tiny import assert_same, generator, randomised

from neuralign.alignment.problem import Problem
from neuralign.alignment.recovery import add_noise, breaking_levels, examine, random_images, recovered, silent_units
from neuralign.common.errors import UserError
from neuralign.config.plugins import plugin
from neuralign.symmetry.permutations import identity, inverse, random
from neuralign.symmetry.tracing.trace import trace


@pytest.fixture
def symmetry(tinyten):
    return trace(tinyten.network, torch.rand(2, 3, 16, 16).double())


def test_the_inverse_of_the_planted_permutation_recovers_all_units(symmetry):
    planted = random(symmetry.spec, generator(1))
    assert set(recovered(planted, inverse(planted)).values()) == {1.0}
    answer = inverse(planted)
    first, size = symmetry.spec.free[0], symmetry.spec.sizes[symmetry.spec.free[0]]
    answer[first][[0, 1]] = answer[first][[1, 0]]
    assert recovered(planted, answer)[first] == pytest.approx(1 - 2 / size)
    del answer[first]
    kept = (planted[first] == torch.arange(size)).double().mean().item()
    assert recovered(planted, answer)[first] == kept, "a group that a method leaves out stays in place"


def test_noise_has_its_nominal_size_and_does_not_change_buffers(tinyten):
    state = randomised(tinyten.network)
    assert_same(add_noise(tinyten, state, 0.0, 1), state)
    actual = add_noise(tinyten, state, 0.5, 1)
    name = "features.conv6.weight"
    assert (actual[name] - state[name]).std() == pytest.approx(0.5 * state[name].std().item(), rel=0.1)
    assert torch.equal(actual["features.bn1.running_var"], state["features.bn1.running_var"])
    again, other = add_noise(tinyten, state, 0.5, 1), add_noise(tinyten, state, 0.5, 2)
    assert_same(actual, again)
    assert not torch.equal(actual[name], other[name])


def test_without_noise_all_is_recovered_and_the_identity_recovers_hardly_anything(tinyten, symmetry, images):
    methods = {
        "correlation": plugin("alignments", {"use": "correlation", "read": "pre"}),
        "nothing": lambda problem: identity(problem.trace.spec),
    }
    rows = examine(tinyten, symmetry, randomised(tinyten.network), images, methods, levels=[0, 3], seeds=range(2))
    assert len(rows) == 2 * 2 * (len(symmetry.spec.free) + 1)
    overall = {(r["method"], r["noise"]): r for r in rows if r["group"] == ""}
    assert overall["correlation", 0]["recovered"] == 1 and overall["correlation", 0]["recovered_std"] == 0
    assert overall["correlation", 3]["recovered"] < 0.9 and overall["nothing", 0]["recovered"] < 0.5
    assert all(r["n"] == 2 for r in rows)
    assert sum(r["units"] for r in rows if r["group"]) == 4 * overall["nothing", 0]["units"]
    assert breaking_levels(rows) == {"correlation": 3, "nothing": 0}
    assert breaking_levels(rows, trusted=0.0) == {"correlation": None, "nothing": None}


def test_what_is_no_permutation_of_every_group_is_refused_and_not_measured(tinyten, symmetry, images):
    def careless(problem):
        return {}

    def lists(problem):
        return {group: index.tolist() for group, index in identity(problem.trace.spec).items()}

    state = randomised(tinyten.network)
    for method, message in ((careless, "careless returns no index for"), (lists, "lists returns list for the group")):
        with pytest.raises(UserError, match=message):
            examine(tinyten, symmetry, state, images, {"mine": method}, levels=[0], seeds=[0])


def test_one_seed_has_no_spread(tinyten, symmetry, images):
    methods = {"nothing": lambda problem: identity(problem.trace.spec)}
    rows = examine(tinyten, symmetry, randomised(tinyten.network), images, methods, levels=[0], seeds=[0])
    assert {r["recovered_std"] for r in rows} == {None}


def test_units_that_never_fire_are_counted(tinyten, symmetry, images):
    state = randomised(tinyten.network)
    before = silent_units(Problem(tinyten, symmetry, state, state, images))
    assert before.keys() == set(symmetry.spec.free) and before["features.conv2"] == 0
    state["features.bn2.bias"][1] = -1e6
    assert silent_units(Problem(tinyten, symmetry, state, state, images))["features.conv2"] == 1


def test_random_images_have_the_shape_that_is_asked_for_and_are_always_the_same():
    actual, again = (random_images(5, (3, 8, 9)) for _ in range(2))
    assert actual.pixels.shape == (5, 3, 8, 9) and actual.pixels.dtype == torch.uint8
    assert torch.equal(actual.pixels, again.pixels) and len(actual) == 5
    assert tiny.plain(actual.pixels, generator()).mean() == pytest.approx(0.5, abs=0.05)
