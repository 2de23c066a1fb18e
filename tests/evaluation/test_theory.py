"""The bound on the loss of the straight path: closed forms of small networks, and its validity on random ones."""

from math import sqrt

import pytest
import torch
from tiny import generator, pictures, randomised, shifts, small, unnormalised
from torch import Tensor, fx, nn
from torch.nn import functional as F

from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.problem import Problem
from neuralign.datasets.images import Images, as_float
from neuralign.evaluation.bound import (
    Recursion,
    Signal,
    Unbounded,
    after_average,
    after_maximum,
    bound_along_line,
    fold,
    operator_norm,
    without_bound,
)
from neuralign.networks.model import Model, criterion, parameters
from neuralign.symmetry.permutations import identity, inverse, permute
from neuralign.symmetry.tracing.trace import Trace, trace


def traced(model: Model, images: Images) -> Trace:
    return trace(model.network, model.normalise(as_float(images.pixels[:2])))


def flat(images: Images) -> Tensor:
    return as_float(images.pixels).double().flatten(1)


@pytest.fixture
def linear() -> Model:
    """Two linear layers without a nonlinearity."""
    return unnormalised(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 6), nn.Linear(6, 5)))


# folding


def test_a_folded_network_is_the_same_function(convolutional: Model, images: Images) -> None:
    state, plain = randomised(convolutional.network, 1), fold(traced(convolutional, images))
    x = convolutional.normalise(as_float(images.pixels).double())
    convolutional.network.eval()
    actual = torch.func.functional_call(plain.graph, plain.state(state), (x,))
    torch.testing.assert_close(actual, torch.func.functional_call(convolutional.network, state, (x,)))
    assert not [m for m in plain.graph.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_batch_norm_without_a_layer_of_its_own_stays_and_is_bounded(images: Images) -> None:
    layers = [
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(),
        nn.Flatten(),
    ]
    model = unnormalised(nn.Sequential(*layers, nn.Linear(4 * 14 * 14, 5)))
    check_bound(model, images)
    plain, state = fold(traced(model, images)), randomised(model.network, 3)
    x = as_float(images.pixels).double()
    model.network.eval()
    actual = torch.func.functional_call(plain.graph, plain.state(state), (x,))
    torch.testing.assert_close(actual, torch.func.functional_call(model.network, state, (x,)))


# norms


@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("kernel", "channels"), [(3, (2, 3)), (1, (3, 2)), (2, (2, 2))])
def test_the_norm_of_a_convolution_is_an_upper_bound_and_close(stride, padding, kernel, channels) -> None:
    conv = nn.Conv2d(*channels, kernel, stride, padding, bias=False).double()
    conv.weight.data = torch.randn(conv.weight.shape, generator=generator(kernel), dtype=torch.float64)
    basis = torch.eye(channels[0] * 49, dtype=torch.float64).view(-1, channels[0], 7, 7)
    exact = torch.linalg.matrix_norm(conv(basis).flatten(1), 2).item()
    actual = operator_norm(conv, conv.weight, torch.Size((1, channels[0], 7, 7)))
    assert exact * (1 - 1e-12) <= actual <= 1.25 * exact


def test_the_norm_of_a_linear_layer_is_exact() -> None:
    layer = nn.Linear(4, 3).double()
    actual = operator_norm(layer, torch.diag(torch.tensor([1.0, -5.0, 2.0])), torch.Size((1, 3)))
    assert actual == pytest.approx(5, abs=1e-12)


@pytest.mark.parametrize(
    "layer", [nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(4)], ids=str
)
def test_the_norm_of_an_average_is_an_upper_bound(layer: nn.Module) -> None:
    basis = torch.eye(49, dtype=torch.float64).view(-1, 1, 7, 7)
    exact = torch.linalg.matrix_norm(layer(basis).flatten(1), 2).item()
    actual = after_average(layer, Signal.of_images(torch.zeros(2, 3, 7, 7))).norm
    assert exact * (1 - 1e-6) <= actual <= 1.5 * exact


# closed forms


def test_equal_ends_leave_no_deviation(convolutional: Model, images: Images) -> None:
    state = randomised(convolutional.network, 1)
    total, layers = bound_along_line(convolutional, traced(convolutional, images), state, state, images, points=3)
    assert total["deviation"] == total["deviation_estimate"] == total["distance"] == 0
    assert total["bound"] == pytest.approx(total["loss"], abs=1e-9)
    assert all(row["distance"] == 0 for row in layers)


def test_two_linear_layers_have_a_closed_form(linear: Model, images: Images) -> None:
    start, end = randomised(linear.network, 1), randomised(linear.network, 2)
    total, layers = bound_along_line(linear, traced(linear, images), start, end, images)
    x, (a, b) = flat(images), [(s["1.weight"], s["1.bias"], s["2.weight"], s["2.bias"]) for s in (start, end)]
    apart = x @ (a[0] - b[0]).T + a[1] - b[1]  # (n, 6)
    deviation = (apart @ (a[2] - b[2]).T).norm(dim=1)
    assert total["deviation"] == pytest.approx(deviation.mean().item(), rel=1e-9)
    assert total["deviation_estimate"] == pytest.approx(total["deviation"], rel=1e-12)  # no norm comes in
    ends = [F.cross_entropy((x @ w.T + v) @ u.T + c, images.labels).item() for w, v, u, c in (a, b)]
    assert total["bound"] == pytest.approx(sum(ends) / 2 + sqrt(2) / 6 * deviation.mean().item(), rel=1e-9)
    first = next(row for row in layers if row["layer"] == "_1")
    assert first["distance"] == pytest.approx(apart.square().sum(1).mean().item(), rel=1e-9)
    assert first["deviation"] == 0  # the images are the same at both ends


def test_the_deviation_of_two_linear_layers_is_what_the_path_has(linear: Model, images: Images) -> None:
    """Here the bound is attained: h - (1-t) a - t b equals -t (1-t) (A - B)(a - b)."""
    states, x = [randomised(linear.network, seed) for seed in (1, 2)], as_float(images.pixels).double()

    def run(state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(linear.network, state, (x,))

    t = 0.3
    middle = run({n: torch.lerp(states[0][n], states[1][n], t) for n in states[0]})
    apart = middle - torch.lerp(run(states[0]), run(states[1]), t)
    total, _ = bound_along_line(linear, traced(linear, images), *states, images)
    assert apart.norm(dim=1).mean().item() == pytest.approx(t * (1 - t) * total["deviation"], rel=1e-9)


def test_a_relu_adds_the_difference_of_units_whose_sign_differs(images: Images) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.ReLU(), nn.Linear(4, 5))
    model = unnormalised(network)
    start, end = randomised(network, 1), randomised(network, 2)
    _, layers = bound_along_line(model, traced(model, images), start, end, images)
    u, v = (flat(images) @ s["1.weight"].T + s["1.bias"] for s in (start, end))
    expected = torch.where(u.sign() != v.sign(), (u - v).abs(), 0.0).norm(dim=1).mean().item()
    row = next(row for row in layers if row["operation"] == "relu")
    assert row["deviation"] == pytest.approx(expected, rel=1e-9) and expected > 0


def test_maxima_at_the_same_places_add_nothing() -> None:
    layer, x = nn.MaxPool2d(2), torch.rand(2, 3, 4, 4, generator=generator())
    assert after_maximum(layer, Signal(x, 2 * x, torch.zeros(2, 2))).deviation.count_nonzero() == 0
    assert after_maximum(layer, Signal(x, 1 - x, torch.zeros(2, 2))).deviation.count_nonzero() == 4


# permutations


def test_the_deviation_to_a_permuted_copy_is_zero_once_it_is_aligned(convolutional: Model, images: Images) -> None:
    symmetry, state = traced(convolutional, images), randomised(convolutional.network, 1)
    end = permute(symmetry.spec, shifts(symmetry.spec), state)
    apart, _ = bound_along_line(convolutional, symmetry, state, end, images, points=3)
    together, _ = bound_along_line(
        convolutional, symmetry, state, permute(symmetry.spec, inverse(shifts(symmetry.spec)), end), images, points=3
    )
    assert apart["deviation"] > 0 and apart["distance"] > 0.01 and apart["bound"] > apart["loss"]
    assert together["deviation"] == together["deviation_estimate"] == together["distance"] == 0


def test_a_permutation_changes_no_norm(tinyten: Model, images: Images) -> None:
    symmetry, (start, end) = traced(tinyten, images), [randomised(tinyten.network, seed) for seed in (1, 2)]
    _, one = bound_along_line(tinyten, symmetry, start, end, images, points=3)
    _, other = bound_along_line(
        tinyten, symmetry, start, permute(symmetry.spec, shifts(symmetry.spec), end), images, points=3
    )
    norms = [[row["norm"] for row in rows if row["operation"] == "conv2d"] for rows in (one, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-9) and len(norms[0]) == 8


# validity of the bound


def loss_at(model: Model, actual: Trace, start: dict, end: dict, images: Images, t: float) -> float:
    plain = fold(actual)
    ends = plain.state(start), plain.state(end)
    state = {name: torch.lerp(ends[0][name], ends[1][name], t) for name in ends[0]}
    x = model.normalise(as_float(images.pixels).double())
    return F.cross_entropy(torch.func.functional_call(plain.graph, state, (x,)), images.labels).item()


def check_bound(model: Model, images: Images) -> None:
    """Check that the bound holds at every t and on average over t, for random states of the network."""
    symmetry = traced(model, images)
    for seed in (1, 3):
        start, end = randomised(model.network, seed), randomised(model.network, seed + 1)
        total, _ = bound_along_line(model, symmetry, start, end, images, batch_size=5)
        assert total["bound"] >= total["loss"] > 0
        for t in (0.0, 0.1, 0.5, 0.8, 1.0):
            limit = (1 - t) * total["loss_start"] + t * total["loss_end"] + sqrt(2) * t * (1 - t) * total["deviation"]
            assert loss_at(model, symmetry, start, end, images, t) <= limit + 1e-9


def test_the_bound_holds_for_every_network(convolutional: Model, images: Images) -> None:
    check_bound(convolutional, images)


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.Tanh(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.Dropout(0.5)], ids=str
)
def test_the_bound_holds_with_other_layers(layer: nn.Module, images: Images) -> None:
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)]
    check_bound(unnormalised(nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 4, 3, 2), nn.ReLU(), *head)), images)


def test_deviations_bound_every_layer(convolutional: Model, images: Images) -> None:
    """Image by image: |h - (1-t) a - t b| <= t (1-t) c at each node of the graph."""
    plain = fold(traced(convolutional, images))
    ends = [plain.state(randomised(convolutional.network, seed)) for seed in (5, 6)]
    x = convolutional.normalise(as_float(images.pixels).double())
    signals: dict[str, Signal] = {}

    class Keeping(Recursion):
        def run_node(self, n: fx.Node):
            signals[n.name] = super().run_node(n)
            return signals[n.name]

    class Reading(fx.Interpreter):
        def run_node(self, n: fx.Node):
            values[n.name] = super().run_node(n)
            return values[n.name]

    Keeping(plain.graph, (ends[0], ends[1])).run(Signal.of_images(x))
    for t in (0.25, 0.5):
        values: dict[str, Tensor] = {}
        plain.graph.load_state_dict({n: torch.lerp(ends[0][n], ends[1][n], t) for n in ends[0]}, strict=False)
        with torch.no_grad():
            Reading(plain.graph.double()).run(x)
        for name, signal in signals.items():
            apart = (values[name] - torch.lerp(signal.start, signal.end, t)).flatten(1).norm(dim=1)
            assert (apart <= t * (1 - t) * signal.deviation[0] * (1 + 1e-9) + 1e-9).all(), name


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.AdaptiveMaxPool2d(1), "AdaptiveMaxPool2d"), (nn.Conv2d(3, 3, 3, dilation=2), "Conv2d")]
)
def test_layers_without_a_known_bound_are_named(layer: nn.Module, name: str, images: Images) -> None:
    model = unnormalised(nn.Sequential(layer, nn.Flatten(), nn.Linear(3 if "Max" in name else 3 * 144, 5)))
    state = randomised(model.network)
    with pytest.raises(Unbounded, match=rf"^no bound for layer.*{name}\(.*\)$"):
        bound_along_line(model, traced(model, images), state, state, images)


def test_a_batch_norm_over_as_many_tokens_as_features_has_no_bound(images: Images) -> None:
    """It looks like a norm of the features of the layer before it, and is none."""
    model = unnormalised(
        nn.Sequential(nn.Flatten(2), nn.Linear(256, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 5))
    )
    state = randomised(model.network)
    with pytest.raises(Unbounded, match="^no bound for a network whose batch norms cannot be folded into the layers"):
        bound_along_line(model, traced(model, images), state, state, images)


class CallsByName(nn.Module):
    """Passes the input of a layer by keyword, and concatenates activations, optionally with a constant."""

    def __init__(self, constant: bool):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(8 * 14 * 14, 5)
        self.register_buffer("constant", torch.ones(12, 4, 14, 14) if constant else None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(input=x)
        return self.head(torch.cat([x, x.relu() if self.constant is None else self.constant], 1).flatten(1))


def test_a_layer_that_is_called_by_keyword_is_bounded(images: Images) -> None:
    test_the_bound_holds_for_every_network(unnormalised(CallsByName(constant=False)), images)


def test_a_concatenation_with_a_constant_has_no_bound_and_one_line_says_so(images: Images) -> None:
    model = unnormalised(CallsByName(constant=True))
    state = randomised(model.network)
    symmetry = trace(model.network, model.normalise(as_float(images.pixels)))
    with pytest.raises(Unbounded, match="^no bound for a concatenation with a constant$"):
        bound_along_line(model, symmetry, state, state, images)


def test_tables_without_a_bound_have_the_same_columns(linear: Model, images: Images) -> None:
    states = [randomised(linear.network, seed) for seed in (1, 2)]
    total, layers = bound_along_line(linear, traced(linear, images), *states, images)
    other, rows = without_bound("no bound for layer 'x'")
    assert total.keys() == other.keys() and layers[0].keys() == rows[0].keys()
    assert total["reason"] == "" and other["reason"] == "no bound for layer 'x'"


# trained networks


def trained(model: Model, images: Images, seed: int, steps: int = 60) -> dict[str, Tensor]:
    state = randomised(model.network, seed)
    weights = {n: state[n].requires_grad_() for n in parameters(model.network)}
    model.network.train()
    x = model.normalise(as_float(images.pixels).double())
    for _ in range(steps):
        loss = criterion(torch.func.functional_call(model.network, state, (x,)), images.labels)
        for weight, gradient in zip(weights.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            weight.data.sub_(gradient, alpha=0.02)
    return {n: t.detach() for n, t in state.items()}


def test_alignment_lowers_the_bound_of_trained_pairs() -> None:
    model, images = small("tinyten"), pictures(60, seed=1)
    start, end = (trained(model, images, seed) for seed in (1, 2))
    symmetry = traced(model, images)
    problem = Problem(model, symmetry, start, end, images)
    totals = [
        bound_along_line(model, symmetry, start, permute(symmetry.spec, p, end), images, points=5)[0]
        for p in (correlation(problem), identity(symmetry.spec))
    ]
    for key in ("bound", "estimate", "distance", "loss"):
        assert totals[0][key] <= totals[1][key], key
