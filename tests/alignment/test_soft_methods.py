"""Sinkhorn re-basin, the straight-through estimator, and matching by weights and activations together."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_weight_matching import assert_equal, mlp, problem_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.algorithms.single_pass import single_pass
from neuralign.alignment.algorithms.sinkhorn import sinkhorn
from neuralign.alignment.algorithms.straight_through import _Matching, straight_through
from neuralign.alignment.algorithms.weights import weights
from neuralign.alignment.algorithms.weights_activations import weights_activations
from neuralign.alignment.ascent import agreement_of, ascend
from neuralign.alignment.birkhoff import assign, to_matrix
from neuralign.alignment.path_loss import midpoint_loss
from neuralign.alignment.problem import Problem
from neuralign.alignment.sinkhorn import sinkhorn as make_doubly_stochastic
from neuralign.common.seeding import stream
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.arrays import Arrays
from neuralign.networks.model import Model, buffers, parameters
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import identity, inverse, permute
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.checkpoints import Checkpoint


def latent(n: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_matrices_are_doubly_stochastic(n, scale):
    matrix, ones = make_doubly_stochastic(latent(n, scale)), torch.ones(n, dtype=torch.float64)
    assert (matrix >= 0).all()
    assert torch.allclose(matrix.sum(0), ones, atol=1e-12)
    assert torch.allclose(matrix.sum(1), ones, atol=1e-6 if scale < 5 else 0.02)  # sharp ones take many iterations


def test_the_implicit_gradient_is_that_of_five_hundred_iterations_and_of_finite_differences():
    z, weight = latent(6), latent(6, seed=1)

    def gradient(**options) -> Tensor:
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad((make_doubly_stochastic(leaf, **options) * weight).sum(), leaf)[0]

    implicit = gradient(iterations=500)
    assert torch.allclose(implicit, gradient(iterations=500, implicit=False), atol=1e-8)
    step = 1e-6
    for i, j in ((0, 0), (2, 5), (4, 1)):
        shift = torch.zeros_like(z)
        shift[i, j] = step
        ends = [(make_doubly_stochastic(z + s * shift, iterations=500) * weight).sum() for s in (1, -1)]
        assert implicit[i, j] == pytest.approx(float(ends[0] - ends[1]) / (2 * step), abs=1e-6)
    for dim in (0, 1):  # a constant added to a row or column changes nothing
        assert implicit.sum(dim).abs().max() < 1e-9


@pytest.mark.parametrize("apart", [20, 40, 80, 200, 800])
def test_the_implicit_gradient_is_right_where_a_sharp_matrix_falls_apart_into_blocks(apart):
    blocks = [latent(2, 1.0, seed) for seed in range(10)]
    z, weight = torch.block_diag(*blocks), latent(20, 1.0)
    z = torch.where(torch.block_diag(*map(torch.ones_like, blocks)) > 0, z, -float(apart))

    def gradient(**options) -> Tensor:
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad((make_doubly_stochastic(leaf, **options) * weight).sum(), leaf)[0]

    assert torch.allclose(gradient(), gradient(implicit=False, iterations=200), atol=1e-5)


def test_sinkhorn_takes_a_temperature_at_which_the_start_is_a_permutation():
    problem = problem_of(lambda: mlp(5, 8, 8, 4))
    found = sinkhorn(problem, loss="distance", temperature=0.001, steps=2)
    assert_equal(found, identity(problem.trace.spec))  # the gradient is zero


@pytest.mark.parametrize("options", [{}, {"gradient": "unrolled"}], ids=str)
def test_sinkhorn_finds_a_planted_permutation_by_the_distance(options):
    problem = problem_of(lambda: mlp(5, 16, 16, 4))
    plant = permutations.random(problem.trace.spec, torch.Generator().manual_seed(3))
    planted = replace(problem, source=permute(problem.trace.spec, plant, problem.target))
    assert_equal(sinkhorn(planted, loss="distance", lr=1.0, steps=40, **options), inverse(plant))
    assert planted.facts["images"] == 0 and planted.facts["labels"] is False and 0 <= planted.facts["entropy"] <= 1


@pytest.fixture(scope="module")
def trained() -> Problem:
    """Two trained classifiers of eight clusters of points, the second a permuted copy of the first with some noise."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 10, generator=generator)
    labels = torch.arange(512) % 8
    rows = centres[labels] + 1.2 * torch.randn(512, 10, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8)
    )
    rate = 0.5
    for _ in range(60):
        nn.functional.cross_entropy(network(rows), labels).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= rate * p.grad
                p.grad = None
    model, examples = Model(network, None, None), Arrays(rows, labels)
    state = {n: t.detach().clone() for n, t in {**parameters(network), **buffers(network)}.items()}
    problem = Problem(model, trace_model(model, examples), state, state, examples)
    plant = permutations.random(problem.trace.spec, torch.Generator().manual_seed(3))
    source = {
        n: t + 0.05 * t.std() * torch.randn(t.shape, generator=generator)
        if t.is_floating_point() and t.dim() > 1
        else t
        for n, t in state.items()
    }
    return replace(problem, source=permute(problem.trace.spec, plant, source), start=None)


CHEAP = {
    sinkhorn: {"steps": 100, "lr": 0.5},
    straight_through: {"epochs": 2, "batch_size": 128, "scoring": 256},
}


def share_found(problem: Problem, permutation) -> float:
    plant = weights(problem)
    pairs = [(permutation[g] == plant[g]).double().mean() for g in plant]
    return float(torch.stack(pairs).mean())


@pytest.mark.parametrize("method", CHEAP, ids=lambda m: m.__name__)
def test_methods_that_look_at_the_loss_find_nearly_all_of_a_planted_permutation(trained, method):
    problem = replace(trained, facts={})
    before = {n: t.clone() for n, t in problem.source.items()}
    assert share_found(problem, method(problem, **CHEAP[method])) >= 0.95
    assert problem.facts["labels"] is True and problem.facts["images"] == 512
    assert all(torch.equal(before[n], t) for n, t in problem.source.items())


def test_the_fact_steps_is_the_number_of_steps_that_were_done(trained):
    done = []

    class Counter:
        def restore(self, fresh):
            return fresh

        def keep(self, progress):
            done.append(progress.step)

    problem = replace(trained, facts={}, keeper=lambda name: Counter())
    sinkhorn(problem, steps=5, batch_size=200)  # two epochs of 200, 200 and 112 examples
    assert problem.facts["steps"] == len([step for step in done if step]) == 6


@pytest.mark.parametrize("loss, share", [("midpoint", 0.5), ("random", 0.3)])
def test_sinkhorn_trains_at_the_middle_or_at_any_point_of_the_line(monkeypatch, loss, share):
    problem, trainings = problem_of(lambda: mlp(5, 8, 4)), []
    module = "neuralign.alignment.algorithms.sinkhorn"
    monkeypatch.setattr(f"{module}.fit", lambda training: trainings.append(training) or training.progress)
    sinkhorn(problem, loss=loss, temperature=0.1)
    (training,) = trainings
    weights_at = training.basis(torch.tensor(0.3, dtype=torch.float64))
    assert torch.allclose(weights_at, torch.tensor([1 - share, share], dtype=torch.float64))
    point = training.layout.views(training.sample(training.progress.trainable, weights_at))
    for name, tensor in point.items():  # at this temperature the first soft permutation is nearly the identity
        expected = torch.lerp(problem.target[name], problem.source[name], share)
        assert torch.allclose(tensor, expected, atol=2e-3)


def test_straight_through_returns_the_match_with_the_lowest_loss_among_the_ends_of_epochs(monkeypatch):
    problem, matches, losses = problem_of(lambda: mlp(5, 16, 16, 4)), [], iter([3.0, 1.0, 2.0])

    def loss(_, permutation, images, seed):
        assert images == 20
        matches.append({g: p.clone() for g, p in permutation.items()})
        return next(losses)

    monkeypatch.setattr("neuralign.alignment.algorithms.straight_through.midpoint_loss", loss)
    found = straight_through(problem, epochs=3, batch_size=10, lr=3.0, scoring=20)
    assert len(matches) == 3 and problem.facts["midpoint_loss"] == 1
    assert_equal(found, matches[1])
    for other in (matches[0], matches[2]):
        assert any(not torch.equal(found[g], other[g]) for g in found)


def test_the_loss_at_the_midpoint_is_that_of_examples_attacked_against_it_as_in_training():
    def attack(predict, inputs, targets, draws):
        leaf = (inputs + torch.rand(inputs.shape, generator=draws, dtype=inputs.dtype)).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(predict(leaf), targets), leaf)
        return inputs + gradient.sign()

    clean = problem_of(lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    problem = replace(clean, attack=attack)
    permutation = permutations.random(problem.trace.spec, torch.Generator().manual_seed(1))
    end = permute(problem.trace.spec, permutation, problem.source)
    middle = {name: (tensor + end[name]) / 2 for name, tensor in problem.target.items()}

    def predict(inputs):
        return functional_call(problem.model.network.train(), middle, inputs)

    rows, labels = problem.examples.inputs[problem.examples.random_order(stream(0, "midpoint"))], torch.zeros(20).long()
    expected = F.cross_entropy(predict(attack(predict, rows, labels, stream(0, "scoring attack", 0))), labels).item()
    assert midpoint_loss(problem, permutation, 20) == pytest.approx(expected, rel=1e-6)
    assert midpoint_loss(clean, permutation, 20) < expected - 0.05


@pytest.mark.parametrize(
    "method",
    [partial(straight_through, epochs=2), partial(weights, choose="midpoint")],
    ids=["straight_through", "weights"],
)
def test_methods_that_see_attacked_examples_also_choose_by_them(method):
    def far(predict, inputs, targets, draws):
        return inputs + 3

    problem = problem_of(lambda: mlp(5, 16, 16, 4))
    attacked = replace(problem, attack=far, facts={})
    found = method(attacked)
    assert attacked.facts["midpoint_loss"] == pytest.approx(midpoint_loss(attacked, found, 20))
    assert abs(attacked.facts["midpoint_loss"] - midpoint_loss(problem, found, 20)) > 0.1


@pytest.mark.parametrize("every, matchings", [(1, 6), (2, 3), (4, 2)])
def test_straight_through_matches_in_every_so_many_steps(monkeypatch, every, matchings):
    problem, starts = problem_of(lambda: mlp(5, 8, 4)), []

    def counted(objective, start, **options):
        starts.append(start)
        return ascend(objective, start, **options)

    monkeypatch.setattr("neuralign.alignment.algorithms.straight_through.ascend", counted)
    straight_through(problem, epochs=2, batch_size=8, every=every, scoring=20)  # 3 steps in an epoch
    assert len(starts) == matchings


def test_straight_through_takes_examples_of_which_one_is_left_alone_in_the_last_batch():
    problem = problem_of(lambda: mlp(5, 8, 8, 4))
    assert len(problem.examples) % 19 == 1
    straight_through(problem, epochs=1, batch_size=19, scoring=20)
    assert problem.facts["steps"] == 2


@pytest.mark.parametrize("method", CHEAP, ids=lambda m: m.__name__)
@pytest.mark.parametrize("batches", [1, 5, 9])
def test_they_go_on_after_an_interruption_to_the_same_bits(trained, method, batches, tmp_path):
    class Stopped(Exception):
        pass

    class Fragile(Checkpoint):
        def keep(self, progress):
            super().keep(progress)
            self.kept = getattr(self, "kept", 0) + 1
            if self.kept == batches:
                raise Stopped

    options = CHEAP[method]
    whole = method(replace(trained, facts={}), **options)
    with pytest.raises(Stopped):
        method(replace(trained, keeper=lambda name: Fragile(tmp_path / "job", name, every=0)), **options)
    resumed = replace(trained, keeper=lambda name: Checkpoint(tmp_path / "job", name, every=0))
    assert_equal(method(resumed, **options), whole)


def test_the_copy_gets_the_gradient_of_the_permuted_source(trained):
    inputs, _ = next(trained.examples.batches(8))
    ends = endpoints_of(trained.model, (trained.target, trained.source), inputs, keep_equal=False)
    layout = replace(ends.layout, untrained=frozenset())
    start = identity(trained.trace.spec)
    matching = _Matching(trained, layout, start, every=1, sweeps=5, scoring=64, seed=0, steps_per_epoch=4)
    matching.state = matching.initial_state(torch.device("cpu"))
    copy = ends.vectors[0].clone().requires_grad_()
    middle = matching.sample(copy, torch.empty(0))
    match = {g: matching.state[f"match {g}"] for g in start}
    permuted = permute(trained.trace.spec, match, {n: trained.source[n] for n in layout.shapes})
    assert torch.allclose(middle, (ends.vectors[0] + layout.flatten(permuted)) / 2)
    slope = torch.randn(len(middle), generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(middle, copy, slope)
    assert torch.allclose(gradient, slope / 2)


def test_a_single_pass_matches_the_first_layer_by_its_own_weights_and_goes_on_from_there():
    problem = problem_of(lambda: mlp(5, 8, 8, 4))
    permutation = single_pass(problem)
    objective = agreement_of(problem)
    first, second = objective.spec.free
    by_input = sum(
        problem.target[n].reshape(8, -1) @ problem.source[n].reshape(8, -1).T for n in ("0.weight", "0.bias")
    )
    assert torch.equal(permutation[first], assign(by_input))
    moved = problem.source["2.weight"][:, permutation[first]]
    score = problem.target["2.weight"] @ moved.T + torch.outer(problem.target["2.bias"], problem.source["2.bias"])
    assert torch.equal(permutation[second], assign(score))


def test_alpha_leads_from_weights_to_correlations(trained):
    problem = replace(trained, facts={})
    assert_equal(weights_activations(problem, alpha=1), correlation(problem))
    assert_equal(weights_activations(problem, alpha=0), weights(problem))
    assert problem.facts["images"] == 512 and problem.facts["labels"] is False
    assert share_found(problem, weights_activations(problem)) == 1


def test_activations_keep_their_share_where_no_weight_agrees():
    problem = problem_of(lambda: mlp(5, 8, 4))
    target = {n: t.abs() for n, t in problem.target.items()}
    problem = replace(problem, target=target, source={n: -t.abs() for n, t in problem.source.items()})
    assert_equal(weights_activations(problem, alpha=1 - 1e-9), correlation(problem))


def test_permutation_matrices_are_fixed_points_of_sharp_latents():
    p = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(make_doubly_stochastic(60 * to_matrix(p)), to_matrix(p), atol=1e-12)
