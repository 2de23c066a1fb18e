"""The arguments of the calls in `api.py`, checked and made into what the library works with.

A `UserError` names the argument, what was found and what is needed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.config.checking.validation import Validation
from neuralign.config.plugins import plugin
from neuralign.config.signatures import check_known, schema
from neuralign.datasets.batches import Examples, Inputs, tensors_of
from neuralign.datasets.images import Images
from neuralign.datasets.images import check as check_images
from neuralign.datasets.loaders import Loader
from neuralign.datasets.on_disk import OnDisk
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.foreign_networks import summary
from neuralign.networks.model import Model, evaluation_outputs, logits
from neuralign.networks.outputs import output_tensors
from neuralign.symmetry.certificate import CertificateError
from neuralign.symmetry.tracing.execution import evaluation_copy
from neuralign.training.objective import LOSS, Metric, Objective
from neuralign.training.progress import Diverged

Batches = Examples | Iterable[Any]
Loss = str | Callable[[Any, Any], Tensor]
Metrics = Mapping[str, Callable[[Any, Any], Tensor]]
Normalisation = Sequence[float]
CPU = torch.device("cpu")


def bound_plugin(
    kind: str, argument: str, use: str, options: dict[str, Any], also: Sequence[str] = ()
) -> Callable[..., Any]:
    """A plug-in with its options bound. Raises UserError if there is no such plug-in or option.

    For the message: `argument` is the name of the argument `use` of the caller, `also` are its other values.
    """
    check_known(argument, kind, use, also)
    return plugin(kind, {"use": use, **validated(schema(kind, use), options, use)})


def merged_options(options: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Options from a mapping and from keywords. Raises UserError if one is given in both."""
    if not isinstance(options, Mapping | None):
        raise UserError(f"options: found {options!r}; a mapping is needed, such as {{'batch_size': 64}}")
    if twice := sorted((options or {}).keys() & more.keys()):
        raise UserError(f"option {twice[0]!r} is given twice, in options and as a keyword")
    return {**(options or {}), **more}


def validated(model: type[BaseModel], values: dict[str, Any], path: str) -> dict[str, Any]:
    """The validated values, with defaults. UserError lists all wrong ones, each as `path` and its name."""
    problems = Validation()
    checked = problems.validate(model, values, path)
    if problems:
        raise UserError("; ".join(problems.messages))
    return checked


def examples_of(network: nn.Module, batches: Batches) -> Examples:
    """The batches as examples on the device of the network; where they are if that has no tensors.

    Raises UserError if the network is on several devices, or if it or the batches are on the meta device.
    """
    names_on_devices: dict[torch.device, str] = {}
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        names_on_devices.setdefault(tensor.device, name)
    if len(names_on_devices) > 1:
        places = " and ".join(f"{name!r} on {device}" for device, name in names_on_devices.items())
        raise UserError(f"network: {places}; all of its tensors must be on one device")
    examples = batches if isinstance(batches, Examples) else Loader(batches, next(iter(names_on_devices), CPU))
    if isinstance(examples, Images) and not isinstance(examples, OnDisk):
        used = {"pixels": examples.pixels.device, "labels": examples.labels.device}
    else:
        inputs, _ = next(examples.batches(1))
        used = {"batches": next(tensors_of(inputs)).device}
    used = {"network": next(iter(names_on_devices), examples.device)} | used
    for argument, device in used.items():
        if device.type == "meta":
            raise UserError(f"{argument}: on the meta device, which keeps no numbers")
    return examples.to(used["network"])


def objective_of(loss: Loss, metrics: Metrics | None) -> Objective:
    """The objective of a loss and metrics. Raises UserError if there is no plug-in of this name."""
    if isinstance(loss, str):
        objective: Objective = bound_plugin("objectives", "loss", loss, {})()
    elif callable(loss):
        objective = Objective(loss, {LOSS: Metric(lambda o, t: _per_example(LOSS, loss(o, t), o))})
    else:
        raise UserError(f"loss: found {loss!r}; a function (outputs, targets) -> scalar, or a name, is needed")
    own = {name: _own_metric(name, function) for name, function in (metrics or {}).items()}
    return replace(objective, metrics={**objective.metrics, **own})


def _own_metric(name: str, function: Callable[[Any, Any], Any]) -> Metric:
    return Metric(lambda outputs, targets: _per_example(name, function(outputs, targets), outputs))


def _per_example(name: str, value: Any, outputs: Any) -> Tensor:
    """A metric's value as one number for each example, (n,); a scalar counts for each of them."""
    count = next((len(t) for t in output_tensors(outputs) if t.dim()), 1)
    numbers = torch.as_tensor(value)
    if numbers.dim() == 0:
        return numbers.expand(count)
    if numbers.shape != (count,):
        raise UserError(
            f"{name}: found a tensor of shape {tuple(numbers.shape)} for {count} examples; a scalar, or one number for "
            "each example, is needed"
        )
    return numbers


def demand_same_kind(examples: Examples, test: Examples) -> None:
    """Raise UserError unless both are images of as many channels, whose pixels are normalised here, or neither."""
    kinds = ["na.Images" if isinstance(each, Images) else "batches of inputs" for each in (examples, test)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"test: found {kinds[1]}, where the examples are {kinds[0]}; the same is needed, for only the pixels of "
            "na.Images are normalised here"
        )
    if isinstance(examples, Images) and isinstance(test, Images):
        for images, prefix in ((examples, ""), (test, "test: ")):
            check_images(images, None, None, prefix)
        channels = [images.pixels.shape[1] for images in (examples, test)]
        if channels[0] != channels[1]:
            raise UserError(f"test: found images of {channels[1]} channels, where the examples have {channels[0]}")


def demand_loss(
    model: Model, examples: Examples, objective: Objective, *, has_classes: bool, argument: str = ""
) -> None:
    """Raise UserError unless the loss of the first examples, in evaluation mode, is a floating-point scalar.

    With `has_classes`, the labels of images are checked too: there must be a logit for each. `argument`: that gave the
    examples, if messages are to name it.
    """
    prefix = f"{argument}: " if argument else ""
    if isinstance(examples, Images):
        check_images(examples, None, None, prefix)  # before any pixel is read
    inputs, targets = next(examples.batches(IMAGES))
    outputs = evaluation_outputs(model.network, model.normalise(inputs))
    if isinstance(examples, Images) and has_classes:
        check_images(examples, None, _count_classes(outputs, len(inputs)), prefix)
    try:
        value = objective.loss(outputs, targets)
    except Exception as error:  # of any kind, by the code of the user
        raise UserError(f"{prefix}loss: on the first batch it raises {summary(error)}") from error
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"{prefix}loss: found {shape}; a floating-point scalar tensor is needed")


@contextmanager
def naming_batches(examples: Examples, argument: str = "batches") -> Iterator[None]:
    """A block in which an error of the user's network, loss or loader becomes a UserError that names the batch.

    `argument`: that gave the examples.
    """
    try:
        yield
    except (UserError, CertificateError, Diverged):
        raise
    except Exception as error:  # of any kind, by the code of the user
        if not isinstance(examples, Loader):
            raise
        raise UserError(f"{argument}: on batch {examples.position.number} {summary(error)}") from error


def demand_networks(networks: Sequence[Any]) -> None:
    """Raise UserError unless all are modules."""
    for network in networks:
        if not isinstance(network, nn.Module):
            raise UserError(
                f"networks: found {type(network).__name__}; a torch.nn.Module with its weights is needed: load a state "
                "by `network.load_state_dict(state)`"
            )


def copy_into_model(
    network: nn.Module, examples: Examples, mean: Normalisation | None, std: Normalisation | None
) -> tuple[Model, Inputs]:
    """A model of a copy of the network, and its normalised inputs for two of the examples.

    Raises UserError if the examples or their normalisation do not fit the network.
    """
    if not isinstance(examples, Images):
        if mean is not None or std is not None:
            raise UserError("mean, std: only images are normalised; normalise other inputs in the loader")
        model = Model(evaluation_copy(network), None, None)
    else:
        check_images(examples, None, None)
        channels = examples.pixels.shape[1]
        dtypes = (t.dtype for t in chain(network.parameters(), network.buffers()) if t.is_floating_point())
        reference = torch.empty((), dtype=next(dtypes, None), device=examples.device)
        shift, scale = _normalisation("mean", mean, channels, 0.0), _normalisation("std", std, channels, 1.0)
        if not (scale > 0).all():
            raise UserError(f"std: found {std}; numbers above 0 are needed, one for each of the {channels} channels")
        if (mean is None) != (std is None):
            raise UserError(f"mean, std: found {mean} and {std}; both are needed, or neither")
        if not (0 <= shift.min() and max(shift.max(), scale.max()) <= 1):
            raise UserError(
                f"mean, std: found {mean} and {std}; pixels are in [0, 1], so at most 1 is needed, and no mean below 0"
            )
        model = Model(evaluation_copy(network), *(t.to(reference).view(-1, 1, 1) for t in (shift, scale)))
    example = model.normalise(next(examples.batches(2))[0])
    evaluation_outputs(model.network, example)  # raises NetworkError if the network does not accept it
    return model, example


def _normalisation(name: str, values: Normalisation | None, channels: int, default: float) -> Tensor:
    """One finite number for each channel, (channels,)."""
    try:
        numbers = torch.tensor([default] * channels if values is None else [float(value) for value in values])
    except (TypeError, ValueError):
        numbers = torch.tensor([])
    if len(numbers) != channels or not numbers.isfinite().all():
        raise UserError(f"{name}: found {values}; numbers are needed, one for each of the {channels} channels")
    return numbers


def _count_classes(outputs: Any, images: int) -> int:
    """The number of classes of a network that returns `outputs` for so many images."""
    head = logits(outputs) if isinstance(outputs, Tensor | tuple) else outputs
    if not isinstance(head, Tensor) or head.dim() != 2 or len(head) != images:
        shape = tuple(head.shape) if isinstance(head, Tensor) else type(head).__name__
        raise UserError(f"the network returns {shape} for {images} images; logits are needed, one for each class")
    return head.shape[1]
