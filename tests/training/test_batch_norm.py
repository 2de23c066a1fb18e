"""Batch-norm statistics: equal to PyTorch's, of several points at once, and of a sample that is corrected at nodes."""

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext

import pytest
import torch
from tiny import assert_close, assert_same, perceptron, pictures, plain, randomised, small, unnormalised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from neuralign.common.errors import UserError
from neuralign.datasets.batches import first_examples
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State
from neuralign.networks.states import split_trainable
from neuralign.training import batch_norm
from neuralign.training.augmentation import pipeline
from neuralign.training.batch_norm import Estimate, refresh, refresh_each, statistics

# GoogLeNet's auxiliary heads are not there in evaluation mode
EVALUATED = [("tinyten", {}), ("resnet", {}), ("googlenet", {"auxiliary": False})]


def refreshed(model: Model, state: State, batches: Iterable) -> dict[str, Tensor]:
    return refresh(model, *split_trainable(model, dict(state)), batches)


# of one point


@pytest.mark.parametrize("use, options", EVALUATED)
def test_statistics_equal_those_of_pytorch_on_equal_batches(use: str, options: dict, images: Images) -> None:
    model = small(use, **options)
    state = randomised(model.network)
    model.network.load_state_dict(state)
    actual = refreshed(model, state, images.batches(4))
    update_bn([model.normalise(pixels) for pixels, _ in images.batches(4)], model.network)
    expected = dict(model.network.named_buffers())
    assert actual.keys() == expected.keys()
    running = {name for name in actual if "running" in name}
    assert_close({n: actual[n] for n in running}, {n: expected[n] for n in running}, 1e-10)
    assert not any(torch.allclose(actual[name], state[name]) for name in running)


def test_unequal_batches_count_by_their_images() -> None:
    torch.manual_seed(0)
    model, images = unnormalised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), pictures(11)
    state = randomised(model.network)
    actual = refreshed(model, state, images.batches(4))
    features = [F.conv2d(x.double(), state["0.weight"], state["0.bias"]) for x, _ in images.batches(4)]
    mean = sum(len(f) * f.mean((0, 2, 3)) for f in features) / 11
    variance = sum(len(f) * f.var((0, 2, 3)) for f in features) / 11  # unbiased
    assert [len(f) for f in features] == [4, 4, 3]
    torch.testing.assert_close(actual["1.running_mean"], mean)
    torch.testing.assert_close(actual["1.running_var"], variance)


def test_statistics_do_not_depend_on_their_old_values(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    other = {name: t + 3 if "running" in name else t for name, t in state.items()}
    assert_close(refreshed(tinyten, other, images.batches(5)), refreshed(tinyten, state, images.batches(5)), 1e-10)


def test_the_buffers_are_not_changed_in_place(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    before = {name: tensor.clone() for name, tensor in state.items()}
    refreshed(tinyten, state, images.batches(5))
    assert_same(state, before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_networks_modes_and_momenta_are_left_as_they_were(
    tinyten: Model, images: Images, training: bool, fails: bool
) -> None:
    tinyten.network.train(training)
    tinyten.network.features.bn2.momentum, tinyten.network.features.bn3.momentum = 0.25, None

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        yield from images.batches(5)
        if fails:
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone") if fails else nullcontext():
        refreshed(tinyten, randomised(tinyten.network), batches())
    assert {layer.training for layer in tinyten.network.modules()} == {training}
    norms = tinyten.network.features
    assert (norms.bn1.momentum, norms.bn2.momentum, norms.bn3.momentum) == (0.1, 0.25, None)


def test_nothing_is_dropped_while_statistics_are_estimated(images: Images) -> None:
    def model(dropout: float) -> Model:
        torch.manual_seed(0)
        return unnormalised(nn.Sequential(nn.Dropout(dropout), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))

    states = [randomised(model(p).network) for p in (0.5, 0.0)]
    actual = [refreshed(model(p), state, images.batches(5)) for p, state in zip((0.5, 0.0), states, strict=True)]
    assert_same(*actual)


def test_a_network_without_batch_norm_needs_no_statistics(images: Images) -> None:
    model = unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))

    def batches() -> Iterable:
        raise AssertionError("no batch is needed")
        yield

    assert refreshed(model, randomised(model.network), batches()) == {}


# of several points


@pytest.mark.parametrize("attacked", [False, True])
def test_several_points_at_once_give_the_same_as_one_by_one(tinyten: Model, images: Images, attacked: bool) -> None:
    states, reads = [randomised(tinyten.network, seed) for seed in (1, 2, 3)], []
    points, buffers = [split_trainable(tinyten, state)[0] for state in states], split_trainable(tinyten, states[0])[1]

    def jiggle(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        return pixels + 0.1 * torch.rand(pixels.shape, generator=noise) + 0 * predict(pixels).sum()

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        reads.append(1)
        yield from images.batches(5)

    attack = jiggle if attacked else None
    together = refresh_each(tinyten, points, buffers, batches(), attack, seed=3)
    assert len(reads) == 1
    for point, actual in zip(points, together, strict=True):
        assert_same(actual, refresh(tinyten, point, buffers, images.batches(5), attack, seed=3))


def line(model: Model) -> tuple[Callable, State]:
    """The parameters at t of a line through two random states, and the buffers of one of them."""
    (start, buffers), (end, _) = (split_trainable(model, randomised(model.network, seed)) for seed in (1, 2))
    return (lambda place: {name: torch.lerp(start[name], end[name], place[0]) for name in start}), buffers


def estimate(images: int | None, full_passes: int | None = None, *, total: int = 40, **options) -> Estimate:
    augment = pipeline([{"use": "crop"}, {"use": "flip"}])
    training = pictures(total, seed=1)
    return Estimate.on(training, augment, batch_size=8, seed=1, images=images, full_passes=full_passes, **options)


PLACES = [(i / 8,) for i in range(9)]


@pytest.mark.parametrize("full_passes", [None, 3])
def test_a_sample_of_all_images_is_the_full_pass_to_the_bit(tinyten: Model, full_passes: int | None) -> None:
    point, buffers = line(tinyten)
    for images in (40, 41):
        actual = statistics(tinyten, point, PLACES, buffers, estimate(images, full_passes))
        for place, at_place in zip(PLACES, actual, strict=True):
            assert_same(at_place, refresh(tinyten, point(place), buffers, estimate(None).sample()))


@pytest.mark.parametrize("full_passes", [0, 1])
def test_too_few_nodes_to_interpolate_between_are_refused(full_passes: int) -> None:
    with pytest.raises(UserError, match=f"^full_passes: found {full_passes}; at least 2, or None, is needed$"):
        estimate(12, full_passes)


@pytest.mark.parametrize("use, options", EVALUATED)
def test_statistics_at_nodes_are_those_of_a_full_pass_to_the_bit(use: str, options: dict) -> None:
    model = small(use, **options)
    point, buffers = line(model)
    actual = dict(zip(PLACES, statistics(model, point, PLACES, buffers, estimate(12, 3)), strict=True))
    for place in PLACES[::4]:
        assert_same(actual[place], refresh(model, point(place), buffers, estimate(None).sample()))


def test_between_nodes_the_error_of_the_sample_is_corrected(tinyten: Model) -> None:
    """The nodes are as far apart as in practice; larger distances are measured by the benchmarks."""
    point, buffers = line(tinyten)
    full, few, corrected = (
        list(statistics(tinyten, lambda place: point((place[0] / 4,)), PLACES, buffers, of))
        for of in (estimate(None), estimate(8), estimate(8, 5))
    )

    def error(actual: list[dict[str, Tensor]], place: int) -> float:
        """The mean square error, relative to the mean square of each statistic."""
        pairs = [(actual[place][name], full[place][name]) for name in full[0] if "running" in name]
        return sum(((estimated - right).square().mean() / right.square().mean()).item() for estimated, right in pairs)

    for place in (1, 3, 5, 7):
        assert error(corrected, place) < 0.2 * error(few, place)


def test_means_are_corrected_by_a_summand_and_variances_by_a_factor(tinyten: Model) -> None:
    point, buffers = line(tinyten)
    actual = list(statistics(tinyten, point, PLACES, buffers, estimate(8, 2)))
    few = [refresh(tinyten, point(place), buffers, estimate(8).sample()) for place in PLACES]
    mean, variance = "features.bn8.running_mean", "features.bn8.running_var"
    for i, (t,) in enumerate(PLACES):
        shift = (1 - t) * (actual[0][mean] - few[0][mean]) + t * (actual[-1][mean] - few[-1][mean])
        factor = (1 - t) * actual[0][variance] / few[0][variance] + t * actual[-1][variance] / few[-1][variance]
        torch.testing.assert_close(actual[i][mean], few[i][mean] + shift)
        torch.testing.assert_close(actual[i][variance], few[i][variance] * factor)


def test_on_a_plane_statistics_are_corrected_from_four_nodes(tinyten: Model) -> None:
    states = (randomised(tinyten.network, seed) for seed in (1, 2, 3))
    (start, buffers), (right, _), (up, _) = (split_trainable(tinyten, state) for state in states)

    def point(place: tuple[float, ...]) -> State:
        x, y = place
        return {n: start[n] + 0.2 * x * (right[n] - start[n]) + 0.2 * y * (up[n] - start[n]) for n in start}

    places = [(x / 2, y / 2) for y in range(3) for x in range(3)]
    actual, few = (
        dict(zip(places, statistics(tinyten, point, places, buffers, of), strict=True))
        for of in (estimate(8, 2), estimate(8))
    )
    name = "features.bn4.running_mean"
    off = {place: actual[place][name] - few[place][name] for place in places}
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    torch.testing.assert_close(off[0.5, 0.5], sum(off[corner] for corner in corners) / 4)
    torch.testing.assert_close(off[0.5, 1.0], (off[0.0, 1.0] + off[1.0, 1.0]) / 2)
    for corner in corners:
        assert_same(actual[corner], refresh(tinyten, point(corner), buffers, estimate(None).sample()))


def test_a_unit_that_is_always_zero_keeps_zero_statistics(images: Images) -> None:
    model = unnormalised(nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)))
    state = randomised(model.network)
    state["0.weight"][0], state["0.bias"][0] = 0, 0
    parameters, buffers = split_trainable(model, state)
    for actual in statistics(model, lambda place: parameters, PLACES, buffers, estimate(8, 2)):
        assert (actual["1.running_mean"][0], actual["1.running_var"][0]) == (0, 0)
        assert torch.isfinite(actual["1.running_var"]).all()


def test_a_network_without_batch_norm_reads_nothing_for_its_nodes() -> None:
    model = unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))
    point, buffers = line(model)
    assert list(statistics(model, point, PLACES, buffers, estimate(8, 3))) == [{}] * 9


# the images


def test_the_sample_is_the_first_images_of_the_full_pass() -> None:
    every, few = list(estimate(None).sample()), list(estimate(19).sample())
    assert [len(labels) for _, labels in few] == [8, 8, 3]
    for (pixels, labels), (all_pixels, all_labels) in zip(few, every, strict=False):
        assert torch.equal(pixels, all_pixels[: len(labels)]) and torch.equal(labels, all_labels[: len(labels)])


def test_the_sample_of_a_sorted_dataset_has_all_classes() -> None:
    sorted_ = pictures(200).pixels, torch.arange(200) // 40
    batches = Estimate.on(Images(*sorted_), plain, batch_size=8, seed=0, images=40).sample()
    counts = torch.cat([labels for _, labels in batches]).bincount()
    assert counts.sum() == 40 and len(counts) == 5 and counts.min() > 2


def test_every_pass_is_the_same_and_covers_the_images_once() -> None:
    training = Images(pictures(10).pixels, torch.arange(10))
    augment = pipeline([{"use": "crop"}, {"use": "flip"}])
    one, other = (Estimate.on(training, augment, batch_size=4, seed=seed) for seed in (1, 2))
    passes = list(one.sample()), list(one.sample())
    assert all(torch.equal(a, b) for pair in zip(*passes, strict=True) for a, b in zip(*pair, strict=True))
    labels = torch.cat([labels for _, labels in passes[0]]).tolist()
    assert sorted(labels) == list(range(10)) != labels
    assert not torch.equal(passes[0][0][1], next(iter(other.sample()))[1])


@pytest.mark.parametrize("count, sizes", [(1, [1]), (4, [4]), (5, [4, 1]), (12, [4, 4, 4])])
def test_first_cuts_the_last_batch_and_reads_no_further(images: Images, count: int, sizes: list[int]) -> None:
    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        yield from images.batches(4)
        raise AssertionError("read on")

    assert [len(labels) for _, labels in first_examples(batches(), count)] == sizes


# under attack


def test_attacked_statistics_are_updated_in_every_pass_of_the_attack(tinyten: Model, images: Images) -> None:
    """As in the paper's code: each pass of the attack updates the statistics like the pass of a batch."""
    state = randomised(tinyten.network, 1)
    buffers = {name: state[name] for name, _ in tinyten.network.named_buffers()}

    def attack(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        return pixels + 0 * predict(pixels).sum() + 0 * predict(pixels).sum()

    batches = list(images.batches(4))
    actual = refresh(tinyten, state, buffers, batches, attack)
    clean = refresh(tinyten, state, buffers, batches)
    key = "features.bn1.num_batches_tracked"
    assert actual[key] - buffers[key] == 3 * len(batches) and clean[key] - buffers[key] == len(batches)
    assert not any(
        torch.equal(actual[f"features.bn{i}.running_mean"], clean[f"features.bn{i}.running_mean"]) for i in (1, 8)
    )


# batches of one image, norms with two names


def test_a_last_batch_of_one_image_is_left_out_if_batch_norm_refuses_it() -> None:
    model, images = perceptron(), pictures(9, side=8)
    state = randomised(model.network)
    weights, buffers = split_trainable(model, state)
    actual = refresh(model, weights, buffers, images.batches(4))
    assert_same(actual, refresh(model, weights, buffers, images.first(8).batches(4)))
    assert actual["2.num_batches_tracked"] == 2


def test_a_last_batch_of_one_image_counts_if_the_norms_accept_it(tinyten: Model) -> None:
    images = pictures(9)
    weights, buffers = split_trainable(tinyten, randomised(tinyten.network))
    actual = refresh(tinyten, weights, buffers, images.batches(4))
    assert all(actual[name] == 3 for name in actual if name.endswith("num_batches_tracked"))
    fewer = refresh(tinyten, weights, buffers, images.first(8).batches(4))
    assert not any(torch.equal(actual[name], fewer[name]) for name in actual if name.endswith("running_var"))


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_of_single_images_only_are_refused(count: int) -> None:
    model = perceptron()
    weights, buffers = split_trainable(model, randomised(model.network))
    with pytest.raises(
        UserError, match="^running statistics cannot be estimated: there are no images, or only batches"
    ):
        refresh(model, weights, buffers, pictures(count, side=8).batches(1))


class Shared(nn.Module):
    """A norm and a convolution that have two names each and are called in turn, and a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.again = (nn.Conv2d(n, 8, 3) for n in (3, 8, 8))
        self.norm = self.norm_again = nn.BatchNorm2d(8)
        self.again.weight = self.inner.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.norm_again(self.again(self.inner(x))).relu()
        return self.head(self.scale * x.mean((2, 3)))


def test_a_norm_of_two_names_is_estimated_once_from_all_its_calls() -> None:
    model, images = unnormalised(Shared()), pictures(12)
    weights, buffers = split_trainable(model, randomised(model.network))
    expected = copy.deepcopy(model.network)
    expected.load_state_dict({**weights, **buffers}, strict=False)
    update_bn([x.double() for x, _ in images.batches(4)], expected)
    actual = refresh(model, weights, buffers, ((x.double(), y) for x, y in images.batches(4)))
    assert actual.keys() == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "scale"}
    expected_buffers = dict(expected.named_buffers())
    assert_close(
        {n: t for n, t in actual.items() if n != "scale"}, {n: expected_buffers[n] for n in actual if n != "scale"}
    )
    assert torch.equal(actual["scale"], buffers["scale"])


@pytest.mark.parametrize("values, nodes", [([0.0, 0.5, 1.0], [0.0, 1.0]), ([0.0, 1.0], [0.0, 1.0])])
def test_no_node_is_measured_twice(values: list[float], nodes: list[float]) -> None:
    assert batch_norm._evenly_chosen(values, 2) == nodes
    assert batch_norm._evenly_chosen(values, 7) == values
