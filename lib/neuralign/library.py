"""Two calls for two trained networks of any kind: `align` their neurons, then `curve` between them.

With `tracing.trace` these are all that most programs need; what they do is what the rules of the workflow do. They work
on copies: the network that is given keeps its weights and its mode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.align import Problem, certify
from neuralign.batch_norm import Estimate, refresh
from neuralign.curves import straight
from neuralign.images import Images, as_is
from neuralign.networks import Model, State, first_names
from neuralign.path_state import divide
from neuralign.plugins import plugin
from neuralign.refusals import Refused
from neuralign.symmetry import Permutation, permute
from neuralign.tracing import trace
from neuralign.tracing.running import copied
from neuralign.training import Regime, fit
from neuralign.updates import IMAGES

Normalisation = Sequence[float]


@dataclass(frozen=True)
class Aligned:
    state: dict[str, Tensor]  # the source, permuted: the same function
    permutation: Permutation
    certificate: float  # the largest change of its outputs and gradients, in float64, as a share of their size


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
    **options: Any,
) -> Aligned:
    """`source` with its neurons in the order that fits `target`'s; both are states (parameters, buffers) of `network`.

    `method` is a plug-in of `align/`, `options` are its own. `mean`, `std`: how pixels in [0, 1] are normalised, per
    channel. `attention`: whether heads of attentions, and channels within heads, may move too. Raises
    `CertificateError` if the permuted network were another function.
    """
    model = _model(network, images, mean, std)
    pixels, _ = next(images.batches(2))
    found = trace(model.network, model.normalise(pixels), attention=attention)
    problem = Problem(model, found, target, source, images)
    permutation = plugin("align", {"use": method, **options})(problem)
    return Aligned(permute(found.spec, permutation, source), permutation, certify(problem, permutation))


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
    **options: Any,
) -> Callable[[float], dict[str, Tensor]]:
    """A curve of low loss on `images` from `start` to `end`, as a function from t in [0, 1] to a state of `network`.

    `family` is a plug-in of `curves/`, `options` are its own. Batch-norm statistics are re-estimated at every t, also
    at the ends; what becomes of other buffers and of frozen parameters is said in docs/states.md. With `epochs=0` it
    is the straight line. Raises Refused where the network at an end would not be the function of its state, and for
    t between the ends where a tensor that cannot be interpolated differs.
    """
    model = _model(network, images, mean, std)
    pixels, _ = next(images.batches(IMAGES))
    ends = divide(model, (start, end), pixels)
    line = straight(plugin("curves", {"use": family, **options}), *ends.vectors)
    if epochs and len(line.bends):
        ends.demand_between()
        if not ends.layout.trained:
            raise Refused("no parameter of the network trains (requires_grad=False): only epochs=0, the line, is left")
        regime = Regime(epochs, batch_size, lr, momentum, weight_decay, plugin("schedules", {"use": schedule}))
        trained = fit(
            model,
            line.bends[:, : ends.layout.trained],
            lambda points, weights: line.bent(points).at(weights),
            ends.layout,
            ends.stored[0],
            images,
            regime,
            transform=as_is,
            basis=line.basis,
            seed=seed,
        ).trainable
        line = line.bent(trained.detach())
    estimate = Estimate.on(images, as_is, batch_size=batch_size, seed=seed)
    first = first_names(model.network)

    def at(t: float) -> dict[str, Tensor]:
        point = ends.on(line, t)
        state = point | refresh(model, point, ends.statistics, estimate.sample())
        return {name: state.get(first.get(name, name), kept) for name, kept in start.items()}

    return at


def _model(network: nn.Module, images: Images, mean: Normalisation | None, std: Normalisation | None) -> Model:
    channels = images.pixels.shape[1]
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    shift, scale = torch.tensor(mean or [0.0] * channels), torch.tensor(std or [1.0] * channels)
    return Model(copied(network), shift.to(like).view(-1, 1, 1), scale.to(like).view(-1, 1, 1))
