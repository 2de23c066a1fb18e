"""Several networks and their mean."""

from functools import partial

import pytest
import torch
from tiny import generator, perceptron, pictures, plain, randomised

from neuralign.common.seeding import stream
from neuralign.evaluation.along_curve import measure
from neuralign.evaluation.of_cohort import MEAN, UNALIGNED_MEAN, measure_cohort
from neuralign.networks.states import mean_state
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import inverse, permute
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.attacks.pgd import pgd
from neuralign.training.batch_norm import Estimate, refresh

PGD = partial(pgd, eps=0.05, step=0.02, steps=2)


def test_the_mean_of_aligned_copies_is_the_network_and_every_row_is_that_of_its_network() -> None:
    model, training, images = perceptron(16), pictures(16, seed=1), pictures(12)
    spec = trace_model(model, training).spec
    first = randomised(model.network)
    plant = permutations.random(spec, generator(3))
    states = {"1": first, "2": permute(spec, plant, first)}
    aligned = [first, permute(spec, inverse(plant), states["2"])]
    estimate = Estimate.on(training, plain, batch_size=8, seed=1)
    attacks = {"clean": None, "pgd": PGD}
    rows = list(measure_cohort(model, states, aligned, estimate, training, images, attacks, batch_size=5, seed=2))
    assert [(row["model"], row["statistics"], row["attack"]) for row in rows] == [
        (name, statistics, attack)
        for name, statistics in [
            (UNALIGNED_MEAN, "reestimated"),
            (MEAN, "reestimated"),
            *[("1", "reestimated"), ("1", "stored"), ("2", "reestimated"), ("2", "stored")],
        ]
        for attack in attacks
    ]
    losses = {(row["model"], row["statistics"], row["attack"]): row["loss"] for row in rows}
    assert {row["images"] for row in rows} == {12}

    def expected(state, attack) -> float:
        draws = stream(2, "evaluation", attack)
        return measure(model, state, images, batch_size=5, attack=attacks[attack], generator=draws)["loss"]

    def reestimated(state):
        buffers = {name: t for name, t in state.items() if "running" in name or "num_batches" in name}
        return {**state, **refresh(model, state, buffers, estimate.sample())}

    middle = mean_state(list(states.values()))
    for attack in attacks:
        for name, state in states.items():
            assert losses[name, "stored", attack] == pytest.approx(expected(state, attack), rel=1e-9)
            assert losses[name, "reestimated", attack] == pytest.approx(expected(reestimated(state), attack), rel=1e-9)
        assert losses[MEAN, "reestimated", attack] == pytest.approx(losses["1", "reestimated", attack], rel=1e-9)
        unaligned = losses[UNALIGNED_MEAN, "reestimated", attack]
        assert unaligned == pytest.approx(expected(reestimated(middle), attack), rel=1e-9)
        assert abs(unaligned - losses[MEAN, "reestimated", attack]) > 0.01
    assert not torch.equal(states["2"]["1.weight"], first["1.weight"])
