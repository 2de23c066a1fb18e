"""The loss around one network and between several: random directions, known surfaces, wrong arguments."""

from typing import Any

import pytest
import torch
from tiny import generator, perceptron, pictures, randomised, small
from torch import Tensor, nn

import neuralign as na
from neuralign.evaluation.directions import filter_normalised, spanning_states
from neuralign.networks.model import parameters

SIZE = 12  # weights of the linear layer


def linear(weights: Tensor | None = None) -> nn.Sequential:
    """One linear layer without a bias, and nothing else."""
    network = nn.Sequential(nn.Linear(SIZE, 1, bias=False)).double()
    network.load_state_dict({"0.weight": (torch.zeros(SIZE) if weights is None else weights).view(1, -1).double()})
    return network


def weights(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=generator(seed), dtype=torch.float64)


def bowl(minimum: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Examples on which the squared error of `linear` is the squared distance of its weights from `minimum`."""
    inputs = SIZE**0.5 * torch.eye(SIZE, dtype=torch.float64)
    return [(inputs, inputs @ minimum.view(-1, 1))]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def look(*states: Tensor, minimum: Tensor | None = None, **options: Any) -> na.Landscape:
    """The landscape of the linear layer with these weights."""
    named = [{"0.weight": state.view(1, -1)} for state in states]
    batches = bowl(weights(0) if minimum is None else minimum)
    return na.landscape(linear(), named, batches, **{"loss": squared, "points": 5, **options})


# directions


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_filters_of_a_direction_have_the_norms_of_the_networks(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).to(dtype)
    with torch.no_grad():
        network[0].weight[1] = 0
    state = parameters(network)
    direction = filter_normalised(state, list(state), generator())
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for name in ("0.weight", "3.weight"):
        norms = [tensor.double().flatten(1).norm(dim=1) for tensor in (direction[name], state[name])]
        torch.testing.assert_close(*norms, rtol=tolerance, atol=0)
        assert direction[name].dtype == dtype and direction[name].shape == state[name].shape
    assert not direction["0.weight"][1].any(), "the direction of a filter of zeros"
    assert not any(direction[name].any() for name in ("0.bias", "1.weight", "1.bias", "3.bias"))


def test_directions_differ_from_each_other_and_the_first_states_stay() -> None:
    model = small("tinyten")
    state = randomised(model.network)
    inputs = model.normalise(pictures(2).pixels.double() / 255)
    one, two = (spanning_states(model, [state] * n, inputs, seed=3) for n in (1, 2))
    assert one[0] is state and two[:2] == [state, state] and len(one) == len(two) == 3
    first, second = ({name: (moved[name] - state[name]).flatten() for name in state} for moved in one[1:])
    name = next(n for n, t in state.items() if t.dim() == 4)
    assert abs(torch.cosine_similarity(first[name], second[name], dim=0)) < 0.5
    assert all(torch.equal(moved[n], state[n]) for moved in one for n, t in state.items() if t.dim() < 2)


# surfaces


def test_around_the_minimum_of_a_quadratic_function_the_loss_is_the_squared_distance() -> None:
    found = look(weights(0), points=7)
    assert found.t1.tolist() == found.t2.tolist() == pytest.approx([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])
    for row in found.rows():
        assert row["loss"] == pytest.approx(row["x"] ** 2 + row["y"] ** 2, abs=1e-12)
    assert found.unit[0] == pytest.approx(weights(0).norm().item()), "the layer is one filter"
    assert [(m["name"], m["t1"], m["t2"]) for m in found.models] == [("A", 0, 0)]


def test_between_three_networks_the_loss_is_that_of_their_weighted_means() -> None:
    a, b, c = states = [weights(seed) for seed in (1, 2, 3)]
    found = look(*states, t1=(-0.25, 1.25), t2=(0, 1))
    assert [m["name"] for m in found.models] == ["A", "B", "C"]
    for state, place in zip(states, found.models, strict=True):
        assert place["loss"] == squared(linear(state)(bowl(weights(0))[0][0]), bowl(weights(0))[0][1]).item()
    at_third = found.models[2]["t1"]
    for row in found.rows():
        second = row["t1"] - row["t2"] * at_third
        point = (1 - second - row["t2"]) * a + second * b + row["t2"] * c
        assert row["loss"] == pytest.approx((point - weights(0)).square().sum().item())
    distances = [(s - a).norm().item() for s in states]
    assert [(m["x"] ** 2 + m["y"] ** 2) ** 0.5 for m in found.models] == pytest.approx(distances)


def test_two_networks_span_a_plane_with_a_random_direction_and_their_line_is_on_it() -> None:
    a, b = weights(1), weights(2)
    found = look(a, b, points=21)
    assert found.t1[[0, 5, 15, 20]].tolist() == [-0.5, 0, 1, 1.5] and found.t2[10].item() == 0
    assert found.unit[0] == pytest.approx((b - a).norm().item())
    for t, loss in zip(found.t1.tolist(), found.values["loss"][10].tolist(), strict=True):
        assert loss == pytest.approx((torch.lerp(a, b, t) - weights(0)).square().sum().item())


def test_a_third_network_beside_the_default_window_gets_columns() -> None:
    a, b = weights(1), weights(2)
    c = a + 4 * (b - a) + weights(3)
    assert len(look(a, b, c).t1) > 5 == len(look(a, b, c, t1=(-0.5, 1.5)).t1)


def test_the_same_seed_gives_the_same_bits_and_another_another_plane() -> None:
    a, b = weights(1), weights(2)
    first, again, other = (look(a, b, seed=seed).values["loss"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_statistics_are_estimated_at_every_point_or_stay_as_they_are_stored() -> None:
    model, images = perceptron(), pictures(20, side=8)
    network = model.network.float()
    state = {n: t.float() if t.is_floating_point() else t for n, t in randomised(network).items()}
    mean, std = [0.0] * 3, [1.0] * 3
    options: dict[str, Any] = {"points": 3, "mean": mean, "std": std}
    stored = na.landscape(network, [state], images, statistics="stored", **options)
    estimated = na.landscape(network, [state], images, images=None, **options)
    assert stored.values.keys() == {"loss", "accuracy"}
    (at_state,) = stored.models
    assert at_state["loss"] == pytest.approx(na.evaluate(network, state, images, mean=mean, std=std)["loss"])
    assert stored.values["loss"][1, 1].item() == pytest.approx(at_state["loss"])
    curve = na.connect(network, state, state, images, "segment", epochs=0, batch_size=512, mean=mean, std=std)
    fresh = na.evaluate(network, curve(0.5), images, mean=mean, std=std)["loss"]
    assert estimated.models[0]["loss"] == pytest.approx(fresh, rel=1e-5) != at_state["loss"]
    assert state["2.running_mean"].equal(randomised(network)["2.running_mean"]), "the state is not changed"


def test_with_a_method_the_second_network_is_there_as_it_is_and_as_aligned() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.randn(30, 4, generator=generator(1))
    batches = [(inputs, torch.arange(30) % 2)]
    a, b = randomised(network, 1), randomised(network, 2)
    found = na.landscape(network, [a, b], batches, method="weights", points=3)
    assert [m["name"] for m in found.models] == ["A", "B", "B aligned"]
    assert found.models[1]["loss"] == pytest.approx(found.models[2]["loss"]), "the same function"
    distance = found.models[2]["x"] ** 2 + found.models[2]["y"] ** 2
    assert distance < found.models[1]["x"] ** 2, "aligned it is nearer"
    begun = na.landscape(network, [a, b], batches, method="weights", options={"begin": "barycentre"}, points=3)
    assert [m["name"] for m in begun.models] == ["A", "B", "B aligned"]
    with pytest.raises(na.UserError, match="begun"):
        na.landscape(network, [a, b], batches, method="weights", options={"begun": "barycentre"}, points=3)
    three = na.landscape(network, [a, b, randomised(network, 3)], batches, method="weights", points=3)
    assert [m["name"] for m in three.models] == ["A", "B aligned", "C aligned"]


# wrong arguments

A, B = weights(1), weights(2)


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        ([], {}, "states: found 0; one, two or three are needed"),
        ([A] * 4, {}, "states: found 4; one, two or three are needed"),
        ([A, A], {}, "A, B: no plane: its points 1 and 2 are the same model"),
        ([A, B, (A + B) / 2], {}, "A, B, C: no plane: its three models lie on a line"),
        ([A], {"points": 1}, "landscape.points: found 1: input should be greater than or equal to 2"),
        ([A], {"t1": (1, 0)}, "landscape.t1: found (1, 0): the smaller number comes first"),
        ([A, B], {"t2": (0, 1e-12)}, "t1 [-0.5, 1.5], t2 [0.0, 1e-12]: too narrow; neighbours of the grid are nearer"),
        ([A], {"statistics": "none"}, "landscape.statistics: found 'none'"),
        ([A], {"method": "weights"}, "method: found 'weights', but there is no second state to align"),
        ([A, B], {"method": "weight"}, "method: found 'weight'; did you mean 'weights'?"),
        ([0 * A], {}, "no random direction: no trained parameter of the network has two axes or more and weights that"),
    ],
)
def test_wrong_arguments_are_refused(states: list[Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(na.UserError) as error:
        look(*states, **options)
    assert message in str(error.value)


def test_a_state_of_another_network_is_refused() -> None:
    other = nn.Linear(3, 1).state_dict()
    with pytest.raises(na.UserError, match="state B: tensors are missing for this network: 0.weight"):
        na.landscape(linear(A), [linear(A).state_dict(), other], bowl(A), loss=squared)
