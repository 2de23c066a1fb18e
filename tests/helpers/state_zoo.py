"""Small networks with every kind of buffer and frozen parameter, and how a path treats these tensors.

`KINDS` maps names to a `Kind`; `trained` returns states of it, trained in plain PyTorch. All networks take images
(n, 3, 8, 8) and return logits of 5 classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

WIDTH = 6
KEPT, INTERPOLATED, AVERAGED, COUNTED, FOLLOWING = "kept", "interpolated", "averaged", "counted", "following"


@dataclass(frozen=True)
class Kind:
    """A network with tensors that are not trained parameters, and the expected treatment of these."""

    build: Callable[[], nn.Module]
    rest: dict[str, str] = field(default_factory=dict)  # untrained tensor -> its treatment between the ends
    refused: str | None = None  # the expected error for t strictly between the ends


class Net(nn.Module):
    """Convolution, layer, ReLU, convolution, mean, head."""

    def __init__(self, layer: nn.Module, second: nn.Module | None = None):
        super().__init__()
        self.one, self.layer = nn.Conv2d(3, WIDTH, 3, padding=1), layer
        self.two = second or nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.layer(self.one(x))))).mean((2, 3)))


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation and dropout as submodules."""

    def __init__(self, units: int, momentum: float | None = 0.1):
        super().__init__(units, momentum=momentum)
        self.act = nn.Sequential(nn.Dropout(0.5), nn.Hardtanh(-2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Pooled(Net):
    """Such a norm of a mean over positions, which is linear in the image: negatives have the same variance there."""

    def __init__(self) -> None:
        super().__init__(NormAct(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(self.layer(self.one(x).mean((2, 3), keepdim=True)))).mean((2, 3)))


class NormWithNorm(nn.Module):
    """A norm with running statistics of its own and another norm as a submodule."""

    def __init__(self, units: int):
        super().__init__()
        self.inner = nn.BatchNorm2d(units)
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.inner(x).abs(), self.running_mean, self.running_var, training=self.training)


class FrozenNorm(nn.Module):
    """A batch norm that consists of buffers only, as in the backbones of detectors."""

    def __init__(self, units: int):
        super().__init__()
        for name, center in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, center + 0.5 * torch.rand(units))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class FrozenByMode(Net):
    """A network whose batch norm stays in evaluation mode when it trains."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(WIDTH))
        self.layer.running_mean.uniform_(-1, 1)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.layer.eval()
        return self


class Shared(Net):
    """A batch norm that is called twice in a pass."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layer(self.one(x)))
        return self.head(F.relu(self.layer(3 * self.two(x) + 1)).mean((2, 3)))


class OwnNorm(nn.Module):
    """A user's norm: a moving average with a fixed rate, which is replaced by assignment in every pass."""

    def __init__(self, units: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(units))
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
            self.running_var = 0.9 * self.running_var + 0.1 * var.detach()
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * self.gain.view(shape)


class OwnRootMeanSquare(nn.Module):
    """A user's norm with one statistic, of an unusual name, that is updated in place with a `momentum`."""

    def __init__(self, units: int):
        super().__init__()
        self.momentum = 0.2
        self.register_buffer("scale", torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        size = self.scale
        if self.training:
            size = x.square().mean((0, 2, 3))
            self.scale.mul_(1 - self.momentum).add_(size.detach(), alpha=self.momentum)
        return x / (size.view(1, -1, 1, 1) + 1e-5).sqrt()


class Renormalised(nn.Module):
    """A norm that uses its running mean in training mode too, so it is not an average over batches."""

    def __init__(self, units: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_mean.add_((x - self.running_mean.view(1, -1, 1, 1)).mean((0, 2, 3)).detach().tanh(), alpha=0.1)
        return x - self.running_mean.view(1, -1, 1, 1)


class ReadByParent(Net):
    """A network that reads the statistics of a norm whose own forward it never calls."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        norm = self.layer
        x = F.batch_norm(self.one(x), norm.running_mean, norm.running_var, training=self.training)
        return self.head(F.relu(self.two(F.relu(x))).mean((2, 3)))


class Masked(nn.Module):
    """A layer with a random mask of units, drawn when the layer is constructed."""

    def __init__(self, units: int, kind: torch.dtype, drawn: bool):
        super().__init__()
        mask = torch.rand(units) < 0.6 if drawn else torch.arange(units) > 0
        self.register_buffer("mask", mask.to(kind))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.view(1, -1, 1, 1)


class Counting(nn.Module):
    """A layer with an integer counter of training passes and a buffer of position indices."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("order", torch.arange(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return x[:, self.order]


class Fourier(nn.Module):
    """A layer with complex weights on the frequencies of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = nn.Parameter(torch.randn(WIDTH, WIDTH, 8, 5, dtype=torch.complex64) / WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(x), self.spectral)
        return x + torch.fft.irfft2(waves, s=x.shape[2:])


class Turning(nn.Module):
    """A complex constant that turns the frequencies of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.randn(WIDTH, 1, 1, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.turn, s=x.shape[2:])


class Checkpointed(Net):
    """Gradient checkpointing of a part with batch norm."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        def part(x: Tensor) -> Tensor:
            return F.relu(self.layer(self.one(x)))

        x = checkpoint(part, x, use_reentrant=False) if self.training and torch.is_grad_enabled() else part(x)
        return self.head(F.relu(self.two(x)).mean((2, 3)))


class Unreached(Net):
    """A network with an auxiliary head in training mode and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(WIDTH))
        self.auxiliary = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.Flatten(), nn.Linear(WIDTH * 64, 5))
        self.spare = nn.Conv2d(WIDTH, 5, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.layer(self.one(x)))
        out = self.head(F.relu(self.two(x)).mean((2, 3)))
        return (out, self.auxiliary(x)) if self.training else out


class Tied(Net):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.two.weight = self.layer.weight


class Precise(nn.Module):
    """A constant in float64 in a network of float32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.rand(WIDTH, 1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.float()


class Cached(nn.Module):
    """A layer that caches what it computed from its weight, until it is set to training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.kept = nn.Parameter(torch.randn(WIDTH)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * self.gain.exp().view(1, -1, 1, 1)
        if str(x.device) not in self.kept:
            self.kept[str(x.device)] = self.gain.exp().view(1, -1, 1, 1)
        return x * self.kept[str(x.device)]


class Remembering(nn.Module):
    """A layer that caches in an object, with a flag, and never resets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.known, self.memory = nn.Parameter(torch.randn(WIDTH)), False, SimpleNamespace(parts=[])

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * self.gain.exp().view(1, -1, 1, 1)
        if not self.known:
            self.memory.parts.append(self.gain.exp().view(1, -1, 1, 1))
            self.known = True
        return x * self.memory.parts[0]


def frozen_batch_norm() -> nn.Module:
    """A network whose norm consists of buffers only."""
    return Net(FrozenNorm(WIDTH))


def masked() -> nn.Module:
    """A network with a mask that differs from network to network."""
    return Net(Masked(WIDTH, torch.bool, drawn=True))


def frozen_backbone() -> nn.Module:
    """A network whose first layer is frozen at its random initialisation."""
    network = Net(nn.Identity())
    network.one.requires_grad_(False)
    return network


def same_backbone() -> nn.Module:
    """The same, with the same first layer in all networks."""
    network = frozen_backbone()
    drawn = torch.rand(network.one.weight.shape, generator=torch.Generator().manual_seed(0))
    network.one.weight.data.copy_(drawn - 0.5)
    network.one.bias.data.zero_()
    return network


def only_biases() -> nn.Module:
    """A network of which only the biases are trained."""
    network = Net(nn.Identity())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return network


def frozen_gain() -> nn.Module:
    """A network with a batch norm whose weight and bias are frozen."""
    network = Net(nn.BatchNorm2d(WIDTH))
    network.layer.requires_grad_(False)
    return network


def pruned(drawn: bool) -> Callable[[], nn.Module]:
    """A network whose second convolution has a mask, at random or the same in every network."""

    def build() -> nn.Module:
        network = Net(nn.Identity())
        if drawn:
            prune.random_unstructured(network.two, "weight", 0.5)
        else:
            prune.custom_from_mask(network.two, "weight", torch.arange(WIDTH**2 * 9).view(WIDTH, WIDTH, 3, 3) % 3 > 0)
        return network

    return build


def spectral(how: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """A network whose second convolution is divided by its largest singular value."""
    return lambda: Net(nn.Identity(), how(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)))


def _plain(name: str) -> dict[str, str]:
    return {f"{name}.running_mean": AVERAGED, f"{name}.running_var": AVERAGED, f"{name}.num_batches_tracked": COUNTED}


FROZEN = dict.fromkeys((f"layer.{n}" for n in ("weight", "bias", "running_mean", "running_var")), INTERPOLATED)
BACKBONE = ("one.weight", "one.bias")
OWN = {"layer.running_mean": AVERAGED, "layer.running_var": AVERAGED}
DIFFERS = "{} differs between the ends of the path, and has no value in between: {}"

KINDS: dict[str, Kind] = {
    "batch norm": Kind(lambda: Net(nn.BatchNorm2d(WIDTH)), _plain("layer")),
    "norm with children": Kind(lambda: Net(NormAct(WIDTH)), _plain("layer")),
    "norm with children and no momentum": Kind(lambda: Net(NormAct(WIDTH, momentum=None)), _plain("layer")),
    "norm of a pooled map": Kind(Pooled, _plain("layer")),
    "norm with a norm": Kind(lambda: Net(NormWithNorm(WIDTH)), {**_plain("layer.inner"), **OWN}),
    "frozen batch norm": Kind(frozen_batch_norm, FROZEN),
    "frozen by mode": Kind(
        FrozenByMode,
        {"layer.running_mean": INTERPOLATED, "layer.running_var": KEPT, "layer.num_batches_tracked": KEPT},
    ),
    "synchronised": Kind(lambda: Net(nn.SyncBatchNorm(WIDTH)), _plain("layer")),
    "shared": Kind(Shared, _plain("layer")),
    "instance norm": Kind(
        lambda: Net(nn.InstanceNorm2d(WIDTH, affine=True, track_running_stats=True)),
        {**OWN, "layer.num_batches_tracked": COUNTED},
    ),
    "own norm": Kind(lambda: Net(OwnNorm(WIDTH)), OWN),
    "own statistic": Kind(lambda: Net(OwnRootMeanSquare(WIDTH)), {"layer.scale": AVERAGED}),
    "renormalised": Kind(
        lambda: Net(Renormalised(WIDTH)),
        {"layer.running_mean": KEPT},
        DIFFERS.format(
            "'layer.running_mean'",
            "Renormalised updates it in training mode, but not as a moving average of its inputs",
        ),
    ),
    "read by its parent": Kind(
        ReadByParent,
        _plain("layer"),
        "the running statistics ['layer.running_mean', 'layer.running_var'] are read by the network, but the forward "
        "of their norm is never called: they cannot be re-estimated",
    ),
    "spectral norm": Kind(
        spectral(parametrizations.spectral_norm),
        {"two.parametrizations.weight.0._u": FOLLOWING, "two.parametrizations.weight.0._v": FOLLOWING},
    ),
    "old spectral norm": Kind(spectral(nn.utils.spectral_norm), {"two.weight_u": FOLLOWING, "two.weight_v": FOLLOWING}),
    "weight norm": Kind(spectral(parametrizations.weight_norm)),
    "pruned": Kind(pruned(drawn=False), {"two.weight_mask": KEPT}),
    "pruned at random": Kind(pruned(drawn=True), {"two.weight_mask": INTERPOLATED}),
    "mask": Kind(lambda: Net(Masked(WIDTH, torch.bool, drawn=False)), {"layer.mask": KEPT}),
    "mask at random": Kind(
        masked,
        {"layer.mask": KEPT},
        DIFFERS.format("'layer.mask'", "it is torch.bool, which cannot be interpolated"),
    ),
    "whole numbers at random": Kind(
        lambda: Net(Masked(WIDTH, torch.int64, drawn=True)),
        {"layer.mask": KEPT},
        DIFFERS.format("'layer.mask'", "it is torch.int64, which cannot be interpolated"),
    ),
    "counter": Kind(lambda: Net(Counting()), {"layer.steps": KEPT, "layer.order": KEPT}),
    "frozen backbone": Kind(frozen_backbone, dict.fromkeys(BACKBONE, INTERPOLATED)),
    "same backbone": Kind(same_backbone, dict.fromkeys(BACKBONE, KEPT)),
    "only biases": Kind(only_biases, dict.fromkeys(("one.weight", "two.weight", "head.weight"), INTERPOLATED)),
    "frozen gain": Kind(frozen_gain, {**_plain("layer"), "layer.weight": KEPT, "layer.bias": KEPT}),
    "complex": Kind(lambda: Net(Fourier())),
    "complex constant": Kind(lambda: Net(Turning()), {"layer.turn": INTERPOLATED}),
    "float64 constant": Kind(lambda: Net(Precise()), {"layer.shift": INTERPOLATED}),
    "dropout": Kind(lambda: Net(nn.Dropout(0.3))),
    "checkpointing": Kind(Checkpointed, _plain("layer")),
    "unreached": Kind(Unreached, {**_plain("layer"), **dict.fromkeys(_plain("auxiliary.0"), KEPT)}),
    "tied": Kind(Tied),
    "cached": Kind(lambda: Net(nn.Sequential(Cached(), nn.BatchNorm2d(WIDTH))), _plain("layer.1")),
    "remembering": Kind(lambda: Net(Remembering())),
}


def fresh(name: str, seed: int) -> nn.Module:
    """A network of this kind with random weights from a seed, which has not run yet."""
    torch.manual_seed(seed)
    return KINDS[name].build()


def trained(name: str, seed: int, steps: int = 6) -> dict[str, Tensor]:
    """The state_dict of such a network after a few steps of SGD in plain PyTorch."""
    network = fresh(name, seed).train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.05, momentum=0.9)
    for step in range(steps + seed):  # of another number for every seed, so that counters differ
        generator = torch.Generator().manual_seed(100 * seed + step)
        x, y = torch.rand(16, 3, 8, 8, generator=generator), torch.arange(16) % 5
        actual = network(x)
        heads = actual if isinstance(actual, tuple) else (actual,)
        optimiser.zero_grad()
        torch.stack([F.cross_entropy(head, y) for head in heads]).sum().backward()
        optimiser.step()
    return {n: t.detach().clone() for n, t in network.state_dict().items()}


def loaded(name: str, state: dict[str, Tensor]) -> nn.Module:
    """A network of this kind that PyTorch loaded this state into, in evaluation mode."""
    network = fresh(name, 0)
    network.load_state_dict(state)
    return network.eval()
