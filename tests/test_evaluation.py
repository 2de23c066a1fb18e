"""Evaluation along a curve, with batch-norm statistics estimated anew at every point."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from tiny import (
    assert_close,
    assert_same,
    generator,
    perceptron,
    pictures,
    plain,
    randomised,
    shifts,
    small,
    unnormalised,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from neuralign import symmetry
from neuralign.attacks.pgd import pgd
from neuralign.augmentations import pipeline
from neuralign.curves import Curve, straight
from neuralign.curves.bezier import bezier
from neuralign.curves.segment import segment
from neuralign.evaluation import along, estimation_batches, measure, refresh
from neuralign.images import Images, as_float
from neuralign.networks import Model, State
from neuralign.parameters import Layout
from neuralign.setting import split
from neuralign.tracing import trace

# GoogLeNet's auxiliary heads are not there in evaluation mode
EVALUATED = [("tinyten", {}), ("resnet", {}), ("googlenet", {"auxiliary": False})]
PGD = partial(pgd, eps=0.05, step=0.02, steps=2)


def refreshed(model: Model, state: State, batches: Iterable) -> dict[str, Tensor]:
    return refresh(model, *split(model, dict(state)), batches)


# batch-norm statistics


@pytest.mark.parametrize("use, options", EVALUATED)
def test_statistics_equal_those_of_pytorch_on_equal_batches(use: str, options: dict, images: Images) -> None:
    model = small(use, **options)
    state = randomised(model.network)
    model.network.load_state_dict(state)
    found = refreshed(model, state, images.batches(4))
    update_bn([model.normalise(pixels) for pixels, _ in images.batches(4)], model.network)
    expected = dict(model.network.named_buffers())
    assert found.keys() == expected.keys()
    running = {name for name in found if "running" in name}
    assert_close({n: found[n] for n in running}, {n: expected[n] for n in running}, 1e-10)
    assert not any(torch.allclose(found[name], state[name]) for name in running)


def test_unequal_batches_count_by_their_images() -> None:
    torch.manual_seed(0)
    model, images = unnormalised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), pictures(11)
    state = randomised(model.network)
    found = refreshed(model, state, images.batches(4))
    features = [F.conv2d(x.double(), state["0.weight"], state["0.bias"]) for x, _ in images.batches(4)]
    mean = sum(len(f) * f.mean((0, 2, 3)) for f in features) / 11
    variance = sum(len(f) * f.var((0, 2, 3)) for f in features) / 11  # unbiased
    assert [len(f) for f in features] == [4, 4, 3]
    torch.testing.assert_close(found["1.running_mean"], mean)
    torch.testing.assert_close(found["1.running_var"], variance)


def test_what_the_statistics_were_before_does_not_matter(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    other = {name: t + 3 if "running" in name else t for name, t in state.items()}
    assert_close(refreshed(tinyten, other, images.batches(5)), refreshed(tinyten, state, images.batches(5)), 1e-10)


def test_the_given_buffers_are_not_changed(tinyten: Model, images: Images) -> None:
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

    try:
        refreshed(tinyten, randomised(tinyten.network), batches())
    except RuntimeError:
        assert fails
    assert {layer.training for layer in tinyten.network.modules()} == {training}
    norms = tinyten.network.features
    assert (norms.bn1.momentum, norms.bn2.momentum, norms.bn3.momentum) == (0.1, 0.25, None)


def test_nothing_is_dropped_while_statistics_are_estimated(images: Images) -> None:
    def model(dropout: float) -> Model:
        torch.manual_seed(0)
        return unnormalised(nn.Sequential(nn.Dropout(dropout), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))

    states = [randomised(model(p).network) for p in (0.5, 0.0)]
    found = [refreshed(model(p), state, images.batches(5)) for p, state in zip((0.5, 0.0), states, strict=True)]
    assert_same(*found)


def test_a_network_without_batch_norm_needs_no_statistics(images: Images) -> None:
    model = unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))

    def batches() -> Iterable:
        raise AssertionError("no batch is needed")
        yield

    assert refreshed(model, randomised(model.network), batches()) == {}


def test_estimation_batches_are_the_same_at_every_call_and_cover_the_images_once() -> None:
    images = Images(pictures(10).pixels, torch.arange(10))
    batches = estimation_batches(images, pipeline([{"use": "crop"}, {"use": "flip"}]), 4, seed=1)
    first, second = list(batches()), list(batches())
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    labels = torch.cat([labels for _, labels in first]).tolist()
    assert sorted(labels) == list(range(10)) != labels
    other = next(iter(estimation_batches(images, pipeline([{"use": "crop"}]), 4, seed=2)()))
    assert not torch.equal(first[0][1], other[1])


# metrics


@pytest.mark.parametrize("batch_size", [1, 5, 12, 64])
def test_metrics_are_means_over_all_images_in_evaluation_mode(batch_size: int, images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    state = randomised(model.network)
    model.network.train()
    found = measure(model, state, images, batch_size=batch_size, attack=None, noise=generator())
    model.network.eval()
    logits = model(state, as_float(images.pixels))
    assert list(found) == ["loss", "accuracy"]
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-12)
    right = sum(int(row.argmax()) == label for row, label in zip(logits, images.labels.tolist(), strict=True))
    assert found["accuracy"] == pytest.approx(100 * right / 12)


def test_measuring_changes_no_buffer_and_leaves_no_gradient(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    before = {name: tensor.clone() for name, tensor in state.items()}
    measure(tinyten, state, images, batch_size=5, attack=PGD, noise=generator())
    assert_same(state, before)
    assert all(parameter.grad is None for parameter in tinyten.network.parameters())


def test_an_attack_is_measured_on_what_it_makes_of_each_batch(tinyten: Model, images: Images) -> None:
    state, noise = randomised(tinyten.network), generator(7)
    found = measure(tinyten, state, images, batch_size=5, attack=PGD, noise=generator(7))
    tinyten.network.eval()
    predict = partial(tinyten, state)
    attacked = torch.cat([PGD(predict, pixels, labels, noise) for pixels, labels in images.batches(5)])
    assert found["loss"] == pytest.approx(F.cross_entropy(predict(attacked), images.labels).item(), rel=1e-9)
    clean = measure(tinyten, state, images, batch_size=5, attack=None, noise=generator())
    assert found["loss"] > clean["loss"]


# along a curve


def walk(
    model: Model,
    states: tuple[State, State],
    *,
    basis: Callable = segment,
    ts: tuple[float, ...] = (0.0, 0.5, 1.0),
    attacks: dict | None = None,
    estimate: Callable | None = None,
) -> list[dict]:
    images = pictures(12)
    (start, one), (end, two) = (split(model, dict(state)) for state in states)
    layout = Layout.of(start)
    curve = straight(basis, layout.flatten(start), layout.flatten(end))
    estimate = estimate or estimation_batches(pictures(16, seed=1), plain, 8, seed=1)
    attacks = {"clean": None} if attacks is None else attacks
    return list(along(model, curve, layout, (one, two), list(ts), estimate, images, attacks, batch_size=5, seed=1))


def two_states(model: Model) -> tuple[State, State]:
    return randomised(model.network, 1), randomised(model.network, 2)


def test_rows_have_the_columns_of_the_table_and_one_per_point_and_attack(tinyten: Model) -> None:
    rows = walk(tinyten, two_states(tinyten), attacks={"clean": None, "pgd": PGD})
    assert {tuple(row) for row in rows} == {("t", "distance", "attack", "statistics", "loss", "accuracy", "images")}
    assert [(row["t"], row["statistics"], row["attack"]) for row in rows] == [
        (t, statistics, attack)
        for t, statistics in [
            (0, "reestimated"),
            (0, "stored"),
            (0.5, "reestimated"),
            (1, "reestimated"),
            (1, "stored"),
        ]
        for attack in ("clean", "pgd")
    ]
    assert {row["images"] for row in rows} == {12}


def test_stored_rows_are_those_of_the_checkpoints_themselves(tinyten: Model) -> None:
    states = two_states(tinyten)
    stored = [row for row in walk(tinyten, states) if row["statistics"] == "stored"]
    for row, state in zip(stored, states, strict=True):
        own = measure(tinyten, state, pictures(12), batch_size=5, attack=None, noise=generator())
        assert {name: row[name] for name in own} == pytest.approx(own, rel=1e-12)
    assert stored[0]["loss"] != stored[1]["loss"]


def test_other_rows_are_those_of_the_point_with_statistics_of_its_own(tinyten: Model) -> None:
    states, estimate = two_states(tinyten), estimation_batches(pictures(16, seed=1), plain, 8, seed=1)
    rows = {r["t"]: r for r in walk(tinyten, states, estimate=estimate) if r["statistics"] == "reestimated"}
    for t, row in rows.items():
        point = {n: torch.lerp(states[0][n], states[1][n], t) for n, _ in tinyten.network.named_parameters()}
        state = point | refresh(tinyten, point, split(tinyten, dict(states[0]))[1], estimate())
        own = measure(tinyten, state, pictures(12), batch_size=5, attack=None, noise=generator())
        assert {name: row[name] for name in own} == pytest.approx(own, rel=1e-9)


def test_an_aligned_end_is_the_function_of_the_unaligned_one(model: Model) -> None:
    start, end = two_states(model)
    spec = trace(model.network, model.normalise(as_float(pictures().pixels[:2]))).spec
    aligned = symmetry.permute(spec, shifts(spec), end)
    attacks = {"clean": None, "pgd": PGD}
    before, after = (walk(model, (start, e), ts=(0.0, 1.0), attacks=attacks) for e in (end, aligned))
    for one, other in zip(before, after, strict=True):
        assert other["accuracy"] == one["accuracy"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert before[-1]["distance"] != after[-1]["distance"]


def test_every_point_sees_the_same_batches_and_the_same_noise(images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    state = randomised(model.network)
    estimate = estimation_batches(pictures(16, seed=1), pipeline([{"use": "crop"}]), 8, seed=1)
    rows = walk(model, (state, state), ts=(0.0, 0.25, 0.5, 1.0), attacks={"clean": None, "pgd": PGD}, estimate=estimate)
    for attack in ("clean", "pgd"):
        losses = [r["loss"] for r in rows if r["attack"] == attack and r["statistics"] == "reestimated"]
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)


def test_distances_are_the_length_of_the_way_so_far(tinyten: Model) -> None:
    states = two_states(tinyten)
    rows = [row for row in walk(tinyten, states) if row["statistics"] == "reestimated"]
    squares = sum((states[0][n] - states[1][n]).square().sum().item() for n, _ in tinyten.network.named_parameters())
    assert [row["distance"] for row in rows] == pytest.approx([0, squares**0.5 / 2, squares**0.5])


def test_a_curve_without_its_ends_has_no_stored_rows(tinyten: Model) -> None:
    rows = walk(tinyten, two_states(tinyten), basis=bezier, ts=(0.25, 0.5))
    assert [row["statistics"] for row in rows] == ["reestimated", "reestimated"]
    assert rows[0]["distance"] == 0


def test_a_network_without_batch_norm_is_measured_as_it_is() -> None:
    torch.manual_seed(0)
    model = unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))
    rows = walk(model, two_states(model))
    assert [row["statistics"] for row in rows] == ["reestimated", "stored", "reestimated", "reestimated", "stored"]
    assert rows[0]["loss"] == rows[1]["loss"] and rows[3]["loss"] == rows[4]["loss"]


def test_a_bend_moves_the_middle_and_not_the_ends(tinyten: Model) -> None:
    (start, one), (end, two) = (split(tinyten, dict(state)) for state in two_states(tinyten))
    layout = Layout.of(start)
    line = straight(bezier, layout.flatten(start), layout.flatten(end))
    bent = Curve(bezier, line.ends, line.bends + 0.1)
    estimate, images = estimation_batches(pictures(16, seed=1), plain, 8, seed=1), pictures(12)
    first, second = (
        [
            row["loss"]
            for row in along(
                *(tinyten, curve, layout, (one, two), [0.0, 0.5, 1.0], estimate, images, {"clean": None}),
                batch_size=5,
                seed=1,
            )
        ]
        for curve in (line, bent)
    )
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]


def test_attacked_statistics_are_updated_in_every_pass_of_the_attack(tinyten: Model, images: Images) -> None:
    """As the paper's code does it: each pass of the attack counts like a batch, with the batch's own momentum."""
    state = randomised(tinyten.network, 1)
    buffers = {name: state[name] for name, _ in tinyten.network.named_buffers()}

    def attack(predict: Callable, pixels: Tensor, labels: Tensor, noise: torch.Generator) -> Tensor:
        return pixels + 0 * predict(pixels).sum() + 0 * predict(pixels).sum()

    batches = list(images.batches(4))
    found = refresh(tinyten, state, buffers, batches, attack)
    clean = refresh(tinyten, state, buffers, batches)
    key = "features.bn1.num_batches_tracked"
    assert found[key] - buffers[key] == 3 * len(batches) and clean[key] - buffers[key] == len(batches)
    assert not any(
        torch.equal(found[f"features.bn{i}.running_mean"], clean[f"features.bn{i}.running_mean"]) for i in (1, 8)
    )
