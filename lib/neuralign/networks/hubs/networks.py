"""Networks of hubs, and how the images that they were trained on were prepared."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from neuralign.common.errors import UserError
from neuralign.config.checking.hub_names import check_network, parse
from neuralign.networks.hubs.files import fetch, repository_file, timm_config

__all__ = ["Preparation", "factory", "fetch", "preparation"]

RESAMPLING = {2: "bilinear", 3: "bicubic"}  # numbers of PIL, in records of Hugging Face


@dataclass(frozen=True)
class Preparation:
    """How images become inputs of a network; None where the hub does not say."""

    mean: tuple[float, ...] | None = None  # of pixels in [0, 1], one number for each channel
    std: tuple[float, ...] | None = None
    side: int | None = None  # height and width in pixels
    interpolation: str | None = None  # "bilinear", "bicubic"


def factory(use: str) -> Callable[..., nn.Module]:
    """A callable that builds the network of a hub's name, with random weights; its keywords are the hub's."""
    check_network(use)
    parts = parse(use)
    if parts.hub == "torchvision":
        from torchvision.models import get_model_builder

        builder: Callable[..., nn.Module] = get_model_builder(parts.name.removesuffix("_Weights"))
        return builder
    if parts.hub == "timm":
        return partial(_build_with_timm, parts.name, {})
    config = _repository_json(use, "config.json") or {}
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UserError(
            f"{use}: its config.json names no `architecture` of timm, so the network cannot be built from it; name the "
            "network as package.module:name, and the repository as its checkpoint"
        )
    arguments = config.get("model_args") or {}
    _check_record(use, architecture, arguments)
    return partial(_build_with_timm, architecture, arguments, default=config.get("num_classes"))


def _check_record(use: str, architecture: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError if a repository's record is of more than a network: of other weights, files or repositories."""
    import timm

    try:
        check_network(f"timm/{architecture}")
    except UserError as error:
        raise UserError(f"{use}: its config.json: {error}") from error
    if taken := sorted(inspect.signature(timm.create_model).parameters.keys() & arguments.keys()):
        raise UserError(f"{use}: its config.json has {', '.join(taken)} in `model_args`, no argument of a network")


def _build_with_timm(
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    default: int | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    **options: Any,
) -> nn.Module:
    """The network; what is None is as timm has it, or of classes as `default` says."""
    import timm

    counts = {"num_classes": default if num_classes is None else num_classes, "in_chans": in_chans}
    known = {name: number for name, number in counts.items() if number is not None}
    network: nn.Module = timm.create_model(architecture, pretrained=False, **{**arguments, **known, **options})
    return network


@cache
def preparation(name: str) -> Preparation:
    """How the images were prepared for the network or checkpoint of a hub's name."""
    parts = parse(name)
    if parts.hub == "torchvision":
        from torchvision.models import get_weight

        transforms = get_weight(parts.with_tag).transforms()
        side = getattr(transforms, "crop_size", [None])[0]
        interpolation = getattr(getattr(transforms, "interpolation", None), "value", None)
        return _prepared(getattr(transforms, "mean", None), getattr(transforms, "std", None), side, interpolation)
    if parts.hub == "timm":
        config = timm_config(name).to_dict()
    else:
        config = _repository_json(name, "config.json") or {}
        config = config.get("pretrained_cfg") or config
        if "mean" not in config:
            config = _of_transformers(_repository_json(name, "preprocessor_config.json") or {})
    size = config.get("input_size") or [None]
    side = size[-1] if len(set(size[-2:])) == 1 else None
    return _prepared(config.get("mean"), config.get("std"), side, config.get("interpolation"))


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a preprocessor of transformers by the keys of timm."""
    size = config.get("crop_size") or config.get("size")
    if isinstance(size, Mapping):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    is_normalised = config.get("do_normalize", True)
    return {
        "mean": config.get("image_mean") if is_normalised else [0.0] * 3,
        "std": config.get("image_std") if is_normalised else [1.0] * 3,
        "input_size": [size, size] if isinstance(size, int) else size,
        "interpolation": RESAMPLING.get(config.get("resample", 0)),
    }


def _prepared(mean: Any, std: Any, side: Any, interpolation: Any) -> Preparation:
    is_known = mean is not None and std is not None
    return Preparation(
        tuple(map(float, mean)) if is_known else None,
        tuple(map(float, std)) if is_known else None,
        int(side) if side else None,
        interpolation if interpolation in RESAMPLING.values() else None,
    )


def _repository_json(name: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a repository; None if that has none of the name. Raises UserError if it holds no mapping."""
    found = repository_file(name, parse(name), (file,))
    if found is None:
        return None
    try:
        content = json.loads(found[1].read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{name}: its {file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: its {file} holds a {type(content).__name__}; a mapping is needed")
    return content
