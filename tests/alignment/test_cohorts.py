"""Several networks in one frame: the agreement of all of them, and what each plug-in of `cohorts` must do."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.algorithms.frank_wolfe import frank_wolfe as pairwise_frank_wolfe
from neuralign.alignment.algorithms.transport import transport
from neuralign.alignment.algorithms.weights import weights
from neuralign.alignment.ascent import agreement_of
from neuralign.alignment.birkhoff import to_matrix
from neuralign.alignment.cohorts.frank_wolfe import frank_wolfe
from neuralign.alignment.cohorts.mean import mean
from neuralign.alignment.cohorts.reference import reference
from neuralign.alignment.common_frame.cohort import Cohort, between, certificates, search
from neuralign.alignment.common_frame.objective import JointAgreement, join, split
from neuralign.alignment.common_frame.search import align_to_means, identities
from neuralign.common.errors import UserError
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.datasets.arrays import Arrays
from neuralign.networks.model import Model, buffers, parameters
from neuralign.networks.states import mean_state
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import compose, inverse, permute
from neuralign.symmetry.tracing.trace import trace_model

COHORTS = plugins("cohorts")
Problems = Sequence[dict[str, Tensor]]


def mlp(*widths: int) -> nn.Sequential:
    layers = [layer for n, m in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Normed(nn.Module):
    """A stream on both axes of a weight, and a batch norm, whose statistics must not count."""

    def __init__(self):
        super().__init__()
        self.first, self.step, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.last(x + self.step(x).relu())


NETWORKS = {"mlp": lambda: mlp(5, 8, 6, 3), "normed": Normed}


def cohort_of(count: int, make=NETWORKS["mlp"], seed: int = 0, inner=weights, **more) -> Cohort:
    """Networks with independent random weights, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = Model(make().double(), None, None)
    examples = Arrays(torch.randn(40, 5, generator=generator, dtype=torch.float64), torch.arange(40) % 3)

    def drawn() -> dict[str, Tensor]:
        tensors = {**parameters(model.network), **buffers(model.network)}
        return {
            n: torch.randn(t.shape, generator=generator).double().abs() if t.is_floating_point() else t
            for n, t in tensors.items()
        } | {n: torch.randn(t.shape, generator=generator).double() for n, t in parameters(model.network).items()}

    states = [drawn() for _ in range(count)]
    return Cohort(model, trace_model(model, examples), states, inner, examples, **more)


def with_states(cohort: Cohort, states: Problems) -> Cohort:
    return Cohort(cohort.model, cohort.trace, states, cohort.inner, cohort.examples)


def planted(count: int, noise: float = 0.0) -> tuple[Cohort, list[dict[str, Tensor]]]:
    """Permuted copies of one network, with noise, and the permutations that undo it."""
    cohort, generator = cohort_of(count, lambda: mlp(5, 16, 16, 3)), torch.Generator().manual_seed(9)
    plants = [permutations.random(cohort.trace.spec, generator) for _ in range(count)]
    noisy = [
        {n: t + noise * t.std() * torch.randn(t.shape, generator=generator) for n, t in cohort.states[0].items()}
        for _ in range(count)
    ]
    states = [permute(cohort.trace.spec, p, state) for p, state in zip(plants, noisy, strict=True)]
    return with_states(cohort, states), [compose(inverse(p), plants[0]) for p in plants]


def frame_of(cohort: Cohort, seed: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [permutations.random(cohort.trace.spec, generator) for _ in cohort.states]


def assert_equal(first: Problems, second: Problems) -> None:
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[g], b[g]) for g in a)


def by_pairs(cohort: Cohort, frame: Problems) -> float:
    moved = [permute(cohort.trace.spec, p, state) for p, state in zip(frame, cohort.states, strict=True)]
    counted = {n for n in parameters(cohort.model.network) if cohort.trace.spec.axes[n]}
    counted -= {"last.bias", "4.bias"}  # on which no free group lies
    return sum(float((a[n] * b[n]).sum()) for a, b in combinations(moved, 2) for n in counted)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_agreement_is_the_sum_over_pairs_in_linear_time(make):
    cohort = cohort_of(4, make)
    objective, frame = JointAgreement.of(cohort), frame_of(cohort)
    expected = by_pairs(cohort, frame)
    assert objective.value(join(frame)) == pytest.approx(expected, rel=1e-12)
    matrices = {g: to_matrix(p) for g, p in join(frame).items()}
    assert float(objective.soft_value(matrices)) == pytest.approx(expected, rel=1e-12)
    assert abs(expected) < objective.norms


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_score_of_a_group_is_the_derivative_by_its_matrix(make):
    cohort = cohort_of(3, make)
    objective, frame = JointAgreement.of(cohort), join(frame_of(cohort))
    leaves = {g: to_matrix(p).requires_grad_() for g, p in frame.items() if g in objective.spec.free}
    held = {g: to_matrix(p) for g, p in frame.items() if g not in leaves}
    gradients = torch.autograd.grad(objective.soft_value({**held, **leaves}), list(leaves.values()))
    for group, gradient in zip(leaves, gradients, strict=True):
        assert torch.allclose(objective.score(group, frame), gradient, rtol=1e-10, atol=1e-10)
        hard = {g: to_matrix(p) for g, p in frame.items()}
        assert torch.allclose(objective.soft_score(group, hard), gradient, rtol=1e-10, atol=1e-10)
        swapped = frame | {group: frame[group].flip(0)}
        rise = objective.value(swapped) - objective.value(frame)
        assert objective.gain(group, frame, swapped) == pytest.approx(rise, abs=1e-9)


def test_the_groups_of_the_first_network_are_fixed_and_the_degree_is_that_of_products_of_two_networks():
    cohort = cohort_of(3)
    objective = JointAgreement.of(cohort)
    assert {g.partition("/")[0] for g in objective.spec.free} == {"1", "2"}
    assert objective.single == set(objective.spec.free) and objective.degree == 2 * agreement_of_two(cohort).degree


def agreement_of_two(cohort: Cohort):
    return agreement_of(cohort.problem(cohort.states[0], 1, None, "test"))


def method_of(name: str):
    return plugin("cohorts", {"use": name})


@pytest.mark.parametrize("name", COHORTS)
def test_alignments_of_pairs_compose_to_exactly_each_other(name):
    cohort = cohort_of(3)
    frame = search(cohort, method_of(name))
    assert_equal(frame[:1], identities(cohort)[:1])
    a_b, b_c, c_a = (between(frame, p, q) for p, q in ((0, 1), (1, 2), (2, 0)))
    around = compose(compose(c_a, b_c), a_b)  # a into the frame of c, of b, of a
    assert_equal([around], identities(cohort)[:1])
    assert [proof.error < 1e-9 for proof in certificates(cohort, frame)] == [True] * 3


@pytest.mark.parametrize("name", COHORTS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_planted_permutations_of_four_networks_are_found(name, noise):
    cohort, plants = planted(4, noise)
    assert_equal(search(cohort, method_of(name)), plants)
    assert cohort.facts["agreement"] > cohort.facts["agreement_before"] and not cohort.facts["images"]


@pytest.mark.parametrize("name", COHORTS)
def test_permuted_inputs_permute_the_merged_network_only(name):
    cohort, _ = planted(3, 0.2)
    frame = frame_of(cohort)
    moved = [permute(cohort.trace.spec, p, state) for p, state in zip(frame, cohort.states, strict=True)]

    def merged(states: Problems) -> dict[str, Tensor]:
        found = search(with_states(cohort, states), method_of(name))
        return mean_state([permute(cohort.trace.spec, p, state) for p, state in zip(found, states, strict=True)])

    expected = permute(cohort.trace.spec, frame[0], merged(cohort.states))
    actual = merged(moved)
    assert all(torch.allclose(actual[n], t, rtol=0, atol=1e-12) for n, t in expected.items())


@pytest.mark.parametrize("seed", range(3))
def test_of_two_networks_the_agreement_is_that_of_the_method_for_pairs(seed):
    cohort = cohort_of(2, seed=seed)
    pair, objective = cohort.problem(cohort.states[0], 1, None, "test"), agreement_of_two(cohort)
    assert_equal([reference(cohort)[1]], [weights(pair)])
    relaxed = frank_wolfe(cohort, begin="barycentre", polish=False)[1]
    assert objective.value(relaxed) == pytest.approx(objective.value(pairwise_frank_wolfe(pair, polish=False)))
    assert objective.value(mean(cohort)[1]) >= objective.value(weights(pair)) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_and_frank_wolfe_are_never_below_where_they_start(seed):
    cohort = cohort_of(4, seed=seed)
    objective = JointAgreement.of(cohort)
    first = objective.value(join(reference(cohort)))
    for method in (mean, frank_wolfe, partial(frank_wolfe, polish=False)):
        assert objective.value(join(method(cohort))) >= first - 1e-9
    for start in ("reference", "identity"):
        values = [objective.value(join(mean(cohort, start=start, sweeps=k))) for k in (1, 2, 3, 100)]
        assert values == sorted(values)
    with_polish = objective.value(join(frank_wolfe(cohort, begin="barycentre")))
    assert with_polish >= objective.value(join(frank_wolfe(cohort, begin="barycentre", polish=False))) - 1e-9


def test_the_frame_is_that_of_the_first_network_whichever_is_the_reference():
    cohort, plants = planted(3)
    for member in (1, 2, 3):
        assert_equal(reference(cohort, member=member), plants)
    with pytest.raises(UserError, match="^member: found 4; there are only 3 networks$"):
        reference(cohort, member=4)


def test_a_mean_network_has_statistics_of_its_own_where_the_inner_method_reads_activations():
    cohort = cohort_of(3, Normed, inner=partial(correlation, images=40))
    seen = []

    def look(problem):
        seen.append(problem.target["norm.running_mean"])
        return correlation(problem, images=40)

    aligned = Cohort(cohort.model, cohort.trace, cohort.states, look, cohort.examples)
    align_to_means(aligned, identities(aligned), sweeps=1, seed=0)
    of_mean = [mean_state([cohort.states[q] for q in range(3) if q != p])["norm.running_mean"] for p in range(3)]
    assert len(seen) == 3 and not any(torch.allclose(seen[0], m) for m in of_mean)
    assert aligned.facts["images"] == 40


@pytest.mark.parametrize(
    ("inner", "images", "labels"),
    [(weights, 0, False), (partial(weights, choose="midpoint", images=30), 30, True), (transport, None, None)],
    ids=["none", "some", "does not say"],
)
def test_the_facts_say_what_the_inner_method_has_read(inner, images, labels):
    cohort = cohort_of(3, inner=inner)
    mean(cohort, sweeps=1)
    assert cohort.facts["images"] == images and cohort.facts["labels"] is labels


def test_an_inner_method_that_returns_no_permutation_of_every_group_is_refused_by_name():
    def careless(problem):
        return {}

    def lists(problem):
        return {group: index.tolist() for group, index in permutations.identity(problem.trace.spec).items()}

    for inner, message in ((careless, "careless returns no index for"), (lists, "lists returns list for the group")):
        with pytest.raises(UserError, match=message):
            mean(cohort_of(3, inner=inner), sweeps=1)


def test_shares_weigh_the_networks_in_the_agreement():
    shares = [0.5, 0.3, 0.2]
    cohort = cohort_of(3, weights=shares)
    scaled = [{n: 3 * s * t for n, t in state.items()} for s, state in zip(shares, cohort.states, strict=True)]
    frame = join(frame_of(cohort))
    plain = JointAgreement.of(with_states(cohort, scaled))
    assert JointAgreement.of(cohort).value(frame) == pytest.approx(plain.value(frame))
    assert JointAgreement.of(cohort).norms == pytest.approx(plain.norms)


def test_wrong_cohorts_are_refused():
    with pytest.raises(UserError, match="^found 1 networks; at least two are needed$"):
        cohort_of(1)
    for wrong in ([0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]):
        with pytest.raises(UserError, match=r"^weights: found \[.*\]; 3 positive numbers that sum to 1 are needed$"):
            cohort_of(3, weights=wrong)


def test_joined_permutations_are_split_again():
    frame = frame_of(cohort_of(3))
    assert_equal(split(join(frame), 3), frame)
