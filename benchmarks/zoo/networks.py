"""The networks of the table, with random weights and small inputs. Nothing is downloaded."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[[int, int], Tensor]  # (number of inputs, seed) -> inputs

# height and width in pixels of torchvision's networks, by the beginning of a name; 64 for all others
SIDES = {"inception": 299, "maxvit": 224, "alexnet": 96, "vit": 64}
TOKENS, LENGTH = 96, 12  # for networks that read text: size of the vocabulary, words in a sentence


@dataclass(frozen=True)
class Sample:
    """A network, and a function that draws inputs for it."""

    network: nn.Module
    draw: Draw


def images(side: int) -> Draw:
    """Random images (n, 3, side, side), normalised."""
    return lambda count, seed: torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def sentences(count: int, seed: int) -> Tensor:
    """Random sentences (n, LENGTH) of tokens; the first few tokens are left out, because they may mean padding."""
    return torch.randint(5, TOKENS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def of_torchvision(name: str) -> Sample:
    """A network of torchvision as initialised."""
    from torchvision import models

    side = next((s for start, s in SIDES.items() if name.startswith(start)), 64)
    options: dict[str, Any] = {}
    if name.startswith("vit"):
        side = 4 * int(name.rpartition("_")[2])
        options["image_size"] = side
    if name.startswith(("googlenet", "inception")):
        options["init_weights"] = True
    return Sample(models.get_model(name, weights=None, **options), images(side))


# small networks of many kinds: (height and width in pixels, whether they are built for that size, further options)
TIMM: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "cait_xxs24_224": (64, True, {"depth": 6}),
    "coatnet_pico_rw_224": (64, True, {}),
    "convnext_atto": (64, False, {}),
    "crossvit_tiny_240": (240, False, {}),
    "cspresnet50": (64, False, {}),
    "deit_tiny_distilled_patch16_224": (64, True, {}),
    "densenet121": (64, False, {}),
    "dla46_c": (64, False, {}),
    "dpn48b": (64, False, {}),
    "edgenext_xx_small": (64, False, {}),
    "efficientformer_l1": (224, False, {}),
    "efficientnet_b0": (64, False, {}),
    "efficientvit_b0": (64, False, {}),
    "ese_vovnet19b_dw": (64, False, {}),
    "eva02_tiny_patch14_224": (56, True, {}),
    "fastvit_t8": (64, False, {}),
    "gernet_s": (64, False, {}),
    "ghostnet_050": (64, False, {}),
    "hrnet_w18_small": (64, False, {}),
    "inception_v3": (96, False, {}),
    "levit_128s": (224, False, {}),
    "maxvit_pico_rw_256": (64, True, {}),
    "mixer_s32_224": (96, True, {}),
    "mobilenetv3_small_050": (64, False, {}),
    "mobilevit_xxs": (64, False, {}),
    "nf_regnet_b0": (64, False, {}),
    "poolformer_s12": (64, False, {}),
    "pvt_v2_b0": (64, False, {}),
    "regnety_002": (64, False, {}),
    "repvgg_a0": (64, False, {}),
    "res2net50_26w_4s": (64, False, {}),
    "resmlp_12_224": (64, True, {}),
    "resnest14d": (64, False, {}),
    "resnetv2_50": (64, False, {}),
    "sequencer2d_s": (64, False, {}),
    "skresnet18": (64, False, {}),
    "swin_tiny_patch4_window7_224": (56, True, {"embed_dim": 48}),
    "tiny_vit_5m_224": (224, False, {}),
    "tresnet_m": (64, False, {}),
    "volo_d1_224": (64, True, {}),
    "xcit_nano_12_p16_224": (64, True, {}),
}


def of_timm(name: str) -> Sample:
    """A network of timm as initialised."""
    side, has_fixed_size, options = TIMM[name]
    sizes = {"img_size": side} if has_fixed_size else {}
    return Sample(import_module("timm").create_model(name, num_classes=10, **sizes, **options), images(side))


TEXT = {"vocab_size": TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = TEXT | {"intermediate_size": 64, "max_position_embeddings": 32}
GROUPED = BERT | {"num_key_value_heads": 2}  # two heads share a key and a value
PIXELS = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# name of the configuration class without "Config", class of the network, whether it reads text, configuration
TRANSFORMERS: dict[str, tuple[str, str, bool, Mapping[str, Any]]] = {
    "albert": ("Albert", "AlbertForSequenceClassification", True, BERT | {"embedding_size": 16}),
    "bert": ("Bert", "BertForSequenceClassification", True, BERT),
    "clip_text": ("CLIPText", "CLIPTextModelWithProjection", True, BERT | {"projection_dim": 16, "eos_token_id": 95}),
    "clip_vision": (
        "CLIPVision",
        "CLIPVisionModelWithProjection",
        False,
        PIXELS | {"intermediate_size": 64, "projection_dim": 16},
    ),
    "convnext": ("ConvNext", "ConvNextForImageClassification", False, {"hidden_sizes": [8, 16, 24, 32]}),
    "deberta_v2": (
        "DebertaV2",
        "DebertaV2ForSequenceClassification",
        True,
        BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "distilbert": (
        "DistilBert",
        "DistilBertForSequenceClassification",
        True,
        {"vocab_size": TOKENS, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    ),
    "electra": ("Electra", "ElectraForSequenceClassification", True, BERT | {"embedding_size": 16}),
    "gpt2": (
        "GPT2",
        "GPT2LMHeadModel",
        True,
        {"vocab_size": TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    ),
    "llama": ("Llama", "LlamaForCausalLM", True, GROUPED),
    "mamba": ("Mamba", "MambaForCausalLM", True, {"vocab_size": TOKENS, "hidden_size": 32, "num_hidden_layers": 2}),
    "mistral": ("Mistral", "MistralForCausalLM", True, GROUPED | {"sliding_window": 4}),
    "opt": ("OPT", "OPTForCausalLM", True, TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", True, GROUPED),
    "roberta": ("Roberta", "RobertaForSequenceClassification", True, BERT),
    "t5_encoder": (
        "T5",
        "T5EncoderModel",
        True,
        {"vocab_size": TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "vit": ("ViT", "ViTForImageClassification", False, PIXELS | {"intermediate_size": 64}),
}


def of_transformers(name: str) -> Sample:
    """A network of transformers with a small configuration, as initialised."""
    transformers = import_module("transformers")
    transformers.logging.set_verbosity_error()
    start, network, text, options = TRANSFORMERS[name]
    configuration = getattr(transformers, f"{start}Config")(**options)
    return Sample(getattr(transformers, network)(configuration), sentences if text else images(32))


LIBRARIES: dict[str, Callable[[str], Sample]] = {
    "torchvision": of_torchvision,
    "timm": of_timm,
    "transformers": of_transformers,
}


def installed() -> dict[str, str]:
    """{library: version} of the installed libraries among `LIBRARIES`."""
    return {library: version(library) for library in LIBRARIES if find_spec(library)}


def names(library: str) -> list[str]:
    """The networks of a library; those of torchvision by their size, small ones first."""
    if library != "torchvision":
        return [*TIMM] if library == "timm" else [*TRANSFORMERS]
    from torchvision import models

    sizes = {n: models.get_model_weights(n).DEFAULT.meta["num_params"] for n in models.list_models(module=models)}
    return sorted(sizes, key=lambda n: sizes[n])


def make(library: str, name: str) -> Sample:
    """A network as initialised from seed 0, and inputs for it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings within the libraries
        return LIBRARIES[library](name)
