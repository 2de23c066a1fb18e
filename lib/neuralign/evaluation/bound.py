"""A bound on the loss of the straight path between two networks, layer by layer through the traced graph.

A self-contained surrogate of theorem 3.1 of Tatro et al. (2020). Batch norm in evaluation mode is folded into the
layer before it, so each layer with weights is an affine map: A at the start, B at the end, (1 - t) A + t B between.
Let a, b, h be the values that some layer has for one image at the start, at the end and at t. Then

    |h - (1 - t) a - t b| <= t (1 - t) c    for every t in [0, 1],

where c starts at zero and is carried on by

    an affine map             c -> max(|A|, |B|) c + |(A - B)(a - b)|,   |.| the operator norm, by `operator_norm`,
    ReLU                      c -> c + |a - b over the units whose sign differs|,
    any K-Lipschitz function  c -> K c + 2 K |a - b|,
    a maximum over windows    c -> sqrt(m) c + |what the ends lose by each other's choice|, m windows share a value,
    an average                c -> its operator norm times c,
    a sum, a concatenation    c -> c1 + c2,  sqrt(c1^2 + c2^2).

Cross-entropy is convex and sqrt(2)-Lipschitz in the logits, so L(t) <= (1 - t) L(0) + t L(1) + sqrt(2) t (1 - t) E[c],
whose average over t is (L(0) + L(1)) / 2 + sqrt(2) E[c] / 6. All of this is rigorous for any set of images, with L and
E the mean over that set, for the folded networks. Alignment does not change the norms: it acts through the distances.
The best curve of a family that has the line in it is no worse than the line. But a curve is trained on the networks as
they are, not folded, with statistics of the batch: that its loss follows the bound of the line is a hypothesis.

Operator norms are attained by no image, and multiply. The *estimate* is the same recursion with gains in their place:
how much the layer (at t = 1/2) stretches a - b of this very image. It bounds nothing.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan, prod, sqrt
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.datasets.images import Images
from neuralign.evaluation.metrics import METRICS
from neuralign.networks.model import NORMS, Model, State
from neuralign.symmetry import folding
from neuralign.symmetry.folding import AFFINE, Folded, Uncapturable
from neuralign.symmetry.tracing.trace import Trace

LIPSCHITZ = sqrt(2)  # of the cross-entropy: its gradient is a distribution minus an indicator
DROPOUT_FUNCTIONS = {F.dropout, F.dropout2d}
FLATTENING = {torch.flatten, "flatten", "view", "reshape", torch.reshape}
TOTALS: tuple[str, ...] = ("images", "points", "loss_start", "loss_end", "loss", "loss_max", "deviation", "bound")
TOTALS += ("deviation_estimate", "estimate", "distance", "reason")
LAYERS = ("layer", "order", "operation", "values", "distance", "size", "deviation", "deviation_estimate", "norm")
CURVED = {nn.ReLU6: 1.0, nn.Tanh: 1.0, nn.Sigmoid: 0.25, nn.GELU: 1.13, nn.SiLU: 1.1, nn.Hardswish: 1.5, nn.Mish: 1.1}
PASSING = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
AVERAGE_FUNCTIONS = {F.avg_pool2d, F.adaptive_avg_pool2d}


class Unbounded(NotImplementedError):
    """A network with a layer that no bound is known for; the message names it."""


def bound_along_line(
    model: Model, trace: Trace, start: State, end: State, images: Images, *, points: int = 17, batch_size: int = 100
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The straight path from `start` to `end` in one row, and a row per layer in the order of the graph.

    The path: images, points, loss_start, loss_end, loss (the mean over t), loss_max, all measured on the folded
    networks; deviation (E[c]) and bound (on the mean loss); the same as deviation_estimate and estimate; distance: over
    the ReLUs, the mean of E|a - b|^2 as a share of (E|a|^2 + E|b|^2) / 2. A layer: layer, order, operation, values
    (numbers per image), distance (E|a - b|^2), size (E|a|^2 + E|b|^2) / 2, deviation, deviation_estimate, norm.
    """
    plain = fold(trace)
    ends = plain.state(start), plain.state(end)
    walk = Recursion(plain.graph, ends)
    with torch.no_grad():
        for pixels, _ in images.batches(batch_size):
            walk.run(Signal.of(model.normalise(pixels)))
        ts = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
        losses = torch.tensor([_loss(plain, ends, t, model, images, batch_size) for t in ts], dtype=torch.float64)
    layers = list(walk.rows())
    mean = ((losses[0] + losses[-1]) / 2).item()
    active = [row["distance"] / row["size"] for row in layers if row["operation"] == "relu" and row["size"]]
    told: dict[str, Any] = {"images": len(images), "points": points}
    told |= {"loss_start": losses[0].item(), "loss_end": losses[-1].item()}
    told |= {"loss": torch.trapezoid(losses, dx=1 / (points - 1)).item(), "loss_max": losses.max().item()}
    for name, key in (("bound", "deviation"), ("estimate", "deviation_estimate")):
        told |= {key: layers[-1][key], name: mean + LIPSCHITZ * layers[-1][key] / 6}
    return told | {"distance": sum(active) / len(active) if active else nan, "reason": ""}, layers


def refused(reason: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same tables for a network with a layer that no bound is known for."""
    return dict.fromkeys(TOTALS, nan) | {"reason": reason}, [dict.fromkeys(LAYERS, nan)]


def _loss(plain: Folded, ends: tuple[State, State], t: float, model: Model, images: Images, batch_size: int) -> float:
    """The mean loss of the folded network at t."""
    state = {name: torch.lerp(ends[0][name], ends[1][name], t) for name in ends[0]}
    totals = [
        METRICS["loss"](functional_call(plain.graph, state, (model.normalise(pixels),)), labels).double().sum()
        for pixels, labels in images.batches(batch_size)
    ]
    return (sum(totals) / len(images)).item()  # type: ignore[union-attr]


# networks without batch norm


def fold(trace: Trace) -> Folded:
    """The traced network without dropout, auxiliary heads, and batch norms that can be folded."""
    try:
        whole = folding.capture(trace.network.network)
    except Uncapturable as error:
        raise Unbounded(f"no bound for {error}") from error
    graph = fx.Graph()
    heads = graph.graph_copy(whole.graph, {})
    graph.output(heads[0] if isinstance(heads, tuple | list) else heads)
    for node in list(graph.nodes):
        if node.target in DROPOUT_FUNCTIONS:
            node.replace_all_uses_with(node.all_input_nodes[0])
    main = fx.GraphModule(whole, graph)
    main.graph.eliminate_dead_code()
    main.delete_all_unused_submodules()
    for name, layer in main.named_modules():
        if isinstance(layer, NORMS) and not layer.track_running_stats:
            raise Unbounded(f"no bound for layer {name!r}: {layer}")
    return folding.fold(main)


# the recursion


@dataclass(frozen=True)
class Signal:
    """What one layer passes on of a batch of n images."""

    start: Tensor  # (n, ...)
    end: Tensor  # (n, ...)
    deviation: Tensor  # (2, n): c by operator norms, and by gains
    norm: float = nan

    @classmethod
    def of(cls, images: Tensor) -> "Signal":
        """The images themselves, of which both ends see the same."""
        return cls(images, images, images.new_zeros(2, len(images)))

    def same(self, act: Callable[[Tensor], Tensor]) -> "Signal":
        """After a rearrangement."""
        return Signal(act(self.start), act(self.end), self.deviation)

    def through(self, start: Tensor, end: Tensor, *, norm: float, moved: Tensor, added: Tensor) -> "Signal":
        """After a layer of this `norm`, which turns a - b into `moved`; `added` is what it contributes to c itself."""
        before = _length(self.start - self.end)
        gain = torch.where(before > 0, _length(moved) / before, 0.0)
        deviation = torch.stack([norm * self.deviation[0], gain * self.deviation[1]]) + _length(added)
        return Signal(start, end, deviation, norm)


def _length(values: Tensor) -> Tensor:
    """(n,): the norm of what every image has."""
    return values.flatten(1).norm(dim=1)


class Recursion(fx.Interpreter):
    """Runs a folded network on a `Signal`; keeps per node what `rows` averages over all images that were run."""

    def __init__(self, graph: fx.GraphModule, ends: tuple[State, State]):
        super().__init__(graph)
        self.ends = ends
        self.norms: dict[str, float] = {}
        self.totals: dict[fx.Node, Tensor] = {}
        self.facts: dict[fx.Node, tuple[int, float]] = {}  # numbers per image, operator norm
        self.seen = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per layer, as `bound` says."""
        for order, (node, totals) in enumerate(self.totals.items()):
            values, norm = self.facts[node]
            means = (totals / self.seen).tolist()
            named = dict(zip(("distance", "size", "deviation", "deviation_estimate"), means, strict=True))
            place = {"layer": node.name, "order": order, "operation": self._operation(node), "values": values}
            yield place | named | {"norm": norm}

    def _operation(self, node: fx.Node) -> str:
        target = self.fetch_attr(str(node.target)) if node.op == "call_module" else node.target
        name = type(target).__name__ if isinstance(target, nn.Module) else getattr(target, "__name__", str(target))
        return name.lower()

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n.op == "placeholder":
            self.seen += len(found.start)
        elif n.op != "output" and isinstance(found, Signal):
            size = (_length(found.start).square() + _length(found.end).square()) / 2
            seen = torch.stack([_length(found.start - found.end).square(), size, *found.deviation]).double().sum(1)
            self.totals[n] = self.totals[n] + seen if n in self.totals else seen
            self.facts[n] = (found.start[0].numel(), found.norm)
        return found

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal:
        layer, (signal, *_) = self.fetch_attr(target), args
        if not isinstance(signal, Signal):
            raise Unbounded(f"no bound for layer {target!r}, whose input is not an activation: {layer}")
        if isinstance(layer, AFFINE):
            return self._affine(target, layer, signal)
        if isinstance(layer, nn.ReLU):
            return rectify(signal)
        if type(layer) in CURVED:
            return bend(layer, CURVED[type(layer)], signal)
        if isinstance(layer, nn.MaxPool2d):
            return maximum(layer, signal)
        if isinstance(layer, AVERAGES):
            return average(layer, signal)
        if isinstance(layer, PASSING):
            return signal.same(layer)
        raise Unbounded(f"no bound for layer {target!r}: {layer}")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in (operator.add, torch.add) and not kwargs and all(isinstance(a, Signal) for a in args):
            one, other = args
            return Signal(one.start + other.start, one.end + other.end, one.deviation + other.deviation)
        if target is torch.cat:
            parts = args[0] if args else kwargs.pop("tensors")
            start, end = (target([getattr(p, s) for p in parts], *args[1:], **kwargs) for s in ("start", "end"))
            return Signal(start, end, torch.stack([p.deviation for p in parts]).norm(dim=0))
        if not args or not isinstance(args[0], Signal):
            raise Unbounded(f"no bound for operation {getattr(target, '__name__', target)}")
        if target in (F.relu, torch.relu):
            return rectify(args[0])
        if target in AVERAGE_FUNCTIONS:
            return average(lambda x: target(x, *args[1:], **kwargs), args[0])
        if target in FLATTENING:
            return args[0].same(lambda x: target(x, *args[1:], **kwargs))
        raise Unbounded(f"no bound for operation {getattr(target, '__name__', target)}")

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        signal, *rest = args
        if not isinstance(signal, Signal):
            raise Unbounded(f"no bound for operation {target} on a constant")
        if target in ("relu", "relu_"):
            return rectify(signal)
        if target == "size":
            return signal.start.size(*rest, **kwargs)
        if target in FLATTENING:
            return signal.same(lambda x: getattr(x, target)(*rest, **kwargs))
        raise Unbounded(f"no bound for operation {target}")

    def _affine(self, name: str, layer: nn.Module, signal: Signal) -> Signal:
        names = [k for k in layer.state_dict() if f"{name}.{k}" in self.ends[0]]
        first, second = ({k: end[f"{name}.{k}"] for k in names} for end in self.ends)
        if name not in self.norms:
            self.norms[name] = max(operator_norm(layer, t["weight"], signal.start.shape) for t in (first, second))

        def act(tensors: State, x: Tensor) -> Tensor:
            return functional_call(layer, dict(tensors), (x,))

        still = {k: t for k, t in first.items() if k.startswith("running")} | {"bias": torch.zeros_like(first["bias"])}
        apart = signal.start - signal.end
        return signal.through(
            act(first, signal.start),
            act(second, signal.end),
            norm=self.norms[name],
            moved=act(still | {"weight": (first["weight"] + second["weight"]) / 2}, apart),
            added=act(still | {"weight": first["weight"] - second["weight"]}, apart),
        )


def rectify(signal: Signal) -> Signal:
    """After ReLU: (1-t) u+ + t v+ - ((1-t) u + t v)+ is at most t (1-t) |u - v|, and zero where u, v agree in sign."""
    start, end = signal.start.relu(), signal.end.relu()
    differing = torch.where(signal.start * signal.end < 0, signal.start - signal.end, 0.0)
    return signal.through(start, end, norm=1.0, moved=start - end, added=differing)


def bend(layer: nn.Module, slope: float, signal: Signal) -> Signal:
    """After any function of one number whose slope is at most `slope`."""
    start, end = layer(signal.start), layer(signal.end)
    added = 2 * slope * (signal.start - signal.end)
    return signal.through(start, end, norm=slope, moved=start - end, added=added)


def maximum(layer: nn.MaxPool2d, signal: Signal) -> Signal:
    """After a maximum over windows: with i, j where u, v are largest, the gap is at most t (1-t) times
    (u_i - u_j) + (v_j - v_i), and zero where i = j."""
    if layer.dilation not in (1, (1, 1)):
        raise Unbounded(f"no bound for layer {layer}")

    def largest(x: Tensor) -> tuple[Tensor, Tensor]:
        options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return F.max_pool2d(x, *options, ceil_mode=layer.ceil_mode, return_indices=True)

    def taken(x: Tensor, where: Tensor) -> Tensor:
        return x.flatten(2).gather(2, where.flatten(2)).view_as(where)

    (start, i), (end, j) = largest(signal.start), largest(signal.end)
    lost = (start - taken(signal.start, j)) + (end - taken(signal.end, i))
    windows = prod(-(-k // s) for k, s in zip(_two(layer.kernel_size), _two(layer.stride), strict=True))
    return signal.through(start, end, norm=sqrt(windows), moved=start - end, added=lost)


def average(act: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """After averages: a linear map of non-negative weights, whose norm is at most the root of its largest row sum times
    its largest column sum (Schur's test)."""
    start, end = act(signal.start), act(signal.end)
    with torch.enable_grad():
        ones = torch.ones_like(signal.start[:1, :1]).requires_grad_()
        rows = act(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    norm = (rows.max() * columns.max()).sqrt().item()
    return signal.through(start, end, norm=norm, moved=start - end, added=torch.zeros_like(start))


def operator_norm(layer: nn.Module, weight: Tensor, shape: torch.Size) -> float:
    """An upper bound of the largest singular value of a layer with this weight, on inputs of this shape (n, c, ...).

    Exact for a linear layer and for batch norm. A convolution of zero-padded maps is a part of one on a torus that is
    large enough, whose singular values are those of its Fourier coefficients (Sedghi, Gupta & Long 2019); one of stride
    s is one of stride 1 on s x s times as many channels.
    """
    weight = weight.double()
    if isinstance(layer, NORMS):
        return weight.abs().max().item()
    if not isinstance(layer, nn.Conv2d):
        return torch.linalg.matrix_norm(weight, 2).item()
    if layer.groups > 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise Unbounded(f"no bound for layer {layer}")
    (down, across), (kernel_h, kernel_w) = layer.stride, layer.kernel_size
    weight = F.pad(weight, (0, -kernel_w % across, 0, -kernel_h % down))
    phases = weight.unflatten(3, (-1, across)).unflatten(2, (-1, down))  # (o, i, h, down, w, across)
    phases = phases.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    torus = [
        -(-(n + 2 * p) // s) + k - 1
        for n, p, s, k in zip(shape[2:], layer.padding, layer.stride, phases.shape[2:], strict=True)
    ]
    maps = torch.fft.rfft2(phases, s=torus).flatten(2).movedim(2, 0)  # (frequencies, outputs, inputs)
    gram = maps @ maps.mH if maps.shape[1] < maps.shape[2] else maps.mH @ maps
    return torch.linalg.eigvalsh(gram)[:, -1].max().clamp(min=0).sqrt().item()


def _two(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
