"""`import neuralign as na` on small networks of transformers and timm, built without a download, as a user calls it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import generator
from torch import Tensor, nn
from torch.nn import functional as F

import neuralign as na
from neuralign.symmetry.permutations import inverse, random

VOCABULARY = 96
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = TEXT | {"intermediate_size": 64, "max_position_embeddings": 32}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}


def of_transformers(network: str, config: str, **options: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    return getattr(library, network)(getattr(library, config)(**options))


def of_timm(name: str, **options: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=2, **options)


def tokens(seed: int, count: int = 12, length: int = 9) -> Tensor:
    return torch.randint(5, VOCABULARY, (count, length), generator=generator(seed))


def next_words() -> list[Any]:
    """Batches whose labels the network compares itself with."""
    return [({"input_ids": tokens(seed), "labels": tokens(seed)}, None) for seed in range(3)]


def sentences() -> list[Any]:
    """Batches of tokens and a mask, with the class of each sentence."""
    mask = torch.ones(12, 9, dtype=torch.int64)
    return [({"input_ids": t, "attention_mask": mask}, t[:, 0] % 2) for t in map(tokens, range(3))]


def images() -> list[Any]:
    return [(torch.randn(12, 3, 32, 32, generator=generator(s)), torch.arange(12) % 2) for s in range(3)]


def network_loss(outputs: Any, targets: Any) -> Tensor:
    """The loss that a network of transformers computes for `labels`."""
    return outputs.loss


def classification_loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.logits, targets)


GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32} | SPECIAL
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
PIXELS = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]], Any]] = {
    "bert": (
        lambda: of_transformers("BertForSequenceClassification", "BertConfig", **BERT),
        sentences,
        classification_loss,
    ),
    "distilbert": (
        lambda: of_transformers(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            vocab_size=VOCABULARY,
            dim=32,
            hidden_dim=64,
            n_layers=2,
            n_heads=4,
        ),
        sentences,
        "cross_entropy",
    ),
    "gpt2": (lambda: of_transformers("GPT2LMHeadModel", "GPT2Config", **GPT2), next_words, network_loss),
    "llama": (
        lambda: of_transformers("LlamaForCausalLM", "LlamaConfig", **BERT, **SPECIAL, num_key_value_heads=2),
        next_words,
        network_loss,
    ),
    "t5": (
        lambda: of_transformers("T5ForConditionalGeneration", "T5Config", **T5, decoder_start_token_id=0),
        next_words,
        network_loss,
    ),
    "vit": (
        lambda: of_transformers("ViTForImageClassification", "ViTConfig", **PIXELS, intermediate_size=64),
        images,
        "cross_entropy",
    ),
    "timm convnext": (lambda: of_timm("test_convnext"), images, "cross_entropy"),
    "timm efficientnet": (lambda: of_timm("test_efficientnet"), images, "cross_entropy"),
    "timm resnetv2": (
        lambda: of_timm("resnetv2_50", layers=(1, 1, 1, 1), channels=(16, 32, 48, 64), stem_chs=8),
        images,
        "cross_entropy",
    ),
    "timm vit": (lambda: of_timm("test_vit", img_size=32), images, "cross_entropy"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_is_found_and_the_networks_are_connected(name: str) -> None:
    make, batches_of, loss = NETWORKS[name]
    torch.manual_seed(0)
    network, batches = make(), batches_of()
    with torch.no_grad():
        for parameter in network.parameters():  # biases of zero, for instance, would be the same for all units
            parameter.add_(0.05 * torch.randn(parameter.shape))
    state = {n: t.clone() for n, t in network.state_dict().items()}
    symmetry = na.trace(network, batches[0][0])
    planted = random(symmetry.spec, generator(1))
    aligned = na.align(network, state, na.permute(symmetry, planted, state), batches)
    expected = inverse(planted)
    right = sum(int((aligned.permutation[g] == index).sum()) for g, index in expected.items())
    assert right >= 0.8 * sum(map(len, expected.values()))  # units that fire on no input cannot be told apart
    assert aligned.certificate < 1e-9
    torch.manual_seed(1)
    path = na.connect(network, state, make().state_dict(), batches, loss=loss, epochs=1)
    measured = na.evaluate(network, path(0.5), batches, loss=loss)
    assert 0 < measured["loss"] < 100
    assert all(torch.equal(tensor, state[n]) for n, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = NETWORKS["gpt2"][0]().to(dtype)
    state, batches = network.state_dict(), next_words()
    symmetry = na.trace(network, batches[0][0])
    aligned = na.align(network, state, na.permute(symmetry, random(symmetry.spec, generator(1)), state), batches)
    assert aligned.certificate < 1e-9 and all(t.dtype == state[n].dtype for n, t in aligned.state.items())
    assert na.evaluate(network, aligned.state, batches, loss=network_loss)["loss"] < 6
