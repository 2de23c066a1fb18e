"""Two calls for two trained networks of any kind: `align` their neurons, then `curve` between them.

With `tracing.trace` these are all that most programs need; what they do is what the rules of the workflow do. They work
on copies: the network that is given keeps its weights and its mode. Whatever does not fit, a state, images or an
option, is refused before anything is computed, with a message that names it (`refusals.Refused`, a ValueError).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from neuralign.alignment.problem import Problem, certify, search
from neuralign.common.errors import Refused
from neuralign.config.checking.validation import Validation
from neuralign.config.options import Count, NonNegative, Positive, Proper, Seed, Whole
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins, schema
from neuralign.curves.curve import straight
from neuralign.curves.endpoints import divide
from neuralign.datasets import images as image_checks
from neuralign.datasets.images import Images, as_is
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State, logits, outputs, parameters
from neuralign.networks.states import fitted
from neuralign.symmetry.permutations import Permutation, permute
from neuralign.symmetry.tracing.execution import evaluation_copy
from neuralign.symmetry.tracing.trace import trace
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.loop import fit
from neuralign.training.progress import Regime

Normalisation = Sequence[float]


@dataclass(frozen=True)
class Aligned:
    state: dict[str, Tensor]  # the source, permuted, by its own names: the same function
    permutation: Permutation  # {} for a network of which nothing may be permuted
    certificate: float  # the largest change of its outputs and gradients, in float64, as a share of their size
    unreached: tuple[str, ...] = ()  # tensors that no run used: nothing is certified of them, what may feed them stays


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
    """`source` with its neurons in the order that fits `target`'s; both are states (parameters, buffers) of `network`.

    Args:
        images: what the method looks at.
        method: a plug-in of `align/`.
        mean, std: how pixels in [0, 1] are normalised, per channel.
        attention: whether heads of attentions, and channels within heads, may move too.
        options, more: the method's own options, as a mapping or as keywords. An option that has the name of an argument
            of `align`, such as `images` of "correlation", how many it looks at, can only be in the mapping.

    Raises `Refused` for what does not fit together, and `CertificateError` if the permuted network were another
    function. The tensors of the result share no memory with those of `target`, `source` and `network`.
    """
    searched = _plugin("alignments", "method", method, _together(options, more))
    model, example = _model(network, images, mean, std)
    (first, _), (second, names) = fitted("target", network, target), fitted("source", network, source)
    found = trace(model.network, example, attention=attention)
    problem = Problem(model, found, first, second, images)
    permutation = search(problem, searched)
    moved = {name: tensor.clone() for name, tensor in permute(found.spec, permutation, second).items()}
    error = certify(problem, permutation)
    return Aligned({name: moved[own] for name, own in names.items()}, permutation, error, found.unreached)


class _Training(BaseModel):
    """What the numbers of `curve` may be."""

    epochs: Whole
    batch_size: Count
    lr: Positive
    momentum: Proper
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
    """A curve of low loss on `images` from `start` to `end`, as a function from t in [0, 1] to a state of `network`.

    `family` is a plug-in of `curves/`; `options` and `more` are its own options, as in `align`. Batch-norm statistics
    are re-estimated at every t, also at the ends; what becomes of other buffers and of frozen parameters is said in
    docs/states.md. With `epochs=0` or without bends it is the straight line. The states have the names of `start`.
    Raises `Refused` for what does not fit together, where the network at an end would not be the function of its state,
    and for t between the ends where a tensor that cannot be interpolated differs.
    """
    numbers = dict(epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay, seed=seed)
    _checked(_Training, numbers, "curve")
    shaped = _plugin("curves", "family", family, _together(options, more))
    paced = _plugin("schedules", "schedule", schedule, {})
    model, example = _model(network, images, mean, std)
    image_checks.check(images, None, _classes(model, example))
    (start, given), (end, _) = fitted("start", network, start), fitted("end", network, end)
    if not parameters(network):
        raise Refused("the network has no parameters, so there is nothing between two of it")
    pixels, _ = next(images.batches(IMAGES))
    ends = divide(model, (start, end), pixels)
    line = straight(shaped, *ends.vectors)
    if epochs and len(line.bends):
        ends.demand_between()
        if not ends.layout.trained:
            raise Refused("no parameter of the network trains (requires_grad=False): only epochs=0, the line, is left")
        trained = fit(
            model,
            line.bends[:, : ends.layout.trained],
            line.sample,
            ends.layout,
            ends.stored[0],
            images,
            Regime(epochs, batch_size, lr, momentum, weight_decay, paced),
            transform=as_is,
            basis=line.basis,
            seed=seed,
        ).trainable
        line = line.bent(trained.detach())
    estimate = Estimate.on(images, as_is, batch_size=batch_size, seed=seed)

    def at(t: float) -> dict[str, Tensor]:
        if not 0 <= t <= 1:
            raise Refused(f"t: found {t}; a number from 0 to 1 is wanted")
        point = ends.on(line, t)
        state = point | refresh(model, point, ends.statistics, estimate.sample())
        return {name: state[own] for name, own in given.items()}

    return at


def _plugin(home: str, what: str, use: str, options: dict[str, Any]) -> Callable[..., Any]:
    """The function of a plug-in with its options, refused if there is no such plug-in or option."""
    problems = Validation()
    if use not in plugins(home):
        problems.refuse(what, "found", use, plugins(home))
        raise Refused(problems.messages[0])
    return plugin(home, {"use": use, **_checked(schema(home, use), options, use)})


def _together(options: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Options given as a mapping and as keywords; refused where one is given in both."""
    if not isinstance(options, Mapping | None):
        raise Refused(f"options: found {options!r}; a mapping is wanted, such as {{'batch_size': 64}}")
    if twice := sorted((options or {}).keys() & more.keys()):
        raise Refused(f"option {twice[0]!r} is given twice, in options and as a keyword")
    return {**(options or {}), **more}


def _checked(model: type[BaseModel], given: dict[str, Any], path: str) -> dict[str, Any]:
    problems = Validation()
    found = problems.model(model, given, path)
    if problems:
        raise Refused("; ".join(problems.messages))
    return found


def _model(
    network: nn.Module, images: Images, mean: Normalisation | None, std: Normalisation | None
) -> tuple[Model, Tensor]:
    """A copy of the network that takes pixels, and what two of the images are as its input."""
    image_checks.check(images, None, None)
    channels = images.pixels.shape[1]
    held = chain(network.parameters(), network.buffers())
    like = next((t for t in held if t.is_floating_point()), torch.zeros(()))
    if images.pixels.device != like.device:
        raise Refused(f"images are on {images.pixels.device}, the network is on {like.device}")
    shift, scale = _normalisation("mean", mean, channels, 0.0), _normalisation("std", std, channels, 1.0)
    if not (scale > 0).all():
        raise Refused(f"std: found {std}; numbers above 0 are wanted, one for each of the {channels} channels")
    model = Model(evaluation_copy(network), shift.to(like).view(-1, 1, 1), scale.to(like).view(-1, 1, 1))
    example = model.normalise(next(images.batches(2))[0])
    outputs(model.network, example)  # refuses what it does not take
    return model, example


def _normalisation(name: str, given: Normalisation | None, channels: int, default: float) -> Tensor:
    try:
        found = torch.tensor([default] * channels if given is None else [float(number) for number in given])
    except (TypeError, ValueError):
        found = torch.tensor([])
    if len(found) != channels or not found.isfinite().all():
        raise Refused(f"{name}: found {given}; numbers are wanted, one for each of the {channels} channels")
    return found


def _classes(model: Model, example: Tensor) -> int:
    """How many classes the network has."""
    found = outputs(model.network, example)
    head = logits(found) if isinstance(found, Tensor | tuple) else found
    if not isinstance(head, Tensor) or head.dim() != 2 or len(head) != len(example):
        shape = tuple(head.shape) if isinstance(head, Tensor) else type(head).__name__
        raise Refused(f"the network gives {shape} on {len(example)} images; wanted are logits, one for each class")
    return head.shape[1]
