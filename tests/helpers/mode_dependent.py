"""Hand-made layers and networks that do something else in training mode, or keep tensors besides parameters."""

import random
from collections.abc import Callable

import torch
from awkward import Net, conv
from torch import Tensor, nn
from torch.nn import functional as F


class NormAct(nn.BatchNorm2d):
    """A batch norm that owns its activation."""

    def __init__(self, channels: int, **options: bool):
        super().__init__(channels, **options)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class FunctionalNormAct(NormAct):
    """The same with the function of torch."""

    def forward(self, x: Tensor) -> Tensor:
        means, variances, weight, bias = self.running_mean, self.running_var, self.weight, self.bias
        return self.act(F.batch_norm(x, means, variances, weight, bias, self.training, 0.1, self.eps))


class InstanceNormAct(nn.InstanceNorm2d):
    def __init__(self, channels: int):
        super().__init__(channels, affine=True, track_running_stats=True)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class OwnNorm(nn.Module):
    """A norm that is not derived from one of torch, with its statistics in buffers."""

    def __init__(self, channels: int):
        super().__init__()
        self.act = nn.ReLU()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean, self.running_var
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        self.update(mean.detach(), variance.detach())
        return mean, variance

    def update(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.lerp_(mean, 0.1)
        self.running_var.lerp_(variance, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.statistics(x)
        return self.act((x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None])


class AssigningNorm(OwnNorm):
    """Assigns new tensors to its buffers."""

    def update(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * variance


class ParameterNorm(OwnNorm):
    """Its statistics are parameters without a gradient, written to through `.data`."""

    def __init__(self, channels: int):
        super().__init__(channels)
        for name in ("running_mean", "running_var"):
            buffer = getattr(self, name)
            delattr(self, name)
            setattr(self, name, nn.Parameter(buffer, requires_grad=False))

    def update(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.data.mul_(0.9).add_(0.1 * mean)
        self.running_var.data.mul_(0.9).add_(0.1 * variance)


class OwnDropout(nn.Dropout):
    def __init__(self) -> None:
        super().__init__(0.5)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.dropout(x, self.p, self.training))


class DropPath(nn.Module):
    """Skips its layer for random images."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        inner = self.layer(x)
        if self.training:
            inner = inner * torch.floor(0.5 + torch.rand(len(x), 1, 1, 1, dtype=x.dtype)) / 0.5
        return x + inner


class PythonDrop(DropPath):
    """Skips it for all images, by the generator of Python."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and random.random() < 0.9 else x + self.layer(x)


class Nested(nn.Module):
    """A block that uses its layers differently in each mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = NormAct(channels)
        self.layer = DropPath(nn.Sequential(conv(channels, channels), NormAct(channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.layer(x) if self.training else x + self.layer.layer(x)


class Stubborn(nn.Module):
    """A block whose norm stays in training mode, whatever is asked for, and whose `train` returns nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.train()

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Merging(nn.Module):
    """A layer whose `train` changes its weights, as adapters are merged into the weights that they belong to."""

    def __init__(self, channels: int):
        super().__init__()
        self.layer, self.adapter = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.randn(channels, channels))
        self.merged = False

    def train(self, mode: bool = True) -> nn.Module:
        if self.merged == mode:
            self.layer.weight.data += (-1 if self.merged else 1) * self.adapter.data[:, :, None, None]
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.layer(x), F.conv2d(x, self.adapter[:, :, None, None])
        return x if self.merged else x + y


class Bounded(nn.Conv2d):
    """A layer that bounds the norms of its weights in every call."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data / self.weight.data.flatten(1).norm(dim=1).clamp(min=1.0).view(-1, 1, 1, 1)
        return super().forward(x)


class BoundedInPlace(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.div_(self.weight.flatten(1).norm(dim=1).clamp(min=1.0).view(-1, 1, 1, 1))
        return super().forward(x)


def between(make: Callable[[int], nn.Module], *, bias: bool = True) -> Net:
    """Two convolutions, `a` and `b`, each followed by a layer of this kind."""
    layers = {"a": conv(3, 6, bias=bias), "b": conv(6, 6, bias=bias), "one": make(6), "two": make(6)}
    return Net(lambda n, x: n.fc(n.two(n.b(n.one(n.a(x)))).mean((2, 3))), **layers, fc=nn.Linear(6, 5))


class Auxiliary(nn.Module):
    """Two heads in training, one in evaluation, behind norms that own their activation."""

    def __init__(self, norm: Callable[[int], nn.Module] = NormAct):
        super().__init__()
        self.a, self.one, self.b, self.two = conv(3, 6), norm(6), conv(6, 7), norm(7)
        self.main, self.auxiliary = nn.Linear(7, 5), nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.one(self.a(x))
        main = self.main(self.two(self.b(x)).mean((2, 3)))
        return (main, self.auxiliary(x.mean((2, 3)))) if self.training else main


class Counted(Auxiliary):
    """The same, which counts its steps and keeps the mean of its input in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training:
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        return super().forward(x)


# layers that do something else in training mode, by what is special about them
MODE_DEPENDENT: dict[str, Callable[[int], nn.Module]] = {
    "a norm that owns its activation": NormAct,
    "the same by a function": FunctionalNormAct,
    "without running statistics": lambda n: NormAct(n, track_running_stats=False),
    "an instance norm that remembers": lambda n: InstanceNormAct(n),
    "a norm of one's own": OwnNorm,
    "assigned anew": AssigningNorm,
    "statistics that are parameters": ParameterNorm,
    "dropout that owns its activation": lambda n: OwnDropout(),
    "a path that is dropped": lambda n: DropPath(nn.Sequential(conv(n, n), NormAct(n))),
    "dropped by Python": lambda n: PythonDrop(nn.Sequential(conv(n, n), NormAct(n))),
    "nested": Nested,
    "always in training": Stubborn,
    "weights that are merged": Merging,
    "weights that are bounded": lambda n: Bounded(n, n, 1),
    "weights that are bounded in place": lambda n: BoundedInPlace(n, n, 1),
}
