"""Agreement, its gradient, and the searches that maximise it, against brute force and other algorithms."""

from dataclasses import replace
from itertools import permutations as orders
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import quadratic_assignment
from torch import Tensor, nn

from neuralign.alignment.agreement import Agreement
from neuralign.alignment.algorithms.frank_wolfe import frank_wolfe
from neuralign.alignment.algorithms.weights import weights
from neuralign.alignment.ascent import agreement_of, ascend, match_in_turn
from neuralign.alignment.birkhoff import assign, best_step, to_matrix
from neuralign.alignment.path_loss import midpoint_loss
from neuralign.alignment.problem import Problem
from neuralign.alignment.relaxation import _best_on_line, _value_and_gradient, relax, round_groupwise
from neuralign.common.tensors import TensorFile, save_tensors
from neuralign.datasets.arrays import Arrays
from neuralign.networks.architectures.gpt import gpt
from neuralign.networks.model import Model, buffers, parameters
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import identity, inverse, permute
from neuralign.symmetry.tracing.trace import trace, trace_model

DATA_FREE = {"weights": weights, "frank_wolfe": frank_wolfe}


def mlp(*widths: int) -> nn.Sequential:
    layers = [layer for n, m in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def problem_of(make, inputs: int = 5, seed: int = 0) -> Problem:
    """Two networks with independent random weights, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(network: nn.Module) -> dict[str, Tensor]:
        tensors = {**parameters(network), **buffers(network)}
        return {n: torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in tensors.items()}

    model = Model(make().double(), None, None)
    rows = torch.randn(20, inputs, generator=generator, dtype=torch.float64)
    examples = Arrays(rows, torch.zeros(20, dtype=torch.int64))
    states = drawn(model.network), drawn(model.network)
    return Problem(model, trace_model(model, examples), *states, examples)


class Recurrent(nn.Module):
    """A stream of six units, which is on both axes of one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.step, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.step(x).relu())


def best_value(objective: Agreement) -> float:
    groups = [[torch.tensor(p) for p in orders(range(objective.spec.sizes[g]))] for g in objective.spec.free]
    return max(objective.value(dict(zip(objective.spec.free, choice, strict=True))) for choice in product(*groups))


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys() and all(torch.equal(first[g], second[g]) for g in first)


@pytest.mark.parametrize("seed", range(6))
def test_no_search_beats_brute_force_and_frank_wolfe_reaches_it(seed):
    problem = problem_of(lambda: mlp(5, 3, 3, 2), seed=seed)
    objective = agreement_of(problem)
    best = best_value(objective)
    values = {name: objective.value(method(problem)) for name, method in DATA_FREE.items()}
    assert max(values.values()) <= best + 1e-9
    assert values["frank_wolfe"] == pytest.approx(best)
    assert objective.value(weights(problem, restarts=10)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
def test_a_group_on_both_axes_of_a_weight_rises_to_at_least_the_value_of_faq(seed):
    problem = problem_of(Recurrent, seed=seed)
    objective = agreement_of(problem)
    (group,) = objective.spec.free
    assert group not in objective.single and objective.degree == 2
    best = best_value(objective)
    values = [objective.value(method(problem, restarts=10)) for method in DATA_FREE.values()]
    assert max(values) <= best + 1e-9
    # the same problem for scipy: the terms with the group once as costs are not part of its quadratic, so they go there
    target, source = problem.target, problem.source
    alone = Agreement(objective.spec, target, source, ["step.weight"])
    faq = quadratic_assignment(
        target["step.weight"].numpy(),
        source["step.weight"].numpy(),
        method="faq",
        options={"maximize": True, "rng": np.random.default_rng(0)},
    )
    assert alone.value({group: torch.from_numpy(faq.col_ind)}) == pytest.approx(faq.fun)
    runs = [
        ascend(
            alone,
            permutations.random(alone.spec, torch.Generator().manual_seed(i)),
            sweeps=50,
            order="graph",
            generator=torch.Generator(),
        ).value
        for i in range(10)
    ]
    assert max(runs) >= faq.fun - 1e-9


def test_every_accepted_step_raises_the_agreement():
    problem = problem_of(lambda: mlp(5, 16, 16, 16, 4), seed=1)
    objective = agreement_of(problem)
    values = []
    for sweeps in range(1, 6):
        generator = torch.Generator().manual_seed(0)
        found = ascend(objective, identity(objective.spec), sweeps=sweeps, order="shuffled", generator=generator)
        values.append(found.value)
        assert found.value == pytest.approx(objective.value(found.permutation), abs=1e-9)
    assert values == sorted(values) and values[0] > objective.value(identity(objective.spec))


def test_with_one_hidden_layer_the_first_sweep_is_the_last_that_changes_anything():
    found = ascend(
        agreement_of(problem_of(lambda: mlp(5, 32, 4))),
        {"0": torch.arange(32)},
        sweeps=100,
        order="shuffled",
        generator=torch.Generator(),
    )
    assert found.steps == 2


@pytest.mark.parametrize("method", DATA_FREE.values(), ids=DATA_FREE)
@pytest.mark.parametrize("widths", [(5, 16, 16, 4), (5, 64, 64, 64, 4)], ids=str)
def test_a_planted_permutation_is_found_also_under_noise(method, widths):
    problem = problem_of(lambda: mlp(*widths))
    spec = problem.trace.spec
    plant = permutations.random(spec, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    noisy = {
        n: t + 0.2 * t.std() * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        for n, t in problem.target.items()
    }
    for source in (problem.target, noisy):
        permuted = replace(problem, source=permute(spec, plant, source))
        assert_equal(method(permuted), inverse(plant))


@pytest.mark.parametrize("method", DATA_FREE.values(), ids=DATA_FREE)
def test_methods_are_equivariant(method):
    problem = problem_of(lambda: mlp(5, 6, 4))  # one hidden layer, where the optimum is unique and found
    spec = problem.trace.spec
    p = method(problem)
    pi = permutations.random(spec, torch.Generator().manual_seed(1))
    of_source = method(replace(problem, source=permute(spec, pi, problem.source)))
    assert_equal(of_source, {g: inverse(pi)[g][p[g]] for g in p})
    of_target = method(replace(problem, target=permute(spec, pi, problem.target)))
    assert_equal(of_target, {g: p[g][pi[g]] for g in p})


@pytest.mark.parametrize("seed", range(4))
def test_a_step_of_frank_wolfe_goes_to_the_maximum_of_the_line(seed):
    coefficients = np.random.default_rng(seed).normal(size=4)
    grid = np.linspace(0, 1, 10_001)
    values = np.polyval(coefficients, grid)
    best = best_step(lambda t: float(np.polyval(coefficients, t)), 3)
    assert np.polyval(coefficients, best) >= values.max() - 1e-12
    assert abs(best - grid[values.argmax()]) <= 1e-4


def test_the_degree_is_that_of_the_agreement_along_lines():
    objective = agreement_of(problem_of(lambda: mlp(5, 6, 7, 4)))
    assert objective.degree == 2
    generator = torch.Generator().manual_seed(0)
    ends = [
        {
            g: torch.rand(n, n, generator=generator, dtype=torch.float64)
            for g, n in objective.spec.sizes.items()
            if g in objective.spec.free
        }
        for _ in range(2)
    ]

    def along(t):
        return float(objective.soft_value({g: torch.lerp(ends[0][g], ends[1][g], t) for g in ends[0]}))

    line = np.polynomial.Polynomial.fit([0, 0.5, 1], [along(t) for t in (0, 0.5, 1)], 2)
    for t in (0.1, 0.3, 0.8):
        assert line(t) == pytest.approx(along(t), rel=1e-12)


def test_rounding_single_groups_loses_nothing():
    problem = problem_of(lambda: mlp(5, 12, 12, 4), seed=5)
    objective = agreement_of(problem)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        drawn = [permutations.random(objective.spec, generator) for _ in range(4)]
        matrices = {g: sum(to_matrix(p[g]) for p in drawn) / 4 for g in objective.spec.free}
        rounded = round_groupwise(objective, matrices)
        assert objective.value(rounded) >= float(objective.soft_value(matrices)) - 1e-9


@pytest.mark.parametrize("begin, largest", [("barycentre", 1 / 12), ("start", 1.0)])
def test_frank_wolfe_begins_where_it_is_told_and_new_runs_half_way_to_random_permutations(monkeypatch, begin, largest):
    problem, starts = problem_of(lambda: mlp(5, 12, 4)), []
    problem = replace(problem, start={"0": torch.arange(12).flip(0)})

    def noted(objective, start, **options):
        starts.append(start["0"])
        return relax(objective, start, **options)

    monkeypatch.setattr("neuralign.alignment.algorithms.frank_wolfe.relax", noted)
    frank_wolfe(problem, begin=begin, restarts=3)
    first, *others = starts
    assert float(first.max()) == pytest.approx(largest)
    assert begin == "barycentre" or torch.equal(first, to_matrix(problem.start["0"]))
    for start in others:
        assert start.amax(0).tolist() == start.amax(1).tolist() == pytest.approx([0.5 + 0.5 / 12] * 12)
    assert not torch.equal(*others)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_soft_scores_are_in_float64_whatever_the_type_of_the_weights(dtype):
    problem = problem_of(lambda: mlp(5, 12, 12, 4), seed=5)
    states = [{n: t.to(dtype) for n, t in state.items()} for state in (problem.target, problem.source)]
    objective = agreement_of(replace(problem, target=states[0], source=states[1]))
    matrices = {g: torch.full((12, 12), 1 / 12, dtype=torch.float64).requires_grad_() for g in objective.spec.free}
    gradients = torch.autograd.grad(objective.soft_value(matrices), list(matrices.values()))
    for group, gradient in zip(matrices, gradients, strict=True):
        score = objective.soft_score(group, {g: m.detach() for g, m in matrices.items()})
        assert torch.allclose(score, gradient, rtol=1e-12, atol=1e-12)


def test_frank_wolfe_reports_what_rounding_changed():
    problem = problem_of(lambda: mlp(5, 12, 12, 4), seed=5)
    frank_wolfe(problem, polish=False)
    facts = problem.facts
    assert facts["images"] == 0 and facts["labels"] is False and facts["steps"] >= 1
    assert 0 <= facts["entropy"] <= 1 and facts["agreement"] >= facts["relaxed"] - 1e-12
    assert facts["agreement_before"] < facts["agreement"] <= 1


def test_the_run_with_the_lowest_loss_at_the_midpoint_is_chosen():
    problem = problem_of(lambda: mlp(5, 12, 12, 4), seed=5)
    permutation = weights(problem, restarts=4, choose="midpoint", images=20)
    assert problem.facts["images"] == 20 and problem.facts["labels"] is True
    assert problem.facts["midpoint_loss"] == pytest.approx(midpoint_loss(problem, permutation, 20))


def test_more_runs_have_a_lower_loss_at_the_midpoint_but_for_those_without_a_loss(monkeypatch):
    problem = problem_of(lambda: mlp(5, 12, 12, 4), seed=5)
    lowest, each = [], []

    def noted(*arguments):
        each.append(midpoint_loss(*arguments))
        return each[-1]

    monkeypatch.setattr("neuralign.alignment.ascent.midpoint_loss", noted)
    for count in (1, 2, 6):
        each.clear()
        weights(problem, restarts=count, choose="midpoint", images=20)
        assert len(each) == count and problem.facts["midpoint_loss"] == min(each)
        lowest.append(min(each))
    assert lowest[0] > lowest[-1]  # or the first run would be the best of all
    losses = iter([float("nan"), 3.0, 2.0, float("nan")])
    monkeypatch.setattr("neuralign.alignment.ascent.midpoint_loss", lambda *_: next(losses))
    weights(problem, restarts=4, choose="midpoint", images=20)
    assert problem.facts["midpoint_loss"] == 2


def test_running_statistics_do_not_count():
    problem = problem_of(lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    before = weights(problem)
    other = {n: t if n in parameters(problem.model.network) else -t for n, t in problem.source.items()}
    assert_equal(weights(replace(problem, source=other)), before)
    assert not {"1.running_mean", "1.running_var"} & agreement_of(problem).counts.keys()


def language_problem() -> Problem:
    """A small language model and a noisy copy with a planted permutation, also of the heads and within them."""
    network = gpt(11, 7, width=24, depth=2, heads=4)
    symmetry = trace(network, torch.zeros(2, 7, dtype=torch.int64), attention=True)
    draws = torch.Generator().manual_seed(0)
    target = {n: torch.randn(t.shape, generator=draws) for n, t in parameters(network).items()}
    noisy = {n: t + 0.2 * torch.randn(t.shape, generator=draws) for n, t in target.items()}
    planted = permutations.random(symmetry.spec, draws)
    examples = Arrays(torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    source = permute(symmetry.spec, planted, noisy)
    return Problem(Model(network, None, None), symmetry, target, source, examples, start=inverse(planted))


def test_from_the_barycentre_heads_are_found_whose_channels_are_in_another_order():
    problem = language_problem()
    expected = problem.start
    from_nothing = replace(problem, start=None)
    assert_equal(weights(from_nothing, begin="barycentre", sweeps=1), dict(expected))
    assert_equal(match_in_turn(agreement_of(problem)), dict(expected))


def test_an_averaged_group_is_mixed_by_the_matrix_of_equal_entries():
    problem = problem_of(lambda: mlp(5, 4, 3, 2))
    objective = agreement_of(problem)
    first, second = objective.spec.free
    uniform = {first: to_matrix(torch.arange(4)), second: torch.full((3, 3), 1 / 3, dtype=torch.float64)}
    score = objective.score(first, identity(objective.spec), averaged=[second])
    assert torch.allclose(score, objective.soft_score(first, uniform), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_large_tensors_are_multiplied_in_blocks_with_a_small_error(monkeypatch, dtype):
    problem = language_problem()
    states = [{n: t.to(dtype) for n, t in s.items()} for s in (problem.target, problem.source)]
    exact = agreement_of(replace(problem, target=states[0], source=states[1]))
    monkeypatch.setattr("neuralign.alignment.agreement.LARGE", 100)
    monkeypatch.setattr("neuralign.alignment.agreement.COLUMNS", 7)
    blocked = agreement_of(replace(problem, target=states[0], source=states[1]))
    assert blocked.rounded == (frozenset() if dtype == torch.float64 else frozenset(exact.spec.free))
    assert not exact.rounded
    at = identity(exact.spec)
    assert blocked.value(at) == pytest.approx(exact.value(at), rel=1e-12)
    assert blocked.norms == pytest.approx(exact.norms, rel=1e-12)
    for group in exact.spec.free:
        score, expected = blocked.score(group, at), exact.score(group, at)
        largest = float(expected.abs().max())
        assert float((score - expected).abs().max()) <= (1e-14 if dtype == torch.float64 else 1e-6) * largest
    found = weights(replace(problem, target=states[0], source=states[1], start=None), begin="barycentre")
    assert_equal(found, dict(problem.start))


def test_networks_in_files_are_aligned_tensor_by_tensor(tmp_path):
    problem = language_problem()
    files = []
    for name, state in (("target", problem.target), ("source", problem.source)):
        save_tensors(state, tmp_path / f"{name}.safetensors")
        files.append(TensorFile(tmp_path / f"{name}.safetensors"))
    from_files = replace(problem, target=files[0], source=files[1], start=None)
    assert_equal(weights(from_files), weights(replace(problem, start=None)))


@pytest.mark.parametrize("make", [lambda: mlp(5, 6, 7, 4), Recurrent])
def test_a_step_along_a_line_is_the_best_by_the_objective_itself(make):
    objective = agreement_of(problem_of(make, seed=3))
    start = {
        g: torch.full((n, n), 1 / n, dtype=torch.float64)
        for g, n in objective.spec.sizes.items()
        if g in objective.spec.free
    }
    value, gradient = _value_and_gradient(objective, start)
    assert value == pytest.approx(float(objective.soft_value(start)), rel=1e-12)
    for g in start:
        assert torch.allclose(gradient[g], objective.soft_score(g, start), rtol=1e-9)
    vertex = {g: assign(s) for g, s in gradient.items()}
    t, gain = _best_on_line(objective, start, vertex, value, gradient)

    def rise(t):
        along = {g: torch.lerp(m, to_matrix(vertex[g]), t) for g, m in start.items()}
        return float(objective.soft_value(along)) - value

    assert gain == pytest.approx(rise(t), rel=1e-9)
    assert gain >= max(rise(i / 200) for i in range(201)) - 1e-9 * abs(value)
