"""The Python interface: `align` the neurons of two trained networks, and train a `curve` of low loss between them.

Both compute what the rules of the workflow compute. They work on copies, so the network keeps its weights and its mode.
States, images and options are checked before anything is computed; `common.errors.UserError`, a ValueError, says what
does not fit. They may be on any devices: everything is computed on the network's device, and there the resulting states
are. The symmetry of a network alone is given by `symmetry.tracing.trace.trace`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from neuralign.alignment.problem import Problem, certify, search
from neuralign.common.errors import UserError
from neuralign.config.checking.validation import Validation
from neuralign.config.options import Count, FractionBelowOne, NonNegative, NonNegativeInt, Positive, Seed
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins, schema
from neuralign.curves.curve import straight_line
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.images import Images, as_is
from neuralign.datasets.images import check as check_images
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State, evaluation_outputs, logits, parameters
from neuralign.networks.states import fitted_state
from neuralign.symmetry.permutations import Permutation, permute
from neuralign.symmetry.tracing.execution import evaluation_copy
from neuralign.symmetry.tracing.trace import trace
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Regime

Normalisation = Sequence[float]


@dataclass(frozen=True)
class Aligned:
    """The result of `align`."""

    state: dict[str, Tensor]  # the permuted source, which computes the same function; names as in argument `source`
    permutation: Permutation  # {group: (n,)}; {} if nothing of the network may be permuted
    certificate: float  # largest relative change of the source's outputs and gradients, in float64
    unreached: tuple[str, ...] = ()  # names of tensors that no forward pass used; the certificate does not cover them


def align(
    network: nn.Module,
    target: State,
    source: State,
    images: Images,
    method: str,
    *,
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    attention: bool = False,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Aligned:
    """`source` with its neurons permuted to match those of `target`; its function stays the same.

    Args:
        network: the architecture of both states.
        target, source: states or state_dicts of `network`.
        images: those on which the method compares activations.
        method: name of a plug-in of `alignment/algorithms/`.
        mean, std: normalisation of pixels in [0, 1], one number for each channel; None: pixels are not normalised.
        attention: whether attention heads, and channels within heads, are permuted too.
        options, more: options of the method, as a mapping or as keywords. An option with the name of an argument of
            `align`, such as `images` of "correlation", has to be in the mapping.

    Raises `UserError` if arguments do not fit together, and `CertificateError` if the permutation changes the network's
    function. The result shares no memory with `target`, `source` or `network`.
    """
    method_with_options = _bind_plugin("alignments", "method", method, _merge(options, more))
    images = _on_device_of(network, images)
    model, example = _copy_into_model(network, images, mean, std)
    (target_state, _), (source_state, names) = (
        fitted_state("target", network, target),
        fitted_state("source", network, source),
    )
    symmetry = trace(model.network, example, attention=attention)
    problem = Problem(model, symmetry, target_state, source_state, images)
    permutation = search(problem, method_with_options)
    permuted = {name: tensor.clone() for name, tensor in permute(symmetry.spec, permutation, source_state).items()}
    error = certify(problem, permutation)
    return Aligned({n: permuted[in_state] for n, in_state in names.items()}, permutation, error, symmetry.unreached)


class _TrainingOptions(BaseModel):
    """The allowed values of the training options of `curve`."""

    epochs: NonNegativeInt
    batch_size: Count
    lr: Positive
    momentum: FractionBelowOne
    weight_decay: NonNegative
    seed: Seed


def curve(
    network: nn.Module,
    start: State,
    end: State,
    images: Images,
    family: str,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "plateau",
    seed: int = 0,
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Callable[[float], dict[str, Tensor]]:
    """A curve of low loss from `start` to `end`, as a function from t in [0, 1] to a state of `network`.

    Batch-norm statistics are re-estimated on `images` at every t, at the ends too; `docs/states.md` says what the other
    tensors are. The tensors of a state have the names that they have in the argument `start`.

    Args:
        network: the architecture of both states.
        start, end: states or state_dicts of `network`. Align them first: the loss along the curve is lower then.
        images: the training images.
        family: name of a plug-in of `curves/families/`.
        epochs: of the training of the bends. With 0, or for a family without bends, the curve is the straight line.
        batch_size, lr, momentum, weight_decay: of the training, by SGD with Nesterov momentum.
        schedule: name of a plug-in of `training/schedules/`, with its default options.
        seed: of everything that is random in the training.
        mean, std, options, more: as in `align`; the options are those of the family.

    Raises `UserError` if arguments do not fit together, or if a tensor that cannot be interpolated differs between the
    ends. If the curve is not trained, the latter is raised only when a state between the ends is asked for.
    """
    values = dict(epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay, seed=seed)
    numbers = _validate(_TrainingOptions, values, "curve")  # text such as "1/50" becomes a number
    epochs, batch_size, seed = numbers["epochs"], numbers["batch_size"], numbers["seed"]
    basis = _bind_plugin("curves", "family", family, _merge(options, more))
    lr_schedule = _bind_plugin("schedules", "schedule", schedule, {})
    images = _on_device_of(network, images)
    model, example = _copy_into_model(network, images, mean, std)
    check_images(images, None, _count_classes(model, example))
    (start, names), (end, _) = fitted_state("start", network, start), fitted_state("end", network, end)
    if not parameters(network):
        raise UserError("the network has no parameters, so there is no path between two states of it")
    pixels, _ = next(images.batches(IMAGES))
    ends = endpoints_of(model, (start, end), pixels)
    path = straight_line(basis, *ends.vectors)
    if epochs and len(path.bends):
        ends.demand_interpolable()
        if not ends.layout.trained_size:
            raise UserError("no parameter of the network requires gradients: only the line, with epochs=0, is possible")
        training = Training(
            model,
            path.bends[:, : ends.layout.trained_size],
            path.sample,
            ends.layout,
            ends.stored[0],
            images,
            Regime(**{n: v for n, v in numbers.items() if n != "seed"}, schedule=lr_schedule),
            transform=as_is,
            basis=path.basis,
            seed=seed,
        )
        path = path.with_bends(fit(training).trainable.detach())
    estimate = Estimate.on(images, as_is, batch_size=batch_size, seed=seed)

    def at(t: float) -> dict[str, Tensor]:
        if not 0 <= t <= 1:
            raise UserError(f"t: found {t}; a number from 0 to 1 is needed")
        point = ends.state_on(path, t)
        state = point | refresh(model, point, ends.statistics, estimate.sample())
        return {name: state[in_state] for name, in_state in names.items()}

    return at


def _bind_plugin(kind: str, argument: str, use: str, options: dict[str, Any]) -> Callable[..., Any]:
    """A plug-in with its options bound. Raises UserError if there is no such plug-in or option.

    `argument` is the name of the argument `use` of the caller, for the message.
    """
    problems = Validation()
    if use not in plugins(kind):
        problems.note_not_allowed(argument, "found", use, plugins(kind))
        raise UserError(problems.messages[0])
    return plugin(kind, {"use": use, **_validate(schema(kind, use), options, use)})


def _merge(options: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Options from a mapping and from keywords. Raises UserError if one is given in both."""
    if not isinstance(options, Mapping | None):
        raise UserError(f"options: found {options!r}; a mapping is needed, such as {{'batch_size': 64}}")
    if twice := sorted((options or {}).keys() & more.keys()):
        raise UserError(f"option {twice[0]!r} is given twice, in options and as a keyword")
    return {**(options or {}), **more}


def _validate(model: type[BaseModel], values: dict[str, Any], path: str) -> dict[str, Any]:
    """The validated values, with defaults. UserError lists all wrong ones, each as `path` and its name."""
    problems = Validation()
    checked = problems.validate(model, values, path)
    if problems:
        raise UserError("; ".join(problems.messages))
    return checked


def _on_device_of(network: nn.Module, images: Images) -> Images:
    """The images on the device of the network; as they are if that has no tensors.

    Raises UserError if the network is on several devices, or if it or the images are on the meta device.
    """
    names_on_devices: dict[torch.device, str] = {}
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        names_on_devices.setdefault(tensor.device, name)
    if len(names_on_devices) > 1:
        places = " and ".join(f"{name!r} on {device}" for device, name in names_on_devices.items())
        raise UserError(f"network: {places}; all of its tensors must be on one device")
    device = next(iter(names_on_devices), images.pixels.device)
    for argument, where in (("network", device), ("pixels", images.pixels.device), ("labels", images.labels.device)):
        if where.type == "meta":
            raise UserError(f"{argument}: on the meta device, which keeps no numbers")
    return images.to(device)


def _copy_into_model(
    network: nn.Module, images: Images, mean: Normalisation | None, std: Normalisation | None
) -> tuple[Model, Tensor]:
    """A model of a copy of the network, and its normalised input for two of the images.

    Raises UserError if the images or their normalisation do not fit the network.
    """
    check_images(images, None, None)
    channels = images.pixels.shape[1]
    dtypes = (t.dtype for t in chain(network.parameters(), network.buffers()) if t.is_floating_point())
    reference = torch.empty((), dtype=next(dtypes, None), device=images.pixels.device)
    shift, scale = _normalisation("mean", mean, channels, 0.0), _normalisation("std", std, channels, 1.0)
    if not (scale > 0).all():
        raise UserError(f"std: found {std}; numbers above 0 are needed, one for each of the {channels} channels")
    model = Model(evaluation_copy(network), shift.to(reference).view(-1, 1, 1), scale.to(reference).view(-1, 1, 1))
    example = model.normalise(next(images.batches(2))[0])
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


def _count_classes(model: Model, example: Tensor) -> int:
    """The number of classes of the network."""
    returned = evaluation_outputs(model.network, example)
    head = logits(returned) if isinstance(returned, Tensor | tuple) else returned
    if not isinstance(head, Tensor) or head.dim() != 2 or len(head) != len(example):
        shape = tuple(head.shape) if isinstance(head, Tensor) else type(head).__name__
        raise UserError(f"the network returns {shape} for {len(example)} images; logits are needed, one for each class")
    return head.shape[1]
