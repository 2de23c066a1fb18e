"""Seconds per forward pass on this machine, and the sizes of networks: a few steps of each, under a minute in all."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure
from neuralign.networks.model import Model, buffers, build, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.setup import device
from neuralign.training import augmentation
from neuralign.training.loop import fit
from neuralign.training.progress import Regime
from neuralign.workflow.planning.costs import STEP, Sizes, training_in

PATIENCE = 1.5  # seconds that a measurement is to take


def name(network: Mapping[str, Any], sizes: Sizes) -> str:
    """The network and the images it sees, as a key."""
    return json.dumps([dict(network), sizes.channels, sizes.side, sizes.classes], sort_keys=True)


def calibrate(cells: Iterable[tuple[Mapping[str, Any], Sizes, list[Any], int, str]]) -> dict[str, Any]:
    """Of each (network entry, sizes, augmentation, batch size, precision): parameters, buffers, activations, and the
    seconds per forward pass in training (`train`, or `train bfloat16`) and in evaluation (`forward`). Where only the
    classes differ, one is timed.
    """
    found: dict[str, Any] = {}
    timed: dict[str, dict[str, float]] = {}
    for network, sizes, augment, batch, precision in cells:
        model = build(network, classes=sizes.classes, channels=sizes.channels).to(device())
        alike = json.dumps([dict(network), sizes.channels, sizes.side])
        known = timed.setdefault(alike, {})
        if training_in(precision) not in known:
            known |= _seconds(model, sizes, augment, batch, precision)
        found[name(network, sizes)] = _counts(model, sizes) | timed[alike]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"device": where, "networks": found}


def _counts(model: Model, sizes: Sizes) -> dict[str, int]:
    outputs: list[int] = []
    leaves = [m for m in model.network.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(lambda _, __, y: outputs.append(y[0].numel())) for m in leaves]
    model.network.eval()
    with torch.no_grad():
        model.network(torch.zeros(1, sizes.channels, sizes.side, sizes.side, device=device()))
    for hook in hooks:
        hook.remove()
    return {
        "parameters": sum(p.numel() for p in parameters(model.network).values()),
        "buffers": sum(b.numel() for b in buffers(model.network).values()),
        "activations": sum(outputs),
    }


def _seconds(model: Model, sizes: Sizes, augment: list[Any], batch: int, precision: str) -> dict[str, float]:
    start = parameters(model.network)
    layout, state = FlatLayout.of(start), start | buffers(model.network)

    def train(shown: Images, size: int) -> None:
        regime = Regime(1, size, 1e-6, 0.9, 0.0, lambda epoch, epochs: 1.0, precision=precision)
        transform, held = augmentation.pipeline(augment), buffers(model.network)
        fit(model, layout.flatten(start), _same, layout, held, shown, regime, transform=transform, seed=0)

    def forward(shown: Images, size: int) -> None:
        measure(model, state, shown, batch_size=size, attack=None, noise=torch.Generator())

    training = _per_image(train, sizes, batch) / STEP
    return {training_in(precision): training, "forward": _per_image(forward, sizes, batch)}


def _same(weights: Tensor, _: Tensor) -> Tensor:
    return weights


def _per_image(run: Callable[[Images, int], None], sizes: Sizes, batch: int) -> float:
    """Seconds per image, after a small batch to warm up that also says how large a batch there is patience for."""
    first = min(batch, 8)
    run(_images(first, sizes), first)
    began = time.perf_counter()
    run(_images(first, sizes), first)
    affordable = int(first * PATIENCE / (time.perf_counter() - began))
    size = max(first, min(batch, affordable // 2))
    shown = _images(size * max(1, min(50, affordable // size)), sizes)
    run(_images(size, sizes), size)  # the first step of a size is slower, on a GPU many times
    began = time.perf_counter()
    run(shown, size)
    return (time.perf_counter() - began) / len(shown)


def _images(count: int, sizes: Sizes) -> Images:
    shape = (count, sizes.channels, sizes.side, sizes.side)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device())
    return Images(pixels, torch.randint(sizes.classes, shape[:1], device=device()))
