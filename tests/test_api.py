"""`align` and `curve` of neuralign.api, and the code of docs/library.md."""

import re
import warnings
from collections import OrderedDict
from itertools import product

import pytest
import tiny
import torch
from awkward import ATTENTIVE, FREE
from tiny import assert_close, assert_same, generator, pictures, randomised
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from workflow_project import REPOSITORY

from neuralign.api import align, connect
from neuralign.common.errors import UserError
from neuralign.datasets.images import Images
from neuralign.symmetry.explain import perturbed_state
from neuralign.symmetry.permutations import inverse, permute, random
from neuralign.symmetry.tracing.trace import trace


@pytest.mark.parametrize("page, count", [("README", 1), ("docs/library", 4), ("docs/own-data", 3)])
def test_the_code_of_the_documentation_runs(page, count):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / f"{page}.md").read_text(), re.DOTALL)
    names: dict = {"__name__": "documentation"}
    for block in blocks:
        exec(block, names)
    assert names["aligned"].certificate < 1e-9 and len(blocks) == count
    assert names["net"].training, "the network is left in training mode"


def test_align_undoes_a_permutation(tinyten):
    images, a = pictures(), randomised(tinyten.network)
    spec = trace(tinyten.network, torch.rand(2, 3, 16, 16).double()).spec
    b = permute(spec, random(spec, generator(1)), a)
    aligned = align(
        tinyten.network, a, b, images, "correlation", read="pre", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25]
    )
    assert_close(aligned.state, a)
    assert aligned.certificate < 1e-9


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("method", ["correlation", "transport"])
def test_align_undoes_a_permutation_of_heads_and_of_channels_within(name, method):
    network, images = FREE[name][0](), pictures(side=8, count=64)
    a = perturbed_state(network, 1)
    spec = trace(network, torch.rand(2, 3, 8, 8), attention=True).spec
    planted = random(spec, generator(2))
    assert planted.keys() >= ATTENTIVE[name].keys()
    aligned = align(network, a, permute(spec, planted, a), images, method, attention=True)
    assert all(torch.equal(aligned.permutation[g], inverse(planted)[g]) for g in ATTENTIVE[name])
    assert aligned.certificate < 1e-9


def hooked(kind: str) -> nn.Module:
    """A network with weights that a hook computes anew in every call; autograd made them, so they cannot be copied."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    if kind == "pruned":
        prune.l1_unstructured(network[1], "weight", 0.5)
    elif kind == "normalised":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            weight_norm(network[1])
    elif kind == "spectral":
        spectral_norm(network[1])
    else:  # the last activations, which the network keeps for whoever wants to see them
        network.seen = {"last": [network(torch.rand(2, 3, 8, 8))]}
    return network


@pytest.mark.parametrize("kind", ["pruned", "normalised", "spectral", "kept"])
def test_networks_that_cannot_be_copied_as_they_are_can_be_aligned_and_joined(kind):
    images = pictures(side=8, count=40)
    a, b = hooked(kind).state_dict(), hooked(kind).state_dict()
    before = {n: t.clone() for n, t in b.items()}
    aligned = align(hooked(kind), a, b, images, "correlation")
    assert aligned.permutation and aligned.certificate < 1e-9
    assert_same(b, before)
    path = connect(hooked(kind), a, aligned.state, images, "segment", epochs=0)
    assert path(0.5).keys() == a.keys()


def test_a_family_without_bends_has_nothing_to_train():
    network = flat()
    a, b = drawn(network, 1), drawn(network, 2)
    assert_close(connect(network, a, b, GREY, "segment")(0.5), {n: (a[n] + b[n]) / 2 for n in a}, 1e-6)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_curve_ends_where_it_should_and_learns_between(epochs):
    model, images = tiny.perceptron(side=16), pictures(count=20)
    a, b = randomised(model.network, 1), randomised(model.network, 2)
    path = connect(model.network, a, b, images, "bezier", epochs=epochs, batch_size=10)
    names = dict(model.network.named_parameters())
    for t, end in ((0.0, a), (1.0, b)):
        assert_close({n: path(t)[n] for n in names}, {n: end[n] for n in names})
    middle, straight = path(0.5), {n: (a[n] + b[n]) / 2 for n in names}
    if epochs:
        assert any(not torch.allclose(middle[n], straight[n]) for n in names)
    else:
        assert_close({n: middle[n] for n in names}, straight)
    assert middle.keys() == a.keys() and not torch.equal(middle["2.running_mean"], a["2.running_mean"])


def test_numbers_of_a_curve_may_be_written_as_in_the_config():
    model, images = tiny.perceptron(side=16), pictures(count=20)
    ends = randomised(model.network, 1), randomised(model.network, 2)
    one, other = (
        connect(model.network, *ends, images, "bezier", **{"epochs": 1, "batch_size": 10, "lr": lr})(0.3)
        for lr in (0.02, "1/50")
    )
    assert_same(one, other)


# ---- what does not fit is refused in one sentence


def flat(inputs=64, hidden=32, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def drawn(network, seed=0):
    draws = generator(seed)
    return {n: torch.randn(t.shape, generator=draws, dtype=t.dtype) for n, t in network.state_dict().items()}


GREY = pictures(count=16, side=8, channels=1)
NONE = Images(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))


def without(name):
    return lambda s: {n: t for n, t in s.items() if n != name}


def put(name, value):
    return lambda s: s | {name: value}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_arguments_may_be_on_any_devices_and_results_are_on_that_of_the_network() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    a, b = drawn(flat(), 1), drawn(flat(), 2)
    expected = align(flat(), a, b, GREY, "correlation").permutation
    for network_device, start_device, end_device, images_device in product((cpu, cuda), repeat=4):
        network = flat().to(network_device)
        start, end = ({n: t.to(d) for n, t in s.items()} for s, d in ((a, start_device), (b, end_device)))
        aligned = align(network, start, end, GREY.to(images_device), "correlation")
        assert_same(aligned.permutation, expected)
        middle = connect(network, start, aligned.state, GREY.to(images_device), "bezier", epochs=1, batch_size=8)(0.5)
        assert {t.device for t in (*aligned.state.values(), *middle.values())} == {network_device}


def on_two_devices():
    network = flat()
    network[3] = nn.Linear(32, 10, device="meta")
    return network


@pytest.mark.parametrize(
    "network, images, message",
    [
        (on_two_devices(), GREY, "network: '1.weight' on cpu and '3.weight' on meta; all of its tensors must be on"),
        (flat().to("meta"), GREY, "network: on the meta device, which keeps no numbers"),
        (flat(), Images(GREY.pixels.to("meta"), GREY.labels), "pixels: on the meta device, which keeps no numbers"),
        (flat(), Images(GREY.pixels, GREY.labels.to("meta")), "labels: on the meta device, which keeps no numbers"),
    ],
    ids=["two devices", "network", "pixels", "labels"],
)
@pytest.mark.parametrize("call", [align, connect])
def test_a_device_without_numbers_is_refused(call, network, images, message):
    with pytest.raises(UserError) as error:
        call(network, drawn(flat()), drawn(flat()), images, "correlation" if call is align else "segment")
    assert str(error.value).startswith(message), str(error.value)


STATES = [
    (without("3.bias"), "tensors are missing for this network: 3.bias"),
    (lambda s: {}, "tensors are missing for this network: 1.bias, 1.weight, 3.bias, 3.weight"),
    (put("5.weight", torch.ones(2)), "tensors that this network does not have: 5.weight"),
    (lambda s: {n: t.bfloat16() for n, t in s.items()}, "1.weight is torch.bfloat16, the network torch.float32"),
    (lambda s: {n: t.half() for n, t in s.items()}, "1.weight is torch.float16, the network torch.float32"),
    (lambda s: {n: t.double() for n, t in s.items()}, "1.weight is torch.float64, the network torch.float32"),
    (put("3.bias", torch.ones(10, dtype=torch.int64)), "3.bias is torch.int64, the network torch.float32"),
    (put("3.bias", torch.ones(10, dtype=torch.complex64)), "3.bias is torch.complex64, the network torch.float32"),
    (put("1.weight", torch.full((32, 64), torch.nan)), "1.weight has values that are not finite"),
    (put("3.bias", torch.full((10,), torch.inf)), "3.bias has values that are not finite"),
    (put("3.bias", torch.ones(10, device="meta")), "3.bias is on the meta device, which keeps no numbers"),
    (put("3.bias", torch.ones(10).to_sparse()), "3.bias is sparse; a dense tensor of float16, bfloat16, float32 or"),
    (put("3.bias", torch.ones(10).to(torch.float8_e4m3fn)), "3.bias is quantised (torch.float8_e4m3fn)"),
    (lambda s: drawn(flat(hidden=16)), "1.weight has shape (16, 64), the network (32, 64)"),
    (put("3.bias", [0.0] * 10), "3.bias is list; tensors are needed"),
    (put("3.bias", 0), "3.bias is int 0; tensors are needed"),
    (lambda s: 3, "found int 3; named tensors are needed, such as network.state_dict()"),
    (lambda s: list(s.values()), "found list; named tensors are needed"),
    (lambda s: flat(), "found Sequential; named tensors are needed"),
    (lambda s: {"model": s}, "model is dict; tensors are needed"),
]


@pytest.mark.parametrize("damage, message", STATES)
@pytest.mark.parametrize("call", ["align", "curve"])
@pytest.mark.parametrize("second", [False, True])
def test_a_state_that_does_not_fit_is_refused(call, second, damage, message):
    network = flat()
    states = [drawn(network, 1), drawn(network, 2)]
    states[second] = damage(states[second])
    run = {"align": lambda: align(network, *states, GREY, "correlation")}
    run["curve"] = lambda: connect(network, *states, GREY, "segment", epochs=0)
    with pytest.raises(UserError) as error:
        run[call]()
    where = {"align": ("target", "source"), "curve": ("start", "end")}[call][second]
    assert str(error.value).startswith(f"{where}: {message}"), str(error.value)


COMMON = [
    (
        GREY,
        {"mean": [0.5], "std": [0.0]},
        "std: found [0.0]; numbers above 0 are needed, one for each of the 1 channels",
    ),
    (GREY, {"std": [-1.0]}, "std: found [-1.0]; numbers above 0 are needed"),
    (GREY, {"std": [float("nan")]}, "std: found [nan]; numbers are needed, one for each of the 1 channels"),
    (GREY, {"mean": [0.5] * 3}, "mean: found [0.5, 0.5, 0.5]; numbers are needed, one for each of the 1 channels"),
    (GREY, {"mean": 0.5}, "mean: found 0.5; numbers are needed, one for each of the 1 channels"),
    (GREY, {"mean": ["much"]}, "mean: found ['much']; numbers are needed"),
    (GREY, {"std": [0.2]}, "mean, std: found None and [0.2]; both are needed, or neither"),
    (GREY, {"mean": [127], "std": [50]}, "mean, std: found [127] and [50]; pixels are in [0, 1], so at most 1 is"),
    (NONE, {}, "images are empty, of shape (0, 1, 8, 8); at least one image is needed"),
    (
        Images(GREY.pixels / 255, GREY.labels),
        {},
        "images are torch.float32 of shape (16, 1, 8, 8); uint8 (n, channels,",
    ),
    (Images(GREY.pixels[0], GREY.labels), {}, "images are torch.uint8 of shape (1, 8, 8); uint8 (n, channels, height"),
    (Images(GREY.pixels, GREY.labels[:3]), {}, "labels are torch.int64 of shape (3,); int64 (16,) is needed"),
    (Images(GREY.pixels, GREY.labels.float()), {}, "labels are torch.float32 of shape (16,); int64 (16,) is needed"),
    (Images(GREY.pixels, GREY.labels - 1), {}, "labels are in -1 .. 3; only "),
    (
        pictures(count=4, side=8, channels=3),
        {},
        "the network does not take an input of shape (2, 3, 8, 8): RuntimeError: mat1 and mat2 shapes cannot be mult",
    ),
]


@pytest.mark.parametrize("images, more, message", COMMON)
@pytest.mark.parametrize("call", ["align", "curve"])
def test_images_and_a_normalisation_that_do_not_fit_are_refused(call, images, more, message):
    network = flat()
    run = {"align": lambda: align(network, drawn(network), drawn(network), images, "correlation", **more)}
    run["curve"] = lambda: connect(network, drawn(network), drawn(network), images, "segment", epochs=0, **more)
    with pytest.raises(UserError) as error:
        run[call]()
    assert str(error.value).startswith(message), str(error.value)


def test_images_that_are_no_tensors_are_refused():
    with pytest.raises(UserError, match="images are ndarray; a tensor is needed"):
        Images(GREY.pixels.numpy(), GREY.labels)


@pytest.mark.parametrize("kind", ["a layer moves", "nothing moves"])
def test_results_share_no_memory_with_arguments(kind):
    network = flat() if kind == "a layer moves" else nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    network.register_buffer("unused", torch.rand(3))
    a, b = ({n: t.detach().clone() for n, t in drawn(network, seed).items()} for seed in (1, 2))
    a, b = ({n: t.requires_grad_() for n, t in state.items()} for state in (a, b))
    before = {n: t.detach().clone() for n, t in b.items()}
    aligned = align(network, a, b, GREY, "correlation").state
    path = connect(network, a, b, GREY, "segment", epochs=0)
    for state in (aligned, path(0.0), path(0.5), path(1.0)):
        assert not any(t.requires_grad for t in state.values()), "no graph of autograd is kept"
        for tensor in state.values():
            tensor.fill_(7)
    assert_same(b, before)
    assert not any((t == 7).all() for t in [*a.values(), *network.state_dict().values(), *path(0.0).values()])


def test_an_option_with_the_name_of_an_argument_can_be_given_in_options():
    network, images = flat(), pictures(count=64, side=8, channels=1)
    a, b = drawn(network, 1), drawn(network, 2)
    few = align(network, a, b, images.first(8), "correlation")
    assert_same(align(network, a, b, images, "correlation", options={"images": 8}).state, few.state)
    with pytest.raises(UserError, match="option 'batch_size' is given twice, in options and as a keyword"):
        align(network, a, b, images, "correlation", options={"batch_size": 4}, batch_size=4)
    with pytest.raises(
        UserError, match=r"options: found \['images'\]; a mapping is needed, such as {'batch_size': 64}"
    ):
        align(network, a, b, images, "correlation", options=["images"])
    with pytest.raises(UserError, match="bezier.bends: found 0: input should be greater than or equal to 1"):
        connect(network, a, b, images, "bezier", options={"bends": 0})


@pytest.mark.parametrize("name", ["code", "graph", "meta", "print_readable", "delete_submodule", "recompile"])
def test_layers_may_have_the_names_of_attributes_of_a_graph_module(name):
    torch.manual_seed(0)  # no hidden unit is dead
    network = nn.Sequential(OrderedDict({"flat": nn.Flatten(), name: nn.Linear(192, 6), "act": nn.ReLU()}))
    network.head = nn.Linear(6, 5)
    a = perturbed_state(network, 1)
    spec = trace(network, torch.rand(2, 3, 8, 8)).spec
    b = permute(spec, random(spec, generator(2)), a)
    aligned = align(network, a, b, pictures(side=8, count=64), "correlation")
    assert_same(aligned.state, a)
    assert aligned.certificate < 1e-9


@pytest.mark.parametrize(
    "more, message",
    [
        (
            {"method": "corelation"},
            "method: found 'corelation'; did you mean 'correlation'? (allowed: correlation, covariance, ",
        ),
        ({"imgaes": 3}, "correlation: unknown key 'imgaes'; did you mean 'images'?"),
        ({"batch_size": 0}, "correlation.batch_size: found 0: input should be greater than or equal to 1"),
    ],
)
def test_an_unknown_method_or_option_is_refused(more, message):
    network = flat()
    options = {name: value for name, value in more.items() if name != "method"}
    with pytest.raises(UserError) as error:
        method = more.get("method", "correlation")
        align(network, drawn(network), drawn(network), GREY, method, **{"batch_size": 4, **options})
    assert str(error.value).startswith(message), str(error.value)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"curve": "bezie"}, "curve: found 'bezie'; did you mean 'bezier'?"),
        ({"schedule": "plato"}, "schedule: found 'plato'"),
        ({"bend": 3}, "bezier: unknown key 'bend'; did you mean 'bends'?"),
        ({"epochs": -1}, "connect.epochs: found -1: input should be greater than or equal to 0"),
        ({"lr": float("nan")}, "connect.lr: found nan: input should be a finite number"),
        ({"batch_size": 0}, "connect.batch_size: found 0"),
    ],
)
def test_wrong_options_of_a_curve_are_refused(more, message):
    network = flat()
    family = more.get("curve", "bezier")
    options = {name: value for name, value in more.items() if name != "curve"}
    with pytest.raises(UserError) as error:
        connect(network, drawn(network), drawn(network), GREY, family, **{"epochs": 0, **options})
    assert str(error.value).startswith(message), str(error.value)


def test_labels_that_the_network_has_no_logit_for_are_refused():
    network = flat(classes=4)
    with pytest.raises(UserError, match=r"labels are in 0 \.\. 4; only 0 \.\. 3 are allowed"):
        connect(network, drawn(network), drawn(network), GREY, "segment", epochs=0)
    wide = nn.Sequential(network, nn.Unflatten(1, (4, 1)))
    with pytest.raises(UserError, match=r"the network returns \(8, 4, 1\) for 8 images; logits are needed"):
        connect(wide, drawn(wide), drawn(wide), GREY, "segment", epochs=0)


# ---- states as a state_dict has them


class Tied(nn.Module):
    """Two layers with one weight, a buffer that is not saved, an infinite mask and counts of batches."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.stem, self.norm, self.head = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.full((8,), 2.0), persistent=False)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        x = self.norm(self.stem(x.flatten(1))).relu()
        return self.head(self.last(self.first(x).relu()).relu()) * self.scale[0] + self.mask[0]


def test_every_name_of_a_shared_tensor_gets_the_same(tmp_path):
    network, a = Tied(), {**tied(1)}
    b = tied(2)
    aligned = align(network, a, b, GREY, "correlation")
    assert aligned.state.keys() == b.keys() == network.state_dict().keys() and aligned.permutation
    assert torch.equal(aligned.state["first.weight"], aligned.state["last.weight"])
    inputs = torch.rand(4, 1, 8, 8)
    assert_close(outputs_of(network, aligned.state, inputs), outputs_of(network, b, inputs), 1e-5)
    middle = connect(network, a, aligned.state, GREY, "segment", epochs=0)(0.5)
    assert middle.keys() == a.keys() and torch.equal(middle["first.weight"], middle["last.weight"])
    network.load_state_dict(middle)
    with pytest.raises(UserError, match="source: first.weight, last.weight are one tensor in the network, but"):
        align(network, a, b | {"last.weight": b["last.weight"] + 1}, GREY, "correlation")


def tied(seed):
    network = Tied()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)))
    return {n: t.clone() for n, t in network.state_dict().items()}


def outputs_of(network, state, inputs):
    network.load_state_dict(state)
    with torch.no_grad():
        return {"logits": network.eval()(inputs)}


# ---- what cannot be copied by copy.deepcopy


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", ["weight_norm", "prune", "spectral_norm", "parametrised"])
def test_networks_whose_weights_are_computed_by_hooks_are_accepted(how):
    def made():
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)
        )
        if how == "prune":
            prune.l1_unstructured(network[3], "weight", 0.5)
        else:
            {
                "weight_norm": nn.utils.weight_norm,
                "spectral_norm": nn.utils.spectral_norm,
                "parametrised": nn.utils.parametrizations.weight_norm,
            }[how](network[3])
        return network

    torch.manual_seed(0)
    network, a, b = made(), made().state_dict(), made().state_dict()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    aligned = align(network, a, b, GREY, "correlation")
    assert aligned.certificate < 1e-9
    path = connect(network, a, aligned.state, GREY, "bezier", epochs=1, batch_size=8)
    assert path(0.5).keys() == a.keys()
    assert_same(network.state_dict(), before)


# ---- nothing to permute


@pytest.mark.parametrize("method", ["correlation", "transport", "random", "pam"])
def test_the_state_of_a_network_without_free_groups_is_not_changed(method):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    b = drawn(network)
    aligned = align(network, drawn(network, 1), b, GREY, method)
    assert aligned.permutation == {} and aligned.certificate == 0
    assert_same(aligned.state, b)


def test_a_network_without_parameters_has_an_empty_state_and_no_curves():
    network = nn.Sequential(nn.Flatten(), nn.Softmax(1))
    assert align(network, {}, {}, GREY, "correlation").state == {}
    with pytest.raises(UserError, match="the network has no parameters, so there is no path between two states of it"):
        connect(network, {}, {}, GREY, "bezier")
