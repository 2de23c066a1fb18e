"""Evaluation along a curve."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tiny import assert_same, generator, perceptron, pictures, plain, randomised, shifts, unnormalised
from torch import nn
from torch.nn import functional as F

from neuralign.curves.curve import straight_line
from neuralign.curves.endpoints import endpoints_of
from neuralign.curves.families.bezier import bezier
from neuralign.curves.families.segment import segment
from neuralign.datasets.images import Images, as_float
from neuralign.evaluation.along_curve import measure, measure_curve
from neuralign.networks.model import Model, State
from neuralign.networks.states import split_trainable
from neuralign.symmetry import permutations
from neuralign.symmetry.tracing.trace import trace
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.batch_norm import Estimate, refresh

PGD = partial(pgd, eps=0.05, step=0.02, steps=2)
ESTIMATE = Estimate.on(pictures(16, seed=1), plain, batch_size=8, seed=1)


# metrics


@pytest.mark.parametrize("batch_size", [1, 5, 12, 64])
def test_metrics_are_means_over_all_images_in_evaluation_mode(batch_size: int, images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    state = randomised(model.network)
    model.network.train()
    actual = measure(model, state, images, batch_size=batch_size, attack=None, generator=generator())
    model.network.eval()
    logits = model(state, as_float(images.pixels))
    assert list(actual) == ["loss", "accuracy"]
    assert actual["loss"] == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-12)
    right = sum(int(row.argmax()) == label for row, label in zip(logits, images.labels.tolist(), strict=True))
    assert actual["accuracy"] == pytest.approx(100 * right / 12)


def test_measuring_changes_no_buffer_and_leaves_no_gradient(tinyten: Model, images: Images) -> None:
    state = randomised(tinyten.network)
    before = {name: tensor.clone() for name, tensor in state.items()}
    measure(tinyten, state, images, batch_size=5, attack=PGD, generator=generator())
    assert_same(state, before)
    assert all(parameter.grad is None for parameter in tinyten.network.parameters())


def test_attacked_metrics_are_those_of_the_attacked_batches(tinyten: Model, images: Images) -> None:
    state, noise = randomised(tinyten.network), generator(7)
    actual = measure(tinyten, state, images, batch_size=5, attack=PGD, generator=generator(7))
    tinyten.network.eval()
    predict = partial(tinyten, state)
    attacked = torch.cat([PGD(predict, pixels, labels, noise) for pixels, labels in images.batches(5)])
    assert actual["loss"] == pytest.approx(F.cross_entropy(predict(attacked), images.labels).item(), rel=1e-9)
    clean = measure(tinyten, state, images, batch_size=5, attack=None, generator=generator())
    assert actual["loss"] > clean["loss"]


def test_robust_accuracy_counts_the_images_that_are_right_in_every_attempt(tinyten: Model, images: Images) -> None:
    """Under restarts, accuracy counts images that no attempt fools, and the loss is that of the kept attempts."""
    state, starts = randomised(tinyten.network), generator(7)
    attack = partial(pgd, eps=0.1, step=0.03, steps=2)
    actual = measure(tinyten, state, images, batch_size=12, attack=partial(attack, restarts=4), generator=generator(7))
    tinyten.network.eval()
    pixels, labels = as_float(images.pixels), images.labels
    tried = [
        tinyten(state, attack(partial(tinyten, state), pixels, labels, starts, restarts=1)).detach() for _ in range(4)
    ]
    right = torch.stack([answers.argmax(1) == labels for answers in tried])
    loss = torch.stack([F.cross_entropy(answers, labels, reduction="none") for answers in tried])
    kept = torch.where(right.all(0), loss.amax(0), loss.where(~right, -torch.inf).amax(0))
    assert actual["accuracy"] == pytest.approx(100 * right.all(0).double().mean().item())
    assert actual["loss"] == pytest.approx(kept.mean().item(), rel=1e-9)


# along a curve


def evaluate_line(
    model: Model,
    states: tuple[State, State],
    *,
    basis: Callable = segment,
    ts: tuple[float, ...] = (0.0, 0.5, 1.0),
    attacks: dict | None = None,
    estimate: Estimate | None = None,
) -> list[dict]:
    images = pictures(12)
    ends = endpoints_of(model, states, as_float(images.pixels))
    curve = straight_line(basis, *ends.vectors)
    estimate = estimate or ESTIMATE
    attacks = {"clean": None} if attacks is None else attacks
    return list(measure_curve(model, curve, ends, list(ts), estimate, images, attacks, batch_size=5, seed=1))


def two_states(model: Model) -> tuple[State, State]:
    return randomised(model.network, 1), randomised(model.network, 2)


def test_rows_have_the_columns_of_the_table_and_one_per_point_and_attack(tinyten: Model) -> None:
    rows = evaluate_line(tinyten, two_states(tinyten), attacks={"clean": None, "pgd": PGD})
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


def test_the_log_says_which_attack_and_statistics_a_value_is_of(
    tinyten: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="neuralign.evaluation"):
        assert evaluate_line(tinyten, two_states(tinyten), attacks={}) == [] and not caplog.records
        rows = evaluate_line(tinyten, two_states(tinyten), ts=(0.0,), attacks={"clean": None, "pgd": PGD})
    assert [record.getMessage() for record in caplog.records] == [
        f"t 0.0000  {row['attack']}, {row['statistics']} statistics  "
        f"loss {row['loss']:.3f}  accuracy {row['accuracy']:.3f}"
        for row in rows
    ]


def test_stored_rows_are_those_of_the_checkpoints_themselves(tinyten: Model) -> None:
    states = two_states(tinyten)
    stored = [row for row in evaluate_line(tinyten, states) if row["statistics"] == "stored"]
    for row, state in zip(stored, states, strict=True):
        expected = measure(tinyten, state, pictures(12), batch_size=5, attack=None, generator=generator())
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert stored[0]["loss"] != stored[1]["loss"]


def test_other_rows_are_those_of_the_point_with_re_estimated_statistics(tinyten: Model) -> None:
    states = two_states(tinyten)
    rows = {r["t"]: r for r in evaluate_line(tinyten, states) if r["statistics"] == "reestimated"}
    for t, row in rows.items():
        point = {n: torch.lerp(states[0][n], states[1][n], t) for n, _ in tinyten.network.named_parameters()}
        state = point | refresh(tinyten, point, split_trainable(tinyten, dict(states[0]))[1], ESTIMATE.sample())
        expected = measure(tinyten, state, pictures(12), batch_size=5, attack=None, generator=generator())
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_an_aligned_end_is_the_function_of_the_unaligned_one(model: Model) -> None:
    start, end = two_states(model)
    spec = trace(model.network, model.normalise(as_float(pictures().pixels[:2]))).spec
    aligned = permutations.permute(spec, shifts(spec), end)
    attacks = {"clean": None, "pgd": PGD}
    before, after = (evaluate_line(model, (start, e), ts=(0.0, 1.0), attacks=attacks) for e in (end, aligned))
    for one, other in zip(before, after, strict=True):
        assert other["accuracy"] == one["accuracy"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert before[-1]["distance"] != after[-1]["distance"]


def test_every_point_sees_the_same_batches_and_the_same_noise(images: Images) -> None:
    model = perceptron(16, dropout=0.5)
    state = randomised(model.network)
    estimate = Estimate.on(pictures(16, seed=1), pipeline([{"use": "crop"}]), batch_size=8, seed=1)
    rows = evaluate_line(
        model, (state, state), ts=(0.0, 0.25, 0.5, 1.0), attacks={"clean": None, "pgd": PGD}, estimate=estimate
    )
    for attack in ("clean", "pgd"):
        losses = [r["loss"] for r in rows if r["attack"] == attack and r["statistics"] == "reestimated"]
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-9)


def test_distances_are_lengths_along_the_curve(tinyten: Model) -> None:
    states = two_states(tinyten)
    rows = [row for row in evaluate_line(tinyten, states) if row["statistics"] == "reestimated"]
    squares = sum((states[0][n] - states[1][n]).square().sum().item() for n, _ in tinyten.network.named_parameters())
    assert [row["distance"] for row in rows] == pytest.approx([0, squares**0.5 / 2, squares**0.5])


def test_a_curve_without_its_ends_has_no_stored_rows(tinyten: Model) -> None:
    rows = evaluate_line(tinyten, two_states(tinyten), basis=bezier, ts=(0.25, 0.5))
    assert [row["statistics"] for row in rows] == ["reestimated", "reestimated"]
    assert rows[0]["distance"] == 0


def test_a_network_without_batch_norm_is_measured_as_it_is() -> None:
    torch.manual_seed(0)
    model = unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))
    rows = evaluate_line(model, two_states(model))
    assert [row["statistics"] for row in rows] == ["reestimated", "stored", "reestimated", "reestimated", "stored"]
    assert rows[0]["loss"] == rows[1]["loss"] and rows[3]["loss"] == rows[4]["loss"]


def test_a_bend_moves_the_middle_and_not_the_ends(tinyten: Model) -> None:
    images = pictures(12)
    ends = endpoints_of(tinyten, two_states(tinyten), as_float(images.pixels))
    line = straight_line(bezier, *ends.vectors)
    bent = line.with_bends(line.bends + 0.1)
    arguments = (ends, [0.0, 0.5, 1.0], ESTIMATE, images, {"clean": None})
    first, second = (
        [row["loss"] for row in measure_curve(tinyten, curve, *arguments, batch_size=5, seed=1)]
        for curve in (line, bent)
    )
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]
