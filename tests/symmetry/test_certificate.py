"""Certificates notice permutations that change outputs or gradients, also where only one of both changes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from awkward import FREE, Net, conv
from tiny import generator, pictures, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from neuralign.alignment.problem import Problem, certificate
from neuralign.api import align
from neuralign.common.errors import UserError
from neuralign.datasets.images import as_float
from neuralign.networks.model import Model
from neuralign.symmetry import certificate as certificate_module
from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import CertificateError, differences, prove, require_within, tolerance_of
from neuralign.symmetry.explain import certify_random, explain, permutable_fraction, perturbed_state, sentences
from neuralign.symmetry.permutations import PermutationSpec, fingerprint
from neuralign.symmetry.tracing.execution import DeterministicMode
from neuralign.symmetry.tracing.trace import trace


def image() -> Tensor:
    return as_float(pictures(side=8).pixels[:3]).double()


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 5)).double()


def test_a_true_permutation_changes_neither_outputs_nor_gradients() -> None:
    network = perceptron()
    spec, state = trace(network, image()).spec, randomised(network)
    changes = differences(network, spec, permutations.random(spec, generator(1)), state, image())
    assert changes.keys() == {"outputs", "gradients"}
    assert max(changes.values()) < 1e-13


def test_gradients_of_few_parameters_at_once_are_those_of_all() -> None:
    network = FREE["squeeze and excitation"][0]().double()
    spec, state = trace(network, image()).spec, randomised(network)
    wrong = PermutationSpec({n: a for n, a in spec.axes.items() if n != "b.weight"}, spec.sizes, spec.fixed)
    permutation = permutations.random(spec, generator(1))
    changes = [
        differences(network, wrong, permutation, state, image(), gradients_at_once=most) for most in (1, 100, 10**9)
    ]
    assert changes[0] == pytest.approx(changes[2]) and changes[1] == pytest.approx(changes[2])
    assert changes[0]["gradients"] > 1e-3


class Forked(nn.Module):
    """Uses one of two layers, by the sign of its first unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.yes, self.no = nn.Linear(192, 2), nn.Linear(2, 5), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return (self.yes if x[0, 0] > 0 else self.no)(x)


def test_a_permutation_that_leads_to_another_branch_is_refused() -> None:
    network = Forked().double()
    spec, state = PermutationSpec({"first.bias": ((("u", 1),),)}, {"u": 2}), randomised(network)
    state["first.weight"], state["first.bias"] = torch.zeros(2, 192).double(), torch.tensor([1.0, -1.0]).double()
    with pytest.raises(CertificateError) as error:
        differences(network, spec, {"u": torch.tensor([1, 0])}, state, image())
    message = "the permuted network is another function: only the permuted network uses no.bias on these inputs"
    assert str(error.value) == message


def test_a_wrong_permutation_that_changes_no_output_changes_gradients() -> None:
    """With a last layer of zeros the outputs are zeros, but the gradient by it depends on the order of its inputs."""
    network = perceptron()
    spec, state = trace(network, image()).spec, randomised(network)
    state["3.weight"] = torch.zeros(5, 6).double()
    wrong = PermutationSpec({n: a for n, a in spec.axes.items() if n != "3.weight"}, spec.sizes, spec.fixed)
    changes = differences(network, wrong, {"1": torch.tensor([1, 0, 2, 3, 4, 5])}, state, image())
    assert changes["outputs"] == 0
    with pytest.raises(CertificateError, match="its gradients differ by .* of their size on 3 images, at most 1e-09"):
        require_within(changes, 1e-9, 3)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda x: (x for _ in range(2)), "the network returns a generator; tensors, or tuples, lists, mappings"),
        (lambda x: {"places": x.argmax(1)}, "returns no floating-point tensor, so nothing can be certified"),
    ],
)
def test_what_cannot_be_certified_is_refused(act, message) -> None:
    network = Net(lambda n, x: act(n.b(n.a(x).mean((2, 3)))), a=conv(3, 4), b=nn.Linear(4, 5)).double()
    with pytest.raises(UserError, match=message):
        explain(network, image())


def test_a_tensor_in_a_dataclass_is_an_output() -> None:
    @dataclass
    class Out:
        features: torch.Tensor

    network = Net(lambda n, x: Out(n.a(x).relu()), a=conv(3, 4)).double()
    facts = explain(network, image())
    assert not facts["groups"] and facts["frozen"][0]["reason"] == "it is the network's output"


def test_a_permutation_that_moves_no_weight_is_not_certified() -> None:
    network = perceptron()
    symmetry = trace(network, image())
    blind = replace(symmetry, spec=PermutationSpec({}, symmetry.spec.sizes, symmetry.spec.fixed))
    facts = certify_random(blind, image())
    assert facts["max_error"] == 0 and facts["moved"] == 0
    assert not facts["certified"]


def test_the_permutable_fraction_counts_what_a_free_group_moves() -> None:
    spec = PermutationSpec(
        {"w": ((("a", 1), (2,)), ()), "v": ((("b", 1),),), "u": ((("c", 2),),)}, dict(a=2, b=3, c=1), {"b"}
    )
    parameters = {"w": torch.zeros(4, 5), "v": torch.zeros(3), "u": torch.zeros(2), "t": torch.zeros(5)}
    assert permutable_fraction(spec, parameters) == pytest.approx(10 / 30)


def test_the_permutable_fraction_counts_what_moves_within_blocks() -> None:
    """In every fixed block of four positions a free group moves two."""
    within = (("free", 1), (1,), ("fixed", 1))
    spec = PermutationSpec({"w": (((3, within, 1), (8,)),)}, dict(free=2, fixed=1), frozenset({"fixed"}))
    assert permutable_fraction(spec, {"w": torch.zeros(20)}) == pytest.approx(6 / 20)


def test_a_network_of_a_single_number_is_certified() -> None:
    network = Net(lambda n, x: n.a(n.scale * x), a=nn.Linear(3, 4), scale=nn.Parameter(torch.randn(3))).double()
    facts = explain(network, torch.tensor(2.0, dtype=torch.float64))
    assert facts["certified"] and facts["batch_sizes"] == []


def test_equal_symmetries_have_equal_fingerprints() -> None:
    fingerprints = [fingerprint(trace(perceptron(), image()).spec) for _ in range(2)]
    assert fingerprints[0] == fingerprints[1] and len(fingerprints[0]) == 64
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 5)).double()
    assert fingerprint(trace(other, image()).spec) != fingerprints[0]


def test_an_explanation_has_all_facts_and_says_them_in_words() -> None:
    network = Net(lambda n, x: n.c(n.b(n.a(x).relu()).cumsum(1)).mean((2, 3)), a=conv(3, 4), b=conv(4, 6), c=conv(6, 5))
    facts = explain(network, image().float())
    assert facts["groups"] == {"a": 4}
    assert facts["certified"] and facts["max_error"] < 1e-9 and facts["moved"] > 0
    assert {"axis": "b.weight[0]", "reason": "aten::cumsum depends on its order"} in facts["frozen"]
    text = "\n".join(sentences(facts))
    assert "1 groups of channels may be permuted" in text and "leaves the function as it is" in text
    assert "Fixed: b.weight[0] and 1 more axes, because aten::cumsum depends on its order." in text


@pytest.mark.parametrize(
    ("name", "fraction"), [("mobilenet_v3_small", 0.99), ("shufflenet_v2_x0_5", 0.99), ("squeezenet1_1", 0.99)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_of_torchvision_are_certified(name: str, fraction: float) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    facts = explain(models.get_model(name, weights=None), torch.randn(2, 3, 64, 64))
    assert facts["certified"], facts
    assert facts["permutable_fraction"] > fraction


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_transformer_of_windows_is_certified(attention: bool) -> None:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    torch.manual_seed(0)
    for block in (swin.SwinTransformerBlock, swin.SwinTransformerBlockV2):
        network = swin.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [2, 2], num_classes=5, block=block)
        facts = explain(network, torch.randn(2, 3, 32, 32), attention=attention)
        assert facts["certified"], facts
        assert facts["permutable_fraction"] > 0.9


class Float32Only(torch.autograd.Function):
    """A kernel for float32."""

    @staticmethod
    def forward(ctx, x):
        if x.dtype != torch.float32:
            raise NotImplementedError(f"a kernel for {x.dtype}")
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def float32_only(read=lambda n, x: x) -> nn.Module:
    layers = {"a": conv(3, 6), "b": conv(6, 7), "fc": nn.Linear(7, 5)}
    return Net(lambda n, x: n.fc(read(n, n.b(Float32Only.apply(n.a(x).relu())).relu()).mean((2, 3))), **layers)


def test_without_a_kernel_for_float64_a_certificate_is_of_float32_and_says_so() -> None:
    facts = explain(float32_only(), image().float())
    assert facts["certified"] and facts["groups"] == {"a": 6, "b": 7}
    assert facts["precision"] == "float32" and 1e-9 < facts["max_error"] < 1e-5
    assert "leaves the function as it is: in float32 outputs differ" in "\n".join(sentences(facts))


def test_a_wrong_permutation_is_seen_in_float32_too() -> None:
    network, x = float32_only(), image().float()
    symmetry = trace(network, x)
    wrong = {n: a for n, a in symmetry.spec.axes.items() if n != "b.weight"}
    mistaken = replace(symmetry, spec=replace(symmetry.spec, axes=wrong))
    proof = prove(mistaken, {"a": torch.arange(6).roll(1)}, randomised(network), [x])
    assert str(proof.precision) == "float32" and proof.why == "NotImplementedError: a kernel for torch.float64"
    assert not proof.holds and proof.error > 0.01
    assert tolerance_of(proof.facts()) == 1e-3 and tolerance_of({}) == 1e-9


def test_a_network_that_fails_in_both_precisions_is_refused_with_both_errors() -> None:
    def broken(n: nn.Module, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ValueError(f"no gradients of {x.dtype}")
        return x

    network = Net(lambda n, x: n.b(broken(n, n.a(x).relu())).mean((2, 3)), a=conv(3, 6), b=conv(6, 5))
    message = (
        "nothing can be certified of this network, whose outputs and gradients are compared: in float64 it raises "
        "ValueError: no gradients of torch.float64; in float32 ValueError: no gradients of torch.float32"
    )
    with pytest.raises(UserError) as refusal:
        explain(network, image().float())
    assert str(refusal.value) == message


def test_without_memory_for_float64_a_certificate_is_of_float32_and_says_so() -> None:
    network = perceptron().float()
    symmetry, state = trace(network, image().float()), randomised(network)
    permutation = permutations.random(symmetry.spec, generator(1))
    proof = prove(symmetry, permutation, state, [image()], memory=1000)
    assert proof.holds and str(proof.precision) == "float32" and 1e-9 < proof.error < 1e-5
    assert proof.why == "it needs 0.0 GiB of memory, of which 0.0 are free"
    assert proof.facts()["certificate_why"] == proof.why
    enough = prove(symmetry, permutation, state, [image()], memory=10**6)
    assert str(enough.precision) == "float64" and enough.why == "" and "certificate_why" not in enough.facts()
    wrong = {n: a for n, a in symmetry.spec.axes.items() if n != "3.weight"}
    mistaken = replace(symmetry, spec=replace(symmetry.spec, axes=wrong))
    assert not prove(mistaken, permutation, state, [image()], memory=1000).holds


def test_an_explanation_in_float32_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "free_memory", lambda device: 1000.0)
    facts = explain(perceptron().float(), image().float())
    assert facts["certified"] and facts["precision"] == "float32"
    assert "They were not compared in float64: it needs 0.0 GiB of memory" in "\n".join(sentences(facts))


CONSTANTS = {
    "kernel": lambda n, x: F.conv2d(x, torch.ones(1, 1, 3, 3).expand(6, 1, 3, 3), groups=6).mean((2, 3)),
    "attribute": lambda n, x: F.conv2d(x, n.kernel.expand(6, 1, 3, 3), groups=6).mean((2, 3)),
    "matrix": lambda n, x: x.mean((2, 3)) @ torch.full((6, 6), 0.5),
    "linear": lambda n, x: F.linear(x.mean((2, 3)), torch.full((6, 6), 0.5)),
    "einsum": lambda n, x: torch.einsum("nchw,ck->nk", x, torch.ones(6, 6)),
    "of numpy": lambda n, x: F.linear(x.mean((2, 3)), torch.from_numpy(np.full((6, 6), 0.5, "float32"))),
    "written to": lambda n, x: torch.zeros(len(x), 6).add_(x.mean((2, 3))),
    "old type": lambda n, x: x.type(torch.FloatTensor).mean((2, 3)),
    "type of another": lambda n, x: x.type_as(torch.ones(1)).mean((2, 3)),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_in_float32_that_are_no_buffers_are_cast_to_float64(name: str) -> None:
    layers = {"a": conv(3, 4), "b": conv(4, 6), "fc": nn.Linear(6, 5)}
    network = Net(lambda n, x: n.fc(CONSTANTS[name](n, n.b(n.a(x).relu()).relu())), **layers)
    network.kernel = torch.ones(1, 1, 3, 3)
    facts = explain(network, image().float())
    assert facts["certified"] and facts["precision"] == "float64" and facts["max_error"] < 1e-12
    assert facts["groups"].items() >= {("a", 4)}
    state, images = perturbed_state(network, 1), pictures(side=8, count=40)
    assert align(network, state, perturbed_state(network, 2), images, "correlation").certificate < 1e-12


def test_a_certificate_is_of_several_batch_sizes_and_of_both_modes_where_they_differ() -> None:
    seen = []

    def do(n: nn.Module, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        seen.append((len(x), n.training, x.dtype))
        x = n.a(x).relu()
        return (n.b(x).mean((2, 3)), n.c(x).mean((2, 3))) if n.training else n.b(x).mean((2, 3))

    network = Net(do, a=conv(3, 4), b=conv(4, 5), c=conv(4, 3))
    symmetry, images = trace(network, image().float()), pictures(side=8, count=50)
    model = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    problem = Problem(model, symmetry, perturbed_state(network, 1), perturbed_state(network, 2), images)
    seen.clear()
    proof = certificate(problem, permutations.random(symmetry.spec, generator(1)))
    double = {(n, training) for n, training, dtype in seen if dtype == torch.float64}
    assert double == {(n, training) for n in (32, 1, 3) for training in (True, False)}
    assert proof.batch_sizes == (32, 1, 3) and proof.modes == {"evaluation": "", "training": ""}


def test_one_run_proves_both_modes_where_they_do_the_same() -> None:
    symmetry = trace(perceptron(), image())
    assert not symmetry.others and symmetry.modes == {"evaluation": "", "training": ""}


def test_a_few_images_are_enough_for_a_certificate() -> None:
    network = perceptron()
    symmetry, images = trace(network, image()), pictures(side=8, count=2)
    model = Model(network, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    problem = Problem(model, symmetry, randomised(network, 1), randomised(network, 2), images)
    assert certificate(problem, permutations.random(symmetry.spec, generator(1))).batch_sizes == (2, 1, 2)


def test_gradients_are_right_where_the_kernel_of_torch_misreads_them() -> None:
    """torch 2.14 reads a gradient of one image with such strides as if it were contiguous."""
    norm, x = nn.BatchNorm2d(8).double().eval(), torch.randn(1, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    strided = torch.empty_strided(gradient.shape, (8, 1, 48, 8), dtype=torch.float64).copy_(gradient)
    with DeterministicMode():
        gradients, expected = (torch.autograd.grad(norm(x), [x, *norm.parameters()], g) for g in (strided, gradient))
    torch.testing.assert_close(gradients, expected)


def test_gradients_that_fail_on_other_images_only_are_refused_in_one_sentence() -> None:
    class BrightOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(192, 6), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1)).exp()
            out = self.second(x)
            if x.shape[0] == 1:  # as code may do in a rare branch: the backward pass needs what is overwritten here
                x += 1
            return out

    message = "nothing can be certified of this network: its gradients at batch size 1 raise RuntimeError: one"
    with pytest.raises(UserError, match=message):
        explain(BrightOnly(), image().float())


def test_outputs_of_zero_that_stay_zero_have_not_changed_in_either_precision() -> None:
    for kind in (torch.float32, torch.float64):
        assert certificate_module._relative_change(torch.zeros(3, dtype=kind), torch.zeros(3, dtype=kind)) == 0
