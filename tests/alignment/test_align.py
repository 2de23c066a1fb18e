"""Alignment methods recover planted permutations; permutations that change the function are refused."""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from awkward import Net
from scipy.optimize import linear_sum_assignment
from tiny import assert_same, generator, pictures, randomised, shifts, small, unnormalised
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.alignment.activations import (
    activation_batches,
    correlations,
    folded_probe,
    growing_moments,
    unit_moments,
)
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.algorithms.pam import _Search
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.problem import Problem, certify, search
from neuralign.common.errors import UserError
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.datasets.images import Images, as_float
from neuralign.networks.model import Model
from neuralign.symmetry import permutations as symmetry
from neuralign.symmetry.certificate import CertificateError
from neuralign.symmetry.permutations import inverse, permute, random
from neuralign.symmetry.tracing.trace import trace
from neuralign.training.batch_norm import refresh
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.progress import Progress


def varying_state(model: Model, images: Images, seed: int) -> dict[str, Tensor]:
    """A random state in which every unit varies: batch norms fit the images, linear layers have large biases."""
    state = randomised(model.network, seed)
    for name, layer in model.network.named_modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            state[f"{name}.bias"] += 10
    return state | refresh(model, state, {n: state[n] for n, _ in model.network.named_buffers()}, images.batches(100))


def problem_of(model: Model, images: Images) -> Problem:
    """Two unrelated networks."""
    traced = trace(model.network, model.normalise(as_float(images.pixels[:2])))
    return Problem(model, traced, varying_state(model, images, 1), varying_state(model, images, 2), images)


def planted(model: Model, images: Images) -> tuple[Problem, dict[str, Tensor]]:
    """A problem whose source is the target, permuted and with a little noise; and the permutation."""
    problem = problem_of(model, images)
    permutation, draws = random(problem.trace.spec, generator(5)), generator(6)
    source = {
        name: t + 1e-4 * torch.randn(t.shape, generator=draws, dtype=t.dtype) * t.std() if t.dim() > 1 else t
        for name, t in permute(problem.trace.spec, permutation, problem.target).items()
    }
    return replace(problem, source=source), permutation


CHEAP = {
    "pam": {"epochs": 1, "batch_size": 10, "candidates": 2, "scoring_batches": 2},
    "sinkhorn": {"steps": 3, "batch_size": 10},
    "straight_through": {"epochs": 1, "batch_size": 10, "scoring": 10},
}
BY_LOSS = ("pam", "sinkhorn", "straight_through")  # they need trained networks to find a planted permutation
BY_ACTIVATIONS = ("correlation", "covariance", "transport")
FINDERS = [use for use in plugins("alignments") if use not in ("random", *BY_LOSS)]  # random is a control


def method(use: str) -> Callable[[Problem], dict[str, Tensor]]:
    return plugin("alignments", {"use": use} | CHEAP.get(use, {}))


CRITERIA = [{"use": use} for use in FINDERS] + [
    {"use": "correlation", "read": "pre"},
    {"use": "correlation", "centred": False},
    {"use": "transport", "read": "pre"},
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: " ".join(map(str, c.values())))
def test_every_method_finds_a_planted_permutation_in_every_network(
    model: Model, images: Images, criterion: dict
) -> None:
    problem, permutation = planted(model, images)
    actual = plugin("alignments", criterion)(problem)
    assert actual.keys() == set(problem.trace.spec.free)
    assert_same(actual, inverse(permutation))
    certify(problem, actual)


@pytest.mark.parametrize("use", plugins("alignments"))
def test_every_method_gives_a_certifiable_permutation_of_unrelated_networks(
    model: Model, images: Images, use: str
) -> None:
    problem = problem_of(model, images)
    actual = method(use)(problem)
    assert certify(problem, actual) < 1e-9
    assert_same(method(use)(problem), actual)


LOOKS = [{"use": use} | CHEAP.get(use, {}) for use in (*BY_ACTIVATIONS, "weights_activations", *BY_LOSS)]
LOOKS += [{"use": "weights", "restarts": 2, "choose": "midpoint"}]


@pytest.mark.parametrize("entry", LOOKS, ids=lambda entry: entry["use"])
def test_every_method_that_looks_at_examples_sees_them_varied(tinyten: Model, images: Images, entry: dict) -> None:
    def upside_down(pixels: Tensor, _: torch.Generator) -> Tensor:
        return as_float(pixels.flip(-2))

    problem = problem_of(tinyten, images)
    varied = replace(problem, transform=upside_down, facts={})
    flipped = replace(problem, examples=Images(images.pixels.flip(-2), images.labels), facts={})
    assert_same(*(plugin("alignments", entry)(each) for each in (varied, flipped)))
    assert varied.facts == flipped.facts
    if entry["use"] in BY_ACTIVATIONS:
        plain, turned = (unit_moments(each)["features.conv1"] for each in (problem, varied))
        assert all(not torch.equal(plain[tap].correlation(True), turned[tap].correlation(True)) for tap in plain)


@pytest.mark.parametrize("use", FINDERS)
def test_every_method_copes_with_dead_units(tinyten: Model, images: Images, use: str) -> None:
    problem, permutation = planted(tinyten, images)
    dead = {**problem.source}
    dead["features.bn3.weight"], dead["features.bn3.bias"] = (torch.zeros(8).double(), -torch.ones(8).double())
    problem = replace(problem, source=dead)  # one layer is zero, so all later activations are constant
    actual = plugin("alignments", {"use": use})(problem)
    certify(problem, actual)
    first = "features.conv1"
    assert torch.equal(actual[first], inverse(permutation)[first])


def test_single_dead_units_leave_the_others_matched(tinyten: Model, images: Images) -> None:
    problem, permutation = planted(tinyten, images)
    source, target = {**problem.source}, {**problem.target}
    dead = 2  # of the target's units; the source's follows from the permutation
    place = int(inverse(permutation)["features.conv4"][dead])
    for state, unit in ((target, dead), (source, place)):
        for name, value in (("weight", 0.0), ("bias", -1.0)):
            state[f"features.bn4.{name}"] = state[f"features.bn4.{name}"].clone()
            state[f"features.bn4.{name}"][unit] = value
    actual = correlation(replace(problem, source=source, target=target))
    assert torch.equal(actual["features.conv4"], inverse(permutation)["features.conv4"])


# correlations, recomputed without the library


def outputs_of(model: Model, state: dict[str, Tensor], images: Images, names: list[str]) -> dict[str, np.ndarray]:
    """The outputs of the layers `names`, read by forward hooks, as (images * positions, units)."""
    kept: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            kept[name] = output.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, output.shape[1])

        return hook

    handles = [model.network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    model.network.eval()
    model(state, as_float(images.pixels))
    for handle in handles:
        handle.remove()
    return kept


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The estimator of the paper: the mean product of z-scores, with the population's standard deviation."""
    a, b = ((x - x.mean(0)) / x.std(0) for x in (first, second))
    return a.T @ b / len(a)


def best(score: np.ndarray) -> list[int]:
    """The best assignment, by trying all permutations."""
    return list(max(permutations(range(len(score))), key=lambda p: score[range(len(p)), p].sum()))


def hungarian(score: np.ndarray) -> list[int]:
    return linear_sum_assignment(score, maximize=True)[1].tolist()


def expected_layers(use: str) -> dict[str, list[str]]:
    """{group: layers whose outputs are its post-activations}, written by hand."""
    if use == "tinyten":
        return {f"features.conv{i}": [f"features.relu{i}"] for i in range(1, 9)}
    layers = {f"stage{s}.{i}.conv1": [f"stage{s}.{i}.relu1"] for s in (1, 2, 3) for i in (0, 1)}
    layers |= {f"stage{s}.0.conv2": [f"stage{s}.{i}.relu2" for i in (0, 1)] for s in (2, 3)}
    return layers | {"conv1": ["relu", "stage1.0.relu2", "stage1.1.relu2"]}


@pytest.mark.parametrize("use, options", [("tinyten", {}), ("resnet", {"depth": 14})])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_correlations_are_those_of_the_paper(use: str, options: dict, batch_size: int, images: Images) -> None:
    model = small(use, **options)
    problem, layers = problem_of(model, images), expected_layers(use)
    computed, matches = correlations(problem, batch_size=batch_size), correlation(problem, batch_size=batch_size)
    names = [name for members in layers.values() for name in members]
    target, source = (outputs_of(model, dict(state), images, names) for state in (problem.target, problem.source))
    assert computed.keys() == layers.keys()
    for group, members in layers.items():
        assert [tap.node for tap in computed[group]] == [name.replace(".", "_") for name in members]
        single = [pearson(target[name], source[name]) for name in members]
        for matrix, expected in zip(computed[group].values(), single, strict=True):
            np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-10)
        assert matches[group].tolist() == hungarian(sum(single))


def test_the_correlations_of_a_residual_stream_are_summed(images: Images) -> None:
    problem = problem_of(small("resnet", depth=14), images)
    computed, matches = correlations(problem), correlation(problem)
    streams = {group: list(matrices.values()) for group, matrices in computed.items() if len(matrices) > 1}
    assert len(streams) == 3
    for group, matrices in streams.items():
        assert matches[group].tolist() == hungarian(sum(matrices).numpy())
        assert any(matches[group].tolist() != hungarian(matrix.numpy()) for matrix in matrices)


class Wide(nn.Module):
    """Two convolutions whose outputs are concatenated before the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(10)
        self.relu, self.pool, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))).flatten(1))


def test_concatenated_groups_are_matched_each_on_its_own_channels(images: Images) -> None:
    model = unnormalised(Wide())
    problem, permutation = planted(model, images)
    actual = correlation(problem)
    assert_same(actual, inverse(permutation))
    target, source = (outputs_of(model, dict(s), images, ["relu"])["relu"] for s in (problem.target, problem.source))
    (matrix,) = correlations(problem)["b"].values()
    np.testing.assert_allclose(matrix, pearson(target[:, 4:], source[:, 4:]), rtol=0, atol=1e-10)


def test_uncentred_correlations_are_cosines(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    target, source = (
        outputs_of(tinyten, dict(state), images, ["features.relu2"])["features.relu2"]
        for state in (problem.target, problem.source)
    )
    expected = (target / np.linalg.norm(target, axis=0)).T @ (source / np.linalg.norm(source, axis=0))
    (matrix,) = correlations(problem, centred=False)["features.conv2"].values()
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)
    assert torch.equal(correlation(problem, centred=False)["features.conv2"], assign(torch.from_numpy(expected)))


def test_only_the_first_images_count(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    few = replace(problem, examples=images.first(5))
    batches = [len(next(iter(target.values()))) for _, (target, _) in activation_batches(few, few.trace.taps, 2)]
    assert batches == [2, 2, 1]
    by_option = correlation(problem, images=5)
    assert_same(by_option, correlation(few))
    assert any(not torch.equal(by_option[group], match) for group, match in correlation(problem).items())


def test_activations_are_those_of_evaluation_mode(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    tinyten.network.train()
    before = {name: tensor.clone() for name, tensor in problem.target.items()}
    ((_, (target, _)),) = activation_batches(problem, problem.trace.taps, 100)
    assert_same(problem.target, before)
    expected = outputs_of(tinyten, dict(problem.target), images, ["features.relu3"])["features.relu3"]
    actual = target["features_relu3"].permute(0, 2, 3, 1).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_activations_are_read_before_anything_overwrites_them(images: Images) -> None:
    """In the folded network ReLUs work in place, so their inputs must be copied when they are read."""
    model = small("resnet", depth=14)
    problem = problem_of(model, images)
    ((_, (target, _)),) = activation_batches(problem, problem.trace.pre_activations, 100)
    expected = outputs_of(model, dict(problem.target), images, ["stage1.0.bn1", "stage2.1.bn1"])
    for name, values in expected.items():
        actual = target[name.replace(".", "_")].permute(0, 2, 3, 1).reshape(values.shape)
        np.testing.assert_allclose(actual, values, rtol=0, atol=1e-12)
        assert actual.min() < 0


def in_float32(problem: Problem) -> Problem:
    """The problem in float32."""
    model = problem.model
    plain = Model(deepcopy(model.network).float(), model.mean.float(), model.std.float())
    ends = ({n: t.float() if t.is_floating_point() else t for n, t in state.items()} for state in sides(problem))
    return Problem(plain, trace(plain.network, as_float(problem.examples.pixels[:2])), *ends, problem.examples)


@pytest.mark.parametrize("read", ["post", "pre"])
@pytest.mark.parametrize("precise", [True, False], ids=["float64", "float32"])
def test_folded_networks_give_the_same_activations(
    convolutional: Model, images: Images, read: str, precise: bool
) -> None:
    problem = problem_of(convolutional, images) if precise else in_float32(problem_of(convolutional, images))
    taps = problem.trace.taps if read == "post" else problem.trace.pre_activations
    probe, names = problem.trace.probe(taps)
    ((_, activations),) = activation_batches(problem, taps, 100)
    inputs = problem.model.normalise(as_float(images.pixels).to(problem.model.mean.dtype))
    for side, state in zip(activations, sides(problem), strict=True):
        with torch.no_grad():
            expected = probe(inputs, state)
        for name, values in zip(names, expected, strict=True):
            apart = (side[name] - values).abs().max() / values.abs().max()
            assert apart <= (1e-10 if precise else 3e-5), name
    assert (folded_probe(problem, taps, None) is not None) == (read == "post")


class Idle(nn.Module):
    """Calls a ReLU whose result is not used. A graph may drop it, and then number the other ReLUs differently."""

    def __init__(self, behind: int):
        super().__init__()
        self.a, self.rest = nn.Conv2d(3, 4, 3), nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(behind))
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        torch.relu(x)
        x = torch.relu(self.a(x))
        for layer in self.rest:
            x = torch.relu(layer(x))
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("behind", [0, 2])
def test_a_network_is_not_folded_where_other_activations_would_be_read(images: Images, behind: int) -> None:
    problem = problem_of(unnormalised(Idle(behind)), images)
    assert folded_probe(problem, problem.trace.taps, None) is None
    ((_, (target, _)),) = activation_batches(problem, problem.trace.taps, 100)
    assert target["relu_1"].shape[1] == 4


# stopping early


def test_an_alignment_stops_when_the_permutation_no_longer_changes(tinyten: Model) -> None:
    problem, permutation = planted(tinyten, pictures(40))
    actual = correlation(problem, batch_size=4, stop=0)
    assert problem.facts["images"] < 40
    assert_same(actual, inverse(permutation))


def test_an_alignment_that_keeps_changing_takes_all_images(tinyten: Model) -> None:
    problem = problem_of(tinyten, pictures(11))
    on_all_images = correlation(problem)
    assert problem.facts["images"] == 11
    changing = replace(problem, facts={})
    actual = correlation(changing, batch_size=1, stop=0)
    assert changing.facts["images"] == 11
    assert_same(actual, on_all_images)


def test_the_share_that_may_change_decides_how_soon_an_alignment_stops(tinyten: Model) -> None:
    problem = problem_of(tinyten, pictures(40))
    counts = []
    for stop in (0.0, 0.3, 1.0):
        correlation(problem, batch_size=2, stop=stop)
        counts.append(problem.facts["images"])
    assert counts == sorted(counts, reverse=True) and counts[-1] == 4 < counts[0]


def test_an_alignment_that_may_stop_does_not_depend_on_the_order_of_classes(tinyten: Model) -> None:
    shown: list[int] = []
    images = pictures(40)
    problem = problem_of(tinyten, Images(images.pixels, torch.arange(40) // 8))

    def watch(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        shown.extend(labels.tolist())
        return pixels

    correlation(replace(problem, attack=watch), batch_size=10, stop=1.0)
    assert set(shown) == set(range(5)) and len(shown) == 2 * 20


def test_memory_is_that_of_the_moments_however_many_images_there_are(tinyten: Model) -> None:
    problem = problem_of(tinyten, pictures(40))
    sizes = []
    for _, moments in growing_moments(problem, first=4, batch_size=4):
        tensors = [
            t for taps in moments.values() for m in taps.values() for t in vars(m).values() if hasattr(t, "numel")
        ]
        sizes.append(sum(t.numel() for t in tensors))
    assert len(sizes) == 5, "after 4, 8, 16, 32 and 40 images"
    assert len(set(sizes)) == 1


# assignment


@pytest.mark.parametrize("seed", range(20))
def test_assignment_is_optimal(seed: int) -> None:
    score = torch.randn(5, 5, generator=generator(seed))
    assert assign(score).tolist() == best(score.numpy())


def test_assignment_means_that_the_sources_unit_moves_to_the_targets_place() -> None:
    match = assign(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert match.dtype == torch.int64
    assert match.tolist() == [2, 0, 1]


def test_the_optimal_assignment_may_leave_out_the_largest_score() -> None:
    assert assign(torch.tensor([[10.0, 9.0], [9.0, 0.0]])).tolist() == [1, 0]


# certificates


def test_every_admissible_permutation_is_certified(model: Model, images: Images) -> None:
    problem = problem_of(model, images)
    assert certify(problem, random(problem.trace.spec, generator(9))) < 1e-11
    assert certify(problem, {}) == 0


def test_a_certificate_is_in_float64_whatever_the_weights(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    model = Model(tinyten.network.float(), tinyten.mean.float(), tinyten.std.float())
    source = {name: t.float() if t.is_floating_point() else t for name, t in problem.source.items()}
    assert certify(replace(problem, model=model, source=source), shifts(problem.trace.spec)) < 1e-11


@pytest.mark.parametrize("forgotten", ["features.conv4.weight", "features.bn2.running_var", "fc.weight"])
def test_a_permutation_that_leaves_out_a_tensor_is_refused(tinyten: Model, images: Images, forgotten: str) -> None:
    problem = problem_of(tinyten, images)
    axes = {name: axis for name, axis in problem.trace.spec.axes.items() if name != forgotten}
    wrong = replace(problem, trace=replace(problem.trace, spec=replace(problem.trace.spec, axes=axes)))
    with pytest.raises(CertificateError) as error:
        certify(wrong, shifts(problem.trace.spec))
    assert "the permuted network is another function: its outputs differ by" in str(error.value)
    assert "of their size on 12 images, at most 1e-09 is allowed" in str(error.value)
    assert certify(wrong, shifts(problem.trace.spec), tolerance=100) > 1e-3
    with pytest.raises(CertificateError, match="on 7 images"):
        certify(wrong, shifts(problem.trace.spec), images=3)


def test_a_network_that_gives_no_numbers_is_not_certified(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    source = {**problem.source, "fc.bias": torch.full((5,), float("nan")).double()}
    with pytest.raises(CertificateError, match="differ by nan"):
        certify(replace(problem, source=source), {})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda right: [right], "returns list; a mapping {group: index} is needed"),
        (lambda right: {}, "returns no index for the group 'features.conv1'; one for every free group is needed"),
        (
            lambda right: right | {"features.conv1": [0, 1, 2, 3]},
            "returns list for the group 'features.conv1'; an int64 tensor is needed",
        ),
        (
            lambda right: right | {"features.conv1": torch.arange(5)},
            "returns no permutation: group 'features.conv1': not a permutation of 4 channels: found torch.int64 of "
            "shape (5,); torch.int64 of shape (4,) is needed",
        ),
        (
            lambda right: right | {"features.conv1": torch.arange(4.0)},
            "returns no permutation: group 'features.conv1': not a permutation of 4 channels: found torch.float32 of "
            "shape (4,); torch.int64 of shape (4,) is needed",
        ),
        (
            lambda right: right | {"features.conv1": torch.zeros(4, dtype=torch.int64)},
            "returns no permutation: group 'features.conv1': not a permutation of 4 channels",
        ),
        (lambda right: right | {"head": torch.arange(4)}, "returns no permutation: group 'head' cannot be permuted"),
    ],
)
def test_a_method_that_returns_no_permutation_is_refused_by_name(tinyten, images, result, message):
    problem, right = planted(tinyten, images)

    def careless(problem: Problem):
        return result(right)

    with pytest.raises(
        UserError, match=re.escape(f"the alignment {__name__}:") + ".*" + re.escape(f"careless {message}")
    ):
        search(problem, careless)
    with pytest.raises(UserError, match=re.escape(f"careless {message}")):
        search(problem, partial(careless))


def test_an_inadmissible_permutation_is_refused_before_anything_is_computed(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    with pytest.raises(ValueError, match="group 'fc' cannot be permuted"):
        certify(problem, {"fc": torch.tensor([1, 0, 2, 3, 4])})
    with pytest.raises(ValueError, match="group 'features.conv1': not a permutation of 4 channels"):
        certify(problem, {"features.conv1": torch.tensor([1, 1, 2, 3])})


def test_aligning_does_not_change_states_and_images(tinyten: Model) -> None:
    images = pictures()
    problem = problem_of(tinyten, images)
    before = {name: tensor.clone() for name, tensor in problem.source.items()}
    certify(problem, correlation(problem))
    assert_same(problem.source, before)
    assert torch.equal(images.pixels, pictures().pixels)


def test_aligned_networks_are_closer_than_before(tinyten: Model, images: Images) -> None:
    problem, _ = planted(tinyten, images)
    aligned = symmetry.permute(problem.trace.spec, correlation(problem), problem.source)

    def distance(state: dict[str, Tensor]) -> float:
        return sum((state[n] - t).square().sum().item() for n, t in problem.target.items() if t.is_floating_point())

    assert distance(aligned) < 1e-4 * distance(dict(problem.source))


# options of the methods


def test_pre_activations_are_the_inputs_of_the_nonlinearity(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    target, source = (outputs_of(tinyten, dict(s), images, ["features.bn2"])["features.bn2"] for s in sides(problem))
    ((tap, matrix),) = correlations(problem, read="pre")["features.conv2"].items()
    assert tap.node == "features_bn2"
    np.testing.assert_allclose(matrix, pearson(target, source), rtol=0, atol=1e-10)


def test_transport_minimises_the_distance_of_activations(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    target, source = (
        outputs_of(tinyten, dict(s), images, ["features.relu2"])["features.relu2"] for s in sides(problem)
    )
    distance = ((target[:, :, None] - source[:, None, :]) ** 2).sum(0)
    assert plugin("alignments", {"use": "transport"})(problem)["features.conv2"].tolist() == hungarian(-distance)


def test_covariance_counts_units_by_how_much_they_vary(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    target, source = (
        outputs_of(tinyten, dict(s), images, ["features.relu2"])["features.relu2"] for s in sides(problem)
    )
    covariances = (target - target.mean(0)).T @ (source - source.mean(0)) / len(target)
    ((_, moments),) = unit_moments(problem)["features.conv2"].items()
    np.testing.assert_allclose(moments.covariance(), covariances, rtol=0, atol=1e-10)
    by_correlation, by_covariance, by_product = (plugin("alignments", {"use": use})(problem) for use in BY_ACTIVATIONS)
    assert by_covariance["features.conv2"].tolist() == hungarian(covariances)
    for other in (by_correlation, by_product):
        assert any(not torch.equal(match, other[group]) for group, match in by_covariance.items())


def test_a_stream_may_be_read_at_its_stem_only(images: Images) -> None:
    problem = problem_of(small("resnet", depth=14), images)
    computed, matches = correlations(problem), correlation(problem, streams="stem")
    (stem, *_), sums = computed["conv1"].items(), computed["stage2.0.conv2"].values()
    assert stem[0].node == "relu"
    assert matches["conv1"].tolist() == hungarian(stem[1].numpy())
    assert matches["stage2.0.conv2"].tolist() == hungarian(sum(sums).numpy())


def test_large_maps_may_be_halved_and_go_on_halved(tinyten: Model) -> None:
    problem = problem_of(tinyten, pictures(side=40))
    full_size, halved = (
        next(activation_batches(problem, problem.trace.taps, 100, largest=n))[1][0] for n in (None, 32)
    )
    assert torch.equal(halved["features_relu1"], full_size["features_relu1"][..., ::2, ::2])
    assert halved["features_relu2"].shape[-1] == halved["features_relu1"].shape[-1]


@pytest.mark.parametrize(
    ("use", "side", "largest"),
    [("resnet", 32, 8), ("resnet", 40, 32), ("resnet", 36, 4), ("resnet", 16, 1), ("tinyten", 64, 16)],
)
def test_maps_are_halved_as_often_as_it_takes_so_that_branches_still_fit(use: str, side: int, largest: int) -> None:
    problem = problem_of(small(use), pictures(8, side=side))
    (_, (activations, _)) = next(activation_batches(problem, problem.trace.taps, 100, largest=largest))
    first, rows = ("relu", "features_relu1")[use == "tinyten"], side
    while rows > largest:
        rows = (rows + 1) // 2
    assert activations[first].shape[-1] == rows
    assert all(tensor.shape[-1] <= largest for tensor in activations.values())
    certify(problem, correlation(problem, largest=largest))


def test_balanced_images_are_equally_many_of_each_class_and_the_first_of_each() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    actual = Images(torch.arange(8).view(8, 1, 1, 1), labels).balanced(4)
    assert actual.pixels.flatten().tolist() == [0, 1, 3, 5]


def test_a_random_alignment_depends_on_its_seed_only(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    one, again, other = (plugin("alignments", {"use": "random", "seed": seed})(problem) for seed in (1, 1, 2))
    assert_same(one, again)
    assert any(not torch.equal(one[group], other[group]) for group in one)


def test_attacked_activations_are_those_of_images_attacked_against_each_network(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)

    def darken(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        return pixels * 0 + predict(pixels).mean().detach()

    attacked = replace(problem, attack=darken)
    tinyten.network.eval()
    for side, activations in enumerate(next(activation_batches(attacked, problem.trace.taps, 100))[1]):
        state = sides(problem)[side]
        level = tinyten(state, as_float(images.pixels)).mean()
        alone = Images(torch.zeros_like(images.pixels), images.labels)
        shown = replace(problem, examples=alone, model=replace(tinyten, mean=tinyten.mean - level))
        expected = next(activation_batches(shown, problem.trace.taps, 100))[1][side]
        torch.testing.assert_close(activations["features_relu8"], expected["features_relu8"])


def test_the_facts_say_that_labels_are_read_where_images_are_attacked_or_chosen_by_class(
    tinyten: Model, images: Images
) -> None:
    def same(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        return pixels

    problem = problem_of(tinyten, images)
    cases = [(None, {}), (same, {}), (None, {"balanced": True})]
    read = [replace(problem, attack=attack, facts={}) for attack, _ in cases]
    for case, (_, options) in zip(read, cases, strict=True):
        correlation(case, batch_size=10, **options)
    assert [case.facts.get("labels", False) for case in read] == [False, True, True]


def sides(problem: Problem) -> list[dict[str, Tensor]]:
    return [dict(problem.target), dict(problem.source)]


# PAM


def test_pam_keeps_an_alignment_that_nothing_beats(tinyten: Model, images: Images) -> None:
    problem, permutation = planted(tinyten, images)
    solved = replace(problem, start=inverse(permutation))
    actual = method("pam")(solved)
    assert_same(actual, solved.start)
    assert solved.facts["objective_after"] == solved.facts["objective_before"]


def test_pam_never_ends_worse_than_it_began(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    method("pam")(problem)
    assert problem.facts["objective_after"] <= problem.facts["objective_before"]


def test_pam_takes_several_rounds_and_an_exact_projection(tinyten: Model, images: Images) -> None:
    problem = problem_of(tinyten, images)
    options = CHEAP["pam"] | {"rounds": 2, "bend_epochs": 1, "projection": "exact", "proximal": 1.0}
    assert certify(problem, plugin("alignments", {"use": "pam"} | options)(problem)) < 1e-9


def test_pam_draws_dropout_from_its_seed_and_leaves_the_global_random_numbers_alone() -> None:
    images = pictures(12, side=8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5))
    problem = problem_of(unnormalised(network), images)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        problem.facts.clear()
        results.append((method("pam")(problem), dict(problem.facts)))
        assert torch.equal(torch.get_rng_state(), state)
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_pam_refuses_a_last_batch_that_batch_norm_cannot_train_on() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    problem = problem_of(unnormalised(network), pictures(9, side=8))
    with pytest.raises(UserError, match="^9 images in batches of 4 leave one alone in the last batch, and the netw"):
        plugin("alignments", {"use": "pam"} | CHEAP["pam"] | {"batch_size": 4})(problem)


class Interrupted(Exception):
    pass


class Fragile(Checkpoint):
    """A keeper that interrupts the training after a number of steps."""

    def keep(self, progress: Progress) -> None:
        super().keep(progress)
        if (progress.epoch, progress.step) == (1, 1):
            raise Interrupted


@pytest.mark.parametrize("phase", ["permutation-0", "bends-0", "permutation-1"])
def test_pam_goes_on_after_an_interruption_to_the_same_bits(
    tinyten: Model, images: Images, tmp_path: Path, phase: str
) -> None:
    problem, options = problem_of(tinyten, images), CHEAP["pam"] | {"epochs": 2, "rounds": 2, "bend_epochs": 2}
    search, trainings = plugin("alignments", {"use": "pam"} | options), []

    def keeper(name: str) -> Checkpoint:
        trainings.append(name)
        kind = Fragile if name == phase and name not in trainings[:-1] else Checkpoint
        return kind(tmp_path / "key", name, every=0)

    uninterrupted, again = (replace(problem, facts={}) for _ in range(2))
    expected = search(uninterrupted)
    with pytest.raises(Interrupted):
        search(replace(problem, facts={}, keeper=keeper))
    stepped = []
    watched = replace(again, keeper=keeper, transform=lambda x, draws: stepped.append(len(x)) or as_float(x))
    actual = search(watched)
    assert_same(actual, expected)
    assert again.facts == uninterrupted.facts
    assert set(trainings) == {"permutation-0", "bends-0", "permutation-1"}
    everything = []
    search(replace(problem, facts={}, transform=lambda x, draws: everything.append(len(x)) or as_float(x)))
    assert sum(stepped) < sum(everything), "finished steps are not repeated"


# activations of any size within the range of float32


def scaled_problem(size: float, offset: float, count: int = 64) -> tuple[Problem, dict[str, Tensor]]:
    """A perceptron in float32 with hidden activations of this `size` and this `offset`, in units of the size; and the
    permutation that was planted in the source.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 24), nn.ReLU(), nn.Linear(24, 5))
    model, images = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), pictures(count, side=8)
    traced = trace(network, as_float(images.pixels[:2]))
    state = {name: 4 * t for name, t in randomised(network, 3).items()}
    state["1.weight"], state["1.bias"] = size * state["1.weight"], size * (state["1.bias"] + offset)
    state["3.weight"] /= max(size, 1e-30)
    permutation = random(traced.spec, generator(5))
    return Problem(model, traced, state, permute(traced.spec, permutation, state), images), permutation


@pytest.mark.parametrize("use", BY_ACTIVATIONS)
@pytest.mark.parametrize(
    "size, offset", [(1e-30, 3), (1e-20, 3), (1e-14, 3), (1, 3), (1, 1e5), (1, 1e6), (1e20, 3), (1e35, 3)]
)
@pytest.mark.parametrize("read", ["post", "pre"])
def test_a_planted_permutation_is_found_whatever_the_size_of_activations(
    use: str, size: float, offset: float, read: str, caplog: pytest.LogCaptureFixture
) -> None:
    problem, permutation = scaled_problem(size, offset)
    (actual,) = plugin("alignments", {"use": use, "read": read})(problem).values()
    assert torch.equal(actual, inverse(permutation)["1"])
    assert not caplog.records


def test_a_warning_names_groups_with_units_that_vary_by_rounding_only(caplog: pytest.LogCaptureFixture) -> None:
    problem, _ = scaled_problem(1, 1e9)
    correlation(problem)
    assert caplog.messages == [
        "group '1': 24 units of the target and 24 of the source, of 24, vary by no more than rounding (a constant, or "
        "an offset too large for their precision); their matches are arbitrary"
    ]


@pytest.mark.parametrize("use", BY_ACTIVATIONS)
@pytest.mark.parametrize("size", [3e38, float("nan")])  # finite weights whose sums overflow
def test_activations_that_are_not_finite_are_refused(use: str, size: float) -> None:
    problem, _ = scaled_problem(1, 0)
    source = problem.source | {"1.weight": problem.source["1.weight"].clone()}
    source["1.weight"][7] = size
    with pytest.raises(UserError, match=r"group '1', read at .*: activations of the source .* in 1 units: 7$"):
        plugin("alignments", {"use": use})(replace(problem, source=source))


# after max-pools


def test_pooled_reads_only_googlenets_third_convolution_after_its_max_pool() -> None:
    model, images = small("googlenet"), pictures(20, side=16)
    problem = problem_of(model, images)
    plain_taps, taps = problem.trace.taps, problem.trace.after_pooling
    assert plain_taps.keys() == taps.keys()
    changed = [group for group in taps if taps[group] != plain_taps[group]]
    assert changed == ["conv3.conv"]  # the second pool reads branches side by side, the others what blocks give
    kept: list[Tensor] = []
    handle = model.network.conv3.relu.register_forward_hook(
        lambda _, __, y: kept.append(F.max_pool2d(y, 3, 2, 0, 1, True))
    )
    model.network.eval()
    for state in (problem.target, problem.source):
        functional_call(model.network, state, (model.normalise(as_float(images.pixels)),))
    handle.remove()
    first, second = (F.normalize(units.transpose(0, 1).flatten(1), dim=1) for units in kept)
    actual = correlation(problem, read="pooled", centred=False)
    _, expected = linear_sum_assignment(first @ second.T, maximize=True)
    assert actual["conv3.conv"].tolist() == expected.tolist()
    ordinary = correlation(problem, centred=False)
    assert [group for group in actual if not torch.equal(actual[group], ordinary[group])] == ["conv3.conv"]


@pytest.mark.parametrize("use", ["tinyten", "resnet"])
def test_pooled_equals_post_in_networks_without_max_pools(use: str) -> None:
    traced = trace(small(use).network, torch.rand(2, 3, 16, 16).double())
    assert traced.after_pooling == traced.taps


POOLED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], bool]] = {  # what is made of an activation; read pooled?
    "a layer": (lambda n, x: n.pool(x), True),
    "a function": (lambda n, x: F.max_pool2d(x, 2), True),
    "a mean": (lambda n, x: F.avg_pool2d(x, 2), False),
    "nothing": (lambda n, x: x, False),
    "two readers": (lambda n, x: F.max_pool2d(x, 2) + x[..., ::2, ::2], False),
    "two pools": (lambda n, x: F.max_pool2d(x, 2) + F.max_pool2d(x, 2, 2, 0), False),
    "not straight": (lambda n, x: F.max_pool2d(2 * x, 2), False),
}


@pytest.mark.parametrize("name", POOLED)
def test_pooled_reads_a_max_pool_only_if_it_alone_uses_the_activation(name: str) -> None:
    act, expected = POOLED[name]
    layers = {"a": nn.Conv2d(3, 8, 3), "pool": nn.MaxPool2d(2), "b": nn.Conv2d(8, 5, 3)}
    traced = trace(Net(lambda n, x: n.b(act(n, n.a(x).relu())).mean((2, 3)), **layers), torch.rand(2, 3, 12, 12))
    assert (traced.after_pooling != traced.taps) == expected


def test_a_stream_that_is_pooled_is_known_to_be_a_sum() -> None:
    net = Net(
        lambda n, x: n.c(F.max_pool2d((n.a(x) + n.b(x).relu()).relu(), 2)).mean((2, 3)),
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(3, 8, 3),
        c=nn.Conv2d(8, 5, 3),
    )
    traced = trace(net, torch.rand(2, 3, 12, 12))
    assert [tap.summed for taps in (traced.taps, traced.after_pooling) for tap in taps["a"]] == [False, True] * 2


class Masked(nn.Module):
    """A network whose hidden units are multiplied by a mask, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 5)
        self.register_buffer("mask", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).relu() * self.mask)


def test_pam_moves_buffers_with_their_units() -> None:
    torch.manual_seed(0)
    model = unnormalised(Masked())
    model = replace(model, network=model.network.double())
    images = pictures(side=2, count=20)
    target, source = (randomised(model.network, seed) for seed in (1, 2))
    problem = Problem(model, trace(model.network, model.normalise(images.pixels[:2] / 255.0)), target, source, images)
    searched = _Search(problem, 1, 8, 0)
    permutation = symmetry.random(problem.trace.spec, generator(3))
    assert permutation, "the hidden units are free"
    end = searched.layout.flatten(symmetry.permute(problem.trace.spec, permutation, searched.end))
    point = searched.point(end, searched.offsets, searched.weights(1.0))
    actual = searched.layout.views(point) | searched.buffers
    assert_same(actual, symmetry.permute(problem.trace.spec, permutation, source))
