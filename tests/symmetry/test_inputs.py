"""Symmetries of networks whose inputs are a tuple, keyword arguments, whole numbers or masks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from awkward import conv
from tiny import generator, randomised
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.datasets.batches import Inputs, call, select
from neuralign.networks.buffer_updates import _other_inputs, updates
from neuralign.networks.model import Model
from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import CertificateError, outputs_and_gradients, prove
from neuralign.symmetry.explain import explain, perturbed_state, sentences
from neuralign.symmetry.export import export
from neuralign.symmetry.folding import capture, fold
from neuralign.symmetry.inputs import named_inputs
from neuralign.symmetry.tracing.execution import DeterministicModule, DeterministicNetwork
from neuralign.symmetry.tracing.trace import Trace, trace

DECISION = "the network reads a value that depends on its input"
EMBEDDED = "aten::embedding in layer 'words' indexes it by position"


class Reader(nn.Module):
    """The mean of the unmasked words, then a perceptron; `do` may do something with the mask before."""

    def __init__(self, do: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda n, words, mask: words) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.hidden, self.head, self.do = nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(6, 4), do

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        words = self.do(self, self.words(tokens), mask)
        share = mask.to(words.dtype)[..., None]
        return self.head(self.hidden((words * share).sum(1) / share.sum(1)).relu())


class Captioned(nn.Module):
    """An image, and words of which an option says whether they are read, as keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.words = conv(3, 8), nn.Embedding(10, 8)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, *, pixels: Tensor, features: dict[str, Tensor], read: bool = True) -> dict[str, Tensor]:
        x = self.image(pixels).relu().mean((2, 3)) * features["brightness"]
        return {"logits": self.head(self.norm(x + self.words(features["tokens"]).mean(1) if read else x))}


def tokens_and_mask(count: int = 3) -> tuple[Tensor, Tensor]:
    mask = torch.ones(count, 5, dtype=torch.int64)
    mask[1:, 3:] = 0
    return torch.randint(10, (count, 5), generator=generator(0)), mask


def captioned(count: int = 3) -> dict[str, Any]:
    draws = generator(0)
    tokens = torch.randint(10, (count, 5), generator=draws)
    features = {"brightness": torch.rand(count, 1, generator=draws), "tokens": tokens}
    return {"pixels": torch.randn(count, 3, 6, 6, generator=draws), "features": features, "read": True}


def named(inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return dict(zip(("tokens", "mask"), inputs, strict=True))


def planted_mistakes(symmetry: Trace) -> Iterator[tuple[str, Trace]]:
    """(name, the symmetry without the axes of that tensor) for every tensor that a permutation moves."""
    for left_out, dims in symmetry.spec.axes.items():
        if any(group in symmetry.spec.free for blocks in dims for block in blocks for group in block):
            axes = {name: dims for name, dims in symmetry.spec.axes.items() if name != left_out}
            yield left_out, replace(symmetry, spec=replace(symmetry.spec, axes=axes))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs, dict[str, int]]] = {
    "a tuple": (Reader, tokens_and_mask(), {"words#2": 8, "hidden": 6}),
    "a list": (Reader, list(tokens_and_mask()), {"words#2": 8, "hidden": 6}),
    "keywords": (Reader, named(tokens_and_mask()), {"words#2": 8, "hidden": 6}),
    "keywords within keywords, and an option": (Captioned, captioned(), {"image": 8}),
    "an option that leaves a layer out": (Captioned, captioned() | {"read": False}, {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_of_any_form_are_traced_and_certified(name: str) -> None:
    make, inputs, groups = NETWORKS[name]
    facts = explain(make(), inputs)
    assert facts["groups"] == groups and facts["certified"] and facts["max_error"] < 1e-12
    assert facts["batch_sizes"] == [3, 1] and facts["branches"] == 0


@pytest.mark.parametrize("name", ["a tuple", "keywords", "keywords within keywords, and an option"])
def test_every_planted_mistake_is_refused(name: str) -> None:
    make, inputs, _ = NETWORKS[name]
    network = make()
    symmetry, state = trace(network, inputs), randomised(network)
    permutation = permutations.random(symmetry.spec, generator(2))
    assert prove(symmetry, permutation, state, [inputs]).holds
    mistakes = dict(planted_mistakes(symmetry))
    assert len(mistakes) >= 4
    for tensor, mistaken in mistakes.items():
        assert not prove(mistaken, permutation, state, [inputs]).holds, tensor


def test_the_form_of_the_inputs_does_not_change_the_symmetry() -> None:
    first, second = (trace(Reader(), inputs) for inputs in (tokens_and_mask(), named(tokens_and_mask())))
    assert first.spec == second.spec and first.taps == second.taps and first.frozen == second.frozen
    assert export(first) == export(second)
    assert first.frozen["words.weight[0]"] == EMBEDDED


def test_units_that_are_joined_with_any_input_are_fixed() -> None:
    network = Reader(lambda n, words, mask: words + mask[..., None])
    assert trace(network, tokens_and_mask()).spec.free == ("words#2", "hidden")

    class Joining(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(10, 8), nn.Linear(8, 4)

        def forward(self, tokens: Tensor, extra: Tensor, **more: Tensor) -> Tensor:
            return self.head(self.words(tokens).mean(1) + extra)

    symmetry = trace(Joining(), (tokens_and_mask()[0], torch.randn(3, 8)))
    assert not symmetry.spec.free and symmetry.spec.fixed == {"<extra>", "words", "head"}
    assert symmetry.frozen["words.weight[1]"] == "it is the network's input"
    whole = trace(Joining(), (tokens_and_mask()[0], torch.arange(24).view(3, 8)))
    assert not whole.spec.free and "fixed order" in whole.frozen["words.weight[1]"]


@pytest.mark.parametrize(
    "read",
    [lambda mask: mask.sum().item() > 9, lambda mask: mask.tolist()[1][3] == 1, lambda mask: len(mask.nonzero()) > 9],
)
def test_python_that_reads_a_value_of_any_input_fixes_everything(read: Callable[[Tensor], bool]) -> None:
    network = Reader(lambda n, words, mask: words.cumsum(2) if read(mask) else words)
    for inputs in (tokens_and_mask(), named(tokens_and_mask())):
        symmetry = trace(network, inputs)
        assert not symmetry.spec.free and DECISION in symmetry.frozen["hidden.weight[0]"]


def test_a_mask_of_which_python_asks_whether_it_has_padding_fixes_only_what_one_branch_fixes() -> None:
    def mix(n: nn.Module, words: Tensor, mask: Tensor) -> Tensor:
        return words if mask.all() else words.cumsum(2)

    tokens, mask = tokens_and_mask()
    for shown in (mask, torch.ones_like(mask)):
        symmetry = trace(Reader(mix), (tokens, shown))
        assert symmetry.spec.free == ("hidden",) and symmetry.branches == 1
        assert symmetry.frozen["hidden.weight[1]"] == "aten::cumsum depends on its order"
    facts = explain(Reader(lambda n, words, mask: words if mask.all() else 2 * words), (tokens, torch.ones_like(mask)))
    assert facts["groups"] == {"words#2": 8, "hidden": 6} and facts["certified"]
    assert facts["branches"] == 1 and facts["batch_sizes"] == [3, 1, 3, 3]
    assert "By what Python reads of its inputs it may take 1 other branch: what they fix is" in "\n".join(
        sentences(facts)
    )


def test_inputs_that_the_network_refuses_fix_nothing() -> None:
    def demand(n: nn.Module, words: Tensor, mask: Tensor) -> Tensor:
        assert mask.sum() > 0, "a sentence without words"
        return words

    facts = explain(Reader(demand), tokens_and_mask())
    assert facts["groups"] == {"words#2": 8, "hidden": 6} and facts["branches"] == 0


def test_a_mistake_in_a_branch_that_the_example_does_not_take_is_refused() -> None:
    """Inputs with padding are added to the certificate, so the branch that reads `other` is compared."""

    class Forked(Reader):
        def __init__(self) -> None:
            super().__init__(lambda n, words, mask: words if mask.all() else words * n.other)
            self.other = nn.Parameter(torch.randn(8))

    network, (tokens, mask) = Forked(), tokens_and_mask()
    full = (tokens, torch.ones_like(mask))
    symmetry, state = trace(network, full), perturbed_state(network, 1)
    assert symmetry.spec.axes["other"] == ((("words#2", 1),),)
    permutation = permutations.random(symmetry.spec, generator(2))
    mistaken = dict(planted_mistakes(symmetry))["other"]
    assert prove(mistaken, permutation, state, [full]).holds, "this branch does not use it"
    assert not prove(mistaken, permutation, state, [full, (tokens, mask)]).holds


def test_gradients_are_compared_by_every_floating_point_input() -> None:
    network = Captioned().eval()
    _, gradients = outputs_and_gradients(DeterministicNetwork(network), randomised(network), captioned(), ["head.bias"])
    assert gradients.keys() == {"<pixels>", "<features[brightness]>", "head.bias"}
    assert all(gradient.dtype == torch.float64 for gradient in gradients.values())
    alone = nn.Linear(3, 2)
    gradients = outputs_and_gradients(DeterministicNetwork(alone), randomised(alone), torch.ones(2, 3), [])[1]
    assert gradients.keys() == {"<input>"}


def test_a_certificate_changes_no_input() -> None:
    class Overwriting(Reader):
        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            out = super().forward(tokens, mask)
            mask.zero_()
            return out

    inputs, network = tokens_and_mask(), Overwriting()
    symmetry = trace(Reader(), inputs)
    symmetry = replace(symmetry, network=DeterministicNetwork(network.eval()))
    assert prove(symmetry, {}, randomised(network), [inputs]).holds
    assert all(map(torch.equal, inputs, tokens_and_mask()))


def test_names_of_inputs_are_those_of_the_parameters_they_are_passed_to() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, *others: Tensor, scale: Tensor | None = None) -> Tensor:
            return x

    def names(network: nn.Module, inputs: Inputs) -> list[str]:
        return [name for name, _ in named_inputs(network, inputs)]

    x = torch.ones(2, 3)
    assert names(Many(), x) == ["x"] and names(nn.Linear(3, 2), (x,)) == ["input"]
    assert names(Many(), (x, 3, x, [x, {"old": x}])) == ["x", "others[1]", "others[2][0]", "others[2][1][old]"]
    assert names(Many(), {"scale": x, "flag": True, "x": x}) == ["scale", "x"]


def test_activations_are_read_for_inputs_of_any_form() -> None:
    inputs, network = tokens_and_mask(), Reader().eval()
    symmetry = trace(network, inputs)
    probe, names = symmetry.probe(symmetry.taps)
    activations = dict(zip(names, probe(named(inputs)), strict=True))
    assert activations["relu"].shape == (3, 6)
    torch.testing.assert_close(activations["relu"], probe(inputs)[names.index("relu")])
    deterministic = DeterministicModule(symmetry.network)
    for given in (inputs, named(inputs)):
        torch.testing.assert_close(call(deterministic, given), network(*inputs))


def test_a_network_of_keyword_arguments_is_folded() -> None:
    class Folding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

        def forward(self, *, x: Tensor, scale: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)).relu()) * scale

    network = Folding().double().eval()
    state, inputs = randomised(network), {"scale": torch.rand(4, 1).double(), "x": torch.randn(4, 3).double()}
    folded = fold(capture(network))
    assert folded.norms == {"a": "norm"}
    actual = DeterministicNetwork(folded.graph)(inputs, folded.state(state))
    torch.testing.assert_close(actual, DeterministicNetwork(network)(inputs, state))


@pytest.mark.parametrize(
    ("inputs", "shapes"),
    [
        ((torch.ones(3, 5).long(), torch.ones(2, 5)), "(3, 5), (2, 5)"),
        ({"tokens": torch.ones(3, 5).long(), "mask": torch.tensor(1.0)}, "(3, 5), ()"),
        ({"tokens": [1, 2]}, "no tensor"),
    ],
)
def test_inputs_of_different_numbers_of_examples_are_refused(inputs: Inputs, shapes: str) -> None:
    message = f"inputs: found {shapes}; the first dimension of every tensor has to count the examples"
    with pytest.raises(UserError) as refusal:
        trace(Reader(), inputs)
    assert str(refusal.value) == message


def test_errors_of_networks_that_differ_are_named_by_the_input() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            chosen = x if self.first.bias[0] > 0 else y
            return self.first(chosen)

    network = Choosing()
    symmetry, state = trace(network, (torch.rand(2, 3), torch.rand(2, 3))), randomised(network)
    state["first.bias"] = torch.tensor([1.0, -1.0]).double()
    spec = permutations.PermutationSpec({"first.bias": ((("u", 1),),)}, {"u": 2})
    with pytest.raises(CertificateError, match="another function: only the original network uses <x> on these inputs"):
        prove(replace(symmetry, spec=spec), {"u": torch.tensor([1, 0])}, state, [(torch.rand(2, 3), torch.rand(2, 3))])


# how buffers are updated


class Averaging(nn.Module):
    """Keeps a moving average of its inputs, as a norm that is none of torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.mean((0, 1)), 0.2)
            return x - x.mean((0, 1))
        return x - self.mean


def test_a_moving_average_of_embedded_tokens_is_recognised() -> None:
    network = Reader(lambda n, words, mask: n.average(words))
    network.average = Averaging()
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for inputs in (tokens_and_mask(), named(tokens_and_mask()), tokens_and_mask(2)):
        updated = updates(Model(network, None, None), state, lambda inputs=inputs: inputs, ["average.mean"])
        assert updated.statistics == {"average.mean"} and not updated.unknown
        assert updated.norms["average"].rate == pytest.approx(0.2)


def test_other_inputs_of_a_trial_are_valid_and_different() -> None:
    tokens, mask = tokens_and_mask(4)
    floats = torch.rand(4, 3, generator=generator(0))
    other = _other_inputs({"tokens": tokens, "mask": mask.bool(), "floats": floats, "flag": True})
    assert torch.equal(other["tokens"], tokens[[0, 0, 1, 1]]) and torch.equal(other["mask"], mask.bool()[[0, 0, 1, 1]])
    assert torch.equal(other["floats"], ((floats + floats.roll(1, 0).flip(-1)) / 2).square()) and other["flag"] is True
    single = _other_inputs(select((tokens, mask), slice(1)))
    assert torch.equal(single[0], tokens[:1, [0, 0, 1, 1, 2]]) and single[1].shape == (1, 5)
