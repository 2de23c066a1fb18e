"""Tiny networks of the library transformers, built without a download and called with keyword arguments."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import generator, randomised
from torch import Tensor, nn
from torch.func import functional_call

from neuralign.networks.outputs import output_tensors
from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import prove
from neuralign.symmetry.explain import explain
from neuralign.symmetry.tracing.trace import trace

transformers = pytest.importorskip("transformers")

VOCABULARY = 96
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = {"intermediate_size": 64, "max_position_embeddings": 32}
PIXELS = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, **SIZES))


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **SPECIAL))


def llama() -> nn.Module:
    """Two heads share a key and a value; positions are rotations of the channels within a head."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, **SIZES, **SPECIAL, num_key_value_heads=2))


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**PIXELS, intermediate_size=64))


def padded() -> dict[str, Tensor]:
    """Three sentences, of which two end with padding."""
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[1, 8:], mask[2, 5:] = 0, 0
    return {"input_ids": torch.randint(5, VOCABULARY, (3, 12), generator=generator(0)), "attention_mask": mask}


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, 32, 32, generator=generator(0))}


# the residual stream and the inner units of two layers, without and with heads and channels within heads; and tensors
# whose order within a head is without effect: a bias of the keys adds the same number to all scores of a query
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], list[int], list[int], str]] = {
    "bert": (bert, padded, [32, 32, 64, 64], [4, 4, 8, 8, 8, 8, 32, 32, 64, 64], "key.bias"),
    "gpt2": (gpt2, padded, [32, 64 * 2, 64 * 2], [4, 4, 8, 8, 8, 8, 32, 128, 128], "-"),
    "llama": (llama, padded, [32, 64, 64], [2, 2, 2, 2, 8, 8, 32, 64, 64], "-"),
    "vit": (vit, images, [32, 64, 64], [4, 4, 8, 8, 8, 8, 32, 64, 64], "key.bias"),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]()


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_transformer_called_with_keyword_arguments_is_certified(name: str, attention: bool) -> None:
    _, inputs, plain, with_attention, _ = NETWORKS[name]
    facts = explain(make(name), inputs(), attention=attention)
    assert sorted(facts["groups"].values()) == (with_attention if attention else plain)
    assert facts["certified"] and facts["max_error"] < 1e-12 and facts["precision"] == "float64"
    assert facts["permutable_fraction"] > 0.99 and not facts["unreached"]
    assert (facts["branches"] > 0) == (name != "vit"), "whether the mask has padding"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_planted_mistake_is_refused(name: str) -> None:
    network, inputs = make(name), NETWORKS[name][1]()
    symmetry, state = trace(network, inputs, attention=True), randomised(network)
    permutation = permutations.random(symmetry.spec, generator(2))
    permuted = permutations.permute(symmetry.spec, permutation, state)
    moved = [n for n, t in state.items() if not torch.equal(permuted[n], t) and not n.endswith(NETWORKS[name][4])]
    assert len(moved) > 12
    for left_out in moved[::3]:
        axes = {tensor: dims for tensor, dims in symmetry.spec.axes.items() if tensor != left_out}
        mistaken = replace(symmetry, spec=replace(symmetry.spec, axes=axes))
        assert not prove(mistaken, permutation, state, [inputs]).holds, left_out


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_mask_without_padding_has_the_symmetry_of_one_with_padding(name: str) -> None:
    inputs, network = padded(), make(name)
    full = inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}
    examples = (inputs, full, {"input_ids": inputs["input_ids"]})
    specs = [trace(network, example, attention=True).spec for example in examples]
    sizes = [sorted(spec.sizes[group] for group in spec.free) for spec in specs]
    assert sizes[0] == sizes[1] == sizes[2] and specs[1] == specs[2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permutation_holds_for_other_inputs_in_plain_pytorch(name: str) -> None:
    network, inputs = make(name).double().eval(), NETWORKS[name][1]()
    spec, state = trace(network, inputs, attention=True).spec, randomised(network)
    permuted = permutations.permute(spec, permutations.random(spec, generator(3)), state)
    others: dict[str, Any] = {n: t.flip(0).roll(2, -1) for n, t in inputs.items()}
    before, after = (
        output_tensors(functional_call(network, tensors, (), {n: _double(t) for n, t in others.items()}))
        for tensors in (state, permuted)
    )
    for expected, actual in zip(before, after, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # its norms compute in float32


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def test_dataclasses_of_outputs_and_their_caches() -> None:
    """Logits and hidden states are outputs; the cache of keys and values, which has the order of heads, is none."""
    network, inputs = make("llama").eval(), padded()
    outputs = network(**inputs, output_hidden_states=True, use_cache=True)
    assert outputs.past_key_values is not None
    shapes = [tuple(t.shape) for t in output_tensors(outputs)]
    assert shapes == [(3, 12, VOCABULARY), *[(3, 12, 32)] * 3]
    facts = explain(network, inputs | {"output_hidden_states": True}, attention=True)
    assert facts["certified"] and 32 not in facts["groups"].values() and 64 in facts["groups"].values()
