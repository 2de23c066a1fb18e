"""The transformers: what they compute, their symmetry, and that planted permutations are found."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tiny import generator, pictures, small, unnormalised
from torch import Tensor, nn
from torch.nn import functional as F

from neuralign.alignment import problem as align
from neuralign.alignment.algorithms.correlation import correlation
from neuralign.datasets.images import as_float
from neuralign.networks.architectures.gpt import gpt
from neuralign.networks.architectures.vit import vit
from neuralign.networks.layers.transformer import blocks, rotated
from neuralign.symmetry import permutations
from neuralign.symmetry.explain import certify_random, permutable_fraction
from neuralign.symmetry.permutations import inverse, permute
from neuralign.symmetry.tracing.trace import Trace, trace

WORDS, CONTEXT = 256, 16
tiny_gpt = partial(gpt, WORDS, CONTEXT, width=8, depth=2, heads=2, ratio=2)
tiny_vit = partial(vit, 5, 3, width=8, depth=2, heads=2, ratio=2)
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "gpt": tiny_gpt,
    "gpt, rotary": partial(tiny_gpt, positions="rotary"),
    "gpt, untied": partial(tiny_gpt, tied=False),
    "vit": tiny_vit,
    "vit, class token": partial(tiny_vit, pooling="class_token"),
}


def made(name: str, seed: int = 0) -> nn.Module:
    """One of these networks in float64, with weights large enough that every part of it matters."""
    torch.manual_seed(seed)
    network = MAKERS[name]().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return network


def tokens(count: int = 3, long: int = CONTEXT) -> Tensor:
    return torch.randint(WORDS, (count, long), generator=generator(7))


def example(name: str) -> Tensor:
    return tokens() if name.startswith("gpt") else torch.rand(3, 3, 8, 8, generator=generator(7)).double()


# what they compute


def test_the_default_gpt_has_a_million_parameters_and_logits_for_every_token() -> None:
    network = gpt(256, 128)
    assert sum(p.numel() for p in network.parameters()) == 1_038_848
    assert network(tokens(2, 128)).shape == (2, 128, 256)
    assert [name for name, _ in network.named_parameters()][:2] == ["positions", "tokens.weight"]


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("gpt")])
def test_logits_depend_on_tokens_before_and_on_their_order_but_not_on_later_ones(name: str) -> None:
    network, x = made(name), tokens()
    logits = network(x)
    later = torch.cat([x[:, :9], x[:, 9:].flip(1)], 1)
    torch.testing.assert_close(network(later)[:, :9], logits[:, :9])
    torch.testing.assert_close(network(x[:, :9]), logits[:, :9])
    earlier = x[:, [1, 0, *range(2, CONTEXT)]]
    assert ((network(earlier) - logits)[:, -1].abs().amax(-1) > 1e-3).all()


def test_rotary_scores_depend_on_distances_only() -> None:
    q, k = (torch.randn(1, 8, generator=generator(i)).double().expand(12, 8) for i in (1, 2))
    scores = rotated(q) @ rotated(k).T  # of the same two vectors at all pairs of positions
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])
    assert scores[0].std() > 0.1
    torch.testing.assert_close(rotated(q).norm(dim=-1), q.norm(dim=-1))


def test_a_block_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mine = blocks(8, 1, 2, 3).double()
    reference = nn.TransformerEncoderLayer(8, 2, 24, 0.0, F.gelu, batch_first=True, norm_first=True).double()
    attention, (up, _, down) = mine[0].attention, mine[0].mlp
    state = {f"norm{i}.{n}": t for i in (1, 2) for n, t in mine[0].get_submodule(f"norm{i}").state_dict().items()}
    state |= {f"linear{i}.{n}": t for i, layer in ((1, up), (2, down)) for n, t in layer.state_dict().items()}
    state["self_attn.in_proj_weight"] = torch.cat([f.weight for f in (attention.query, attention.key, attention.value)])
    state["self_attn.in_proj_bias"] = torch.zeros(24).double()
    state |= {f"self_attn.out_proj.{n}": t for n, t in attention.output.state_dict().items()}
    reference.load_state_dict(state)
    x = torch.randn(2, 5, 8).double()
    torch.testing.assert_close(mine(x), mine[1](reference(x)))


def test_a_tied_head_is_the_embedding() -> None:
    tied, untied = tiny_gpt(), tiny_gpt(tied=False)
    assert tied.head.weight is tied.tokens.weight
    assert {n for n, _ in untied.named_parameters()} - {n for n, _ in tied.named_parameters()} == {"head.weight"}


def test_layers_that_write_to_the_stream_start_smaller() -> None:
    torch.manual_seed(0)
    layer = gpt(256, 8, width=128, depth=2).blocks[0]
    assert layer.attention.value.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.down.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not layer.mlp.up.bias.any() and (layer.norm1.weight == 1).all()


@pytest.mark.parametrize("name", ["vit", "vit, class token"])
@pytest.mark.parametrize("channels, height, width", [(3, 16, 16), (1, 28, 28), (4, 4, 64)])
def test_a_vit_takes_images_of_any_size_that_is_a_multiple_of_its_patch(
    name: str, channels: int, height: int, width: int
) -> None:
    pooling = {"pooling": "class_token"} if "token" in name else {}
    logits = vit(5, channels, width=8, depth=1, heads=2, **pooling)(torch.rand(2, channels, height, width))
    assert logits.shape == (2, 5) and logits.isfinite().all()


@pytest.mark.parametrize("name", ["vit", "vit, class token"])
def test_a_vit_knows_the_places_of_patches(name: str) -> None:
    network, images = made(name), example(name)
    for transposed in (images.roll(4, 2), images.roll(4, 3)):
        assert ((network(transposed) - network(images)).abs().amax(1) > 1e-3).all()


REFUSED = {
    "tokens as images": (lambda: tiny_gpt()(torch.rand(2, 3, 8, 8)), r"tokens are torch.float32 of shape \(2, 3, 8, 8"),
    "too many tokens": (lambda: tiny_gpt()(tokens(2, 17)), r"of shape \(2, 17\); whole numbers .* t at most 16, the"),
    "tokens as bytes": (lambda: tiny_gpt()(tokens().byte()), "tokens are torch.uint8 of shape"),
    "a ragged side": (lambda: tiny_vit()(torch.rand(2, 3, 8, 9)), r"multiples of 4 pixels, `patch`.*\(2, 3, 8, 9\)$"),
    "a long side": (lambda: tiny_vit(grid=2)(torch.rand(2, 3, 12, 8)), "at most 2 times as long, `grid`; found images"),
    "heads": (lambda: tiny_gpt(heads=3), "heads: found 3 for width 8; the width must be a multiple of the heads$"),
    "odd heads": (
        lambda: tiny_gpt(heads=8, positions="rotary"),
        "heads: found 8 for width 8, so 1 channels in each; rotary positions turn pairs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act()


# their symmetry


def expected_groups(name: str) -> dict[str, int]:
    """The free groups with `attention`: the stream; heads, channels within heads and units of each block."""
    groups = {"tokens#2" if name.startswith("gpt") else "patches": 8}
    for i in range(2):
        layer = f"blocks.{i}"
        if "rotary" in name:  # which turns pairs of channels of queries and keys, each at a speed of its own
            groups |= {f"{layer}.attention.query": 2}
        else:
            groups |= {f"{layer}.attention.query:blocks": 2, f"{layer}.attention.query:within": 4}
        groups |= {f"{layer}.attention.value": 4, f"{layer}.mlp.up": 16}
    return groups


@pytest.mark.parametrize("name", MAKERS)
def test_stream_heads_channels_within_heads_and_units_are_free(name: str) -> None:
    symmetry = trace(made(name), example(name), attention=True)
    expected = expected_groups(name)
    assert {group: symmetry.spec.sizes[group] for group in symmetry.spec.free} == expected
    without = trace(made(name), example(name)).spec
    assert {*without.free} == {group for group in expected if "attention" not in group}
    assert symmetry.taps.keys() == expected.keys()
    assert not symmetry.unreached


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("attention", [False, True])
def test_random_permutations_are_certified(name: str, attention: bool) -> None:
    symmetry = trace(made(name), example(name), attention=attention)
    facts = certify_random(symmetry, example(name))
    assert facts["certified"] and facts["max_error"] < 1e-11
    assert facts["batch_sizes"] == [3, 1] and facts["moved"] > 0.5


def test_most_numbers_of_a_gpt_can_be_permuted() -> None:
    network = gpt(256, 32, width=32, depth=2, heads=4)
    symmetry = trace(network, tokens(2, 32), attention=True)
    weights = dict(network.named_parameters())
    assert permutable_fraction(symmetry.spec, weights) > 0.99


class OfPixels(nn.Module):
    """A language model that reads the pixels of an image as its tokens, so that alignment on images can run it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        return self.inner((255 * pixels).round().long().flatten(1))


@pytest.mark.parametrize("name", MAKERS)
def test_a_planted_permutation_is_found_by_activations(name: str) -> None:
    network = made(name)
    images = pictures(60, side=4, channels=1) if name.startswith("gpt") else pictures(60, side=8)
    model = unnormalised(OfPixels(network) if name.startswith("gpt") else network, images.pixels.shape[1])
    symmetry: Trace = trace(model.network, model.normalise(as_float(images.pixels[:2]).double()), attention=True)
    target = {n: t.detach() for n, t in model.network.named_parameters()}
    planted = permutations.random(symmetry.spec, generator(3))
    problem = align.Problem(model, symmetry, target, permute(symmetry.spec, planted, target), images)
    alignment = correlation(problem)
    assert len(alignment) == len(expected_groups(name))
    for group, index in inverse(planted).items():
        assert torch.equal(alignment[group], index), group
    align.certify(problem, alignment)


def test_the_plug_ins_are_built_from_an_entry() -> None:
    model = small("vit")
    assert model(dict(model.network.state_dict()), as_float(pictures(side=8).pixels).double()).shape == (12, 5)
