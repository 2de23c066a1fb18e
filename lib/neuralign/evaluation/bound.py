"""An upper bound on the loss along the straight path between two networks, computed layer by layer.

It takes the place of theorem 3.1 of Tatro et al. (2020), on which it does not rely. Batch norm in evaluation mode is
folded into the layer before it, so each layer with weights is an affine map: A at the start, B at the end, (1 - t) A +
t B in between. Let a, b, h be the activations of some layer for one image at the start, at the end and at t. Then

    |h - (1 - t) a - t b| <= t (1 - t) c    for every t in [0, 1],

where c, the deviation, is zero for the image itself and changes from layer to layer as follows:

    an affine map             c -> max(|A|, |B|) c + |(A - B)(a - b)|,   |.| the operator norm, by `operator_norm`,
    ReLU                      c -> c + |a - b over the units whose sign differs|,
    any K-Lipschitz function  c -> K c + 2 K |a - b|,
    a maximum over windows    c -> sqrt(m) c + |d|, where each value is in at most m windows; d is what a loses if it is
                              read where b is largest, plus what b loses if it is read where a is largest,
    an average                c -> its operator norm times c,
    a sum, a concatenation    c -> c1 + c2,  sqrt(c1^2 + c2^2).

Cross-entropy is convex and sqrt(2)-Lipschitz in the logits, so L(t) <= (1 - t) L(0) + t L(1) + sqrt(2) t (1 - t) E[c],
whose average over t is (L(0) + L(1)) / 2 + sqrt(2) E[c] / 6. For the folded networks this holds rigorously on any set
of images, with L and E the means over that set. Alignment does not change the norms, only the distances |a - b|. The
best curve of a family that contains the line is no worse than the line. But curves are trained without folding, with
the statistics of batches, so it is only a hypothesis that a lower bound on the line means a lower loss on the curve.

No image attains the operator norms of all layers, and they multiply. So there is also an *estimate*, by the same
recursion with gains in place of the norms: the factor by which the layer at t = 1/2 stretches a - b of this image. It
is not a bound.
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
from neuralign.networks.model import BATCH_NORMS, Model, State, logits
from neuralign.symmetry import folding
from neuralign.symmetry.folding import AFFINE, Folded, Uncapturable
from neuralign.symmetry.tracing.trace import Trace

# The largest difference between the logits of the network and of the folded one, relative to the largest logit.
# Rounding in float32 stays far below it.
SAME = 1e-3
LIPSCHITZ = sqrt(2)  # of cross-entropy, whose gradient is the predicted distribution minus an indicator
DROPOUT_FUNCTIONS = {F.dropout, F.dropout2d}
FLATTENING = {torch.flatten, "flatten", "view", "reshape", torch.reshape}
TOTALS: tuple[str, ...] = ("images", "points", "loss_start", "loss_end", "loss", "loss_max", "deviation", "bound")
TOTALS += ("deviation_estimate", "estimate", "distance", "reason")
LAYERS = ("layer", "order", "operation", "values", "distance", "size", "deviation", "deviation_estimate", "norm")
# elementwise function -> its Lipschitz constant
ELEMENTWISE = {
    nn.ReLU6: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.GELU: 1.13,
    nn.SiLU: 1.1,
    nn.Hardswish: 1.5,
    nn.Mish: 1.1,
}
REARRANGING = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)  # in evaluation mode they compute nothing
AVERAGES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
AVERAGE_FUNCTIONS = {F.avg_pool2d, F.adaptive_avg_pool2d}


class Unbounded(NotImplementedError):
    """The network has a layer without a known bound; the message names it."""


def bound_along_line(
    model: Model, trace: Trace, start: State, end: State, images: Images, *, points: int = 17, batch_size: int = 100
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The bound for the straight path from `start` to `end`: a row for the path, and a row per layer in graph order.

    Columns of the path: images, points; loss_start, loss_end, loss (mean over t), loss_max, measured at `points` values
    of t on the folded networks, in nats; deviation (E[c] of the logits), bound (on the mean loss), and the same as
    deviation_estimate and estimate; distance (mean over the ReLUs of E|a - b|^2 / size); reason (empty). Columns of a
    layer: layer, order, operation, values (numbers per image), distance (E|a - b|^2), size ((E|a|^2 + E|b|^2) / 2),
    deviation, deviation_estimate, norm. Raises Unbounded for a layer without a known bound.
    """
    folded = fold(trace)
    ends = folded.state(start), folded.state(end)
    _demand_same_function(model, start, folded, ends[0], next(images.batches(batch_size))[0])
    recursion = Recursion(folded.graph, ends)
    with torch.no_grad():
        for pixels, _ in images.batches(batch_size):
            recursion.run(Signal.of_images(model.normalise(pixels)))
        ts = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
        losses = torch.tensor([_loss(folded, ends, t, model, images, batch_size) for t in ts], dtype=torch.float64)
    layers = list(recursion.rows())
    mean_of_ends = ((losses[0] + losses[-1]) / 2).item()
    distances = [row["distance"] / row["size"] for row in layers if row["operation"] == "relu" and row["size"]]
    total: dict[str, Any] = {"images": len(images), "points": points}
    total |= {"loss_start": losses[0].item(), "loss_end": losses[-1].item()}
    total |= {"loss": torch.trapezoid(losses, dx=1 / (points - 1)).item(), "loss_max": losses.max().item()}
    for name, key in (("bound", "deviation"), ("estimate", "deviation_estimate")):
        total |= {key: layers[-1][key], name: mean_of_ends + LIPSCHITZ * layers[-1][key] / 6}
    return total | {"distance": sum(distances) / len(distances) if distances else nan, "reason": ""}, layers


@torch.no_grad()
def _demand_same_function(model: Model, state: State, folded: Folded, folded_state: State, pixels: Tensor) -> None:
    """Raise Unbounded if folding changes the logits.

    It does for a batch norm over as many tokens as the layer before it has features, which looks like one of features.
    """
    model.network.eval()
    expected = logits(model({name: tensor.clone() for name, tensor in state.items()}, pixels))
    actual = functional_call(folded.graph, dict(folded_state), (model.normalise(pixels),))
    if not (actual - expected).abs().max() <= SAME * expected.abs().max():
        raise Unbounded("no bound for a network whose batch norms cannot be folded into the layers before them")


def without_bound(reason: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tables of `bound_along_line` for a network that is `Unbounded`: NaN in all columns but the reason."""
    return dict.fromkeys(TOTALS, nan) | {"reason": reason}, [dict.fromkeys(LAYERS, nan)]


def _loss(folded: Folded, ends: tuple[State, State], t: float, model: Model, images: Images, batch_size: int) -> float:
    """The mean loss of the folded network at t, in nats."""
    state = {name: torch.lerp(ends[0][name], ends[1][name], t) for name in ends[0]}
    totals = [
        F.cross_entropy(functional_call(folded.graph, state, (model.normalise(pixels),)), labels, reduction="none")
        .double()
        .sum()
        for pixels, labels in images.batches(batch_size)
    ]
    return (sum(totals) / len(images)).item()  # type: ignore[union-attr]


# folding


def fold(trace: Trace) -> Folded:
    """The traced network without dropout and auxiliary heads, its batch norms folded where possible."""
    try:
        captured = folding.capture(trace.network.network)
    except Uncapturable as error:
        raise Unbounded(f"no bound for {error}") from error
    graph = fx.Graph()
    heads = graph.graph_copy(captured.graph, {})
    graph.output(heads[0] if isinstance(heads, tuple | list) else heads)
    for node in list(graph.nodes):
        if node.target in DROPOUT_FUNCTIONS:
            node.replace_all_uses_with(node.all_input_nodes[0])
    main = fx.GraphModule(captured, graph)
    main.graph.eliminate_dead_code()
    main.delete_all_unused_submodules()
    for name, layer in main.named_modules():
        if isinstance(layer, BATCH_NORMS) and not layer.track_running_stats:
            raise Unbounded(f"no bound for layer {name!r}: {layer}")
    return folding.fold(main)


# the recursion


@dataclass(frozen=True)
class Signal:
    """The output of one layer in both networks, for a batch of n images."""

    start: Tensor  # (n, ...): a
    end: Tensor  # (n, ...): b
    deviation: Tensor  # (2, n): c by operator norms, and by gains
    norm: float = nan  # Lipschitz constant of the layer

    @classmethod
    def of_images(cls, images: Tensor) -> "Signal":
        """The signal at the input: normalised images, the same for both networks."""
        return cls(images, images, images.new_zeros(2, len(images)))

    def rearranged(self, operation: Callable[[Tensor], Tensor]) -> "Signal":
        """The signal after an operation that only rearranges numbers."""
        return Signal(operation(self.start), operation(self.end), self.deviation)

    def after_layer(self, start: Tensor, end: Tensor, *, norm: float, stretched: Tensor, added: Tensor) -> "Signal":
        """The signal after a layer with outputs `start` and `end` and this Lipschitz constant.

        Args:
            stretched: what the layer at t = 1/2 makes of a - b; its length over that of a - b is the gain.
            added: the vector whose length the layer adds to c.
        """
        distance = _lengths(self.start - self.end)
        gain = torch.where(distance > 0, _lengths(stretched) / distance, 0.0)
        deviation = torch.stack([norm * self.deviation[0], gain * self.deviation[1]]) + _lengths(added)
        return Signal(start, end, deviation, norm)


def _lengths(values: Tensor) -> Tensor:
    """The Euclidean norm for each image, (n, ...) -> (n,)."""
    return values.flatten(1).norm(dim=1)


class Recursion(fx.Interpreter):
    """Runs a folded network on `Signal`s, and sums over all images of all runs what `rows` averages."""

    def __init__(self, graph: fx.GraphModule, ends: tuple[State, State]):
        super().__init__(graph)
        self.extra_traceback = False  # of the interpreter: errors keep their one line
        self.ends = ends
        self.norms: dict[str, float] = {}  # name of an affine layer -> the larger of its two operator norms
        self.totals: dict[fx.Node, Tensor] = {}  # sums over images of distance, size and both deviations
        self.facts: dict[fx.Node, tuple[int, float]] = {}  # numbers per image, Lipschitz constant
        self.images = 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per layer; see `bound_along_line`."""
        for order, (node, totals) in enumerate(self.totals.items()):
            values, norm = self.facts[node]
            means = (totals / self.images).tolist()
            measured = dict(zip(("distance", "size", "deviation", "deviation_estimate"), means, strict=True))
            layer = {"layer": node.name, "order": order, "operation": self._operation(node), "values": values}
            yield layer | measured | {"norm": norm}

    def _operation(self, node: fx.Node) -> str:
        """The name of a layer's class or function, in lower case."""
        target = self.fetch_attr(str(node.target)) if node.op == "call_module" else node.target
        name = type(target).__name__ if isinstance(target, nn.Module) else getattr(target, "__name__", str(target))
        return name.lower()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "placeholder":
            self.images += len(result.start)
        elif n.op != "output" and isinstance(result, Signal):
            distance = _lengths(result.start - result.end).square()
            size = (_lengths(result.start).square() + _lengths(result.end).square()) / 2
            sums = torch.stack([distance, size, *result.deviation]).double().sum(1)
            self.totals[n] = self.totals[n] + sums if n in self.totals else sums
            self.facts[n] = (result.start[0].numel(), result.norm)
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal:
        layer, signal = self.fetch_attr(target), next(iter((*args, *kwargs.values())), None)
        if not isinstance(signal, Signal):
            raise Unbounded(f"no bound for layer {target!r}, whose input is not an activation: {layer}")
        if isinstance(layer, AFFINE):
            return self._affine(target, layer, signal)
        if isinstance(layer, nn.ReLU):
            return after_relu(signal)
        if type(layer) in ELEMENTWISE:
            return after_lipschitz(layer, ELEMENTWISE[type(layer)], signal)
        if isinstance(layer, nn.MaxPool2d):
            return after_maximum(layer, signal)
        if isinstance(layer, AVERAGES):
            return after_average(layer, signal)
        if isinstance(layer, REARRANGING):
            return signal.rearranged(layer)
        raise Unbounded(f"no bound for layer {target!r}: {layer}")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in (operator.add, torch.add) and not kwargs and all(isinstance(a, Signal) for a in args):
            a, b = args
            return Signal(a.start + b.start, a.end + b.end, a.deviation + b.deviation)
        if target is torch.cat:
            parts = args[0] if args else kwargs.pop("tensors")
            if not all(isinstance(part, Signal) for part in parts):
                raise Unbounded("no bound for a concatenation with a constant")
            start, end = (target([getattr(p, s) for p in parts], *args[1:], **kwargs) for s in ("start", "end"))
            return Signal(start, end, torch.stack([p.deviation for p in parts]).norm(dim=0))
        if not args or not isinstance(args[0], Signal):
            raise Unbounded(f"no bound for operation {getattr(target, '__name__', target)}")
        if target in (F.relu, torch.relu):
            return after_relu(args[0])
        if target in AVERAGE_FUNCTIONS:
            return after_average(lambda x: target(x, *args[1:], **kwargs), args[0])
        if target in FLATTENING:
            return args[0].rearranged(lambda x: target(x, *args[1:], **kwargs))
        raise Unbounded(f"no bound for operation {getattr(target, '__name__', target)}")

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        signal, *rest = args
        if not isinstance(signal, Signal):
            raise Unbounded(f"no bound for operation {target} on a constant")
        if target in ("relu", "relu_"):
            return after_relu(signal)
        if target == "size":
            return signal.start.size(*rest, **kwargs)
        if target in FLATTENING:
            return signal.rearranged(lambda x: getattr(x, target)(*rest, **kwargs))
        raise Unbounded(f"no bound for operation {target}")

    def _affine(self, name: str, layer: nn.Module, signal: Signal) -> Signal:
        """The signal after a layer with weights, whose tensors differ between the ends."""
        names = [k for k in layer.state_dict() if f"{name}.{k}" in self.ends[0]]
        first, second = ({k: end[f"{name}.{k}"] for k in names} for end in self.ends)
        if name not in self.norms:
            self.norms[name] = max(operator_norm(layer, t["weight"], signal.start.shape) for t in (first, second))

        def apply(tensors: State, x: Tensor) -> Tensor:
            return functional_call(layer, dict(tensors), (x,))

        constant = {k: t for k, t in first.items() if k.startswith("running")}
        no_shift = constant | {"bias": torch.zeros_like(first["bias"])}
        difference = signal.start - signal.end
        return signal.after_layer(
            apply(first, signal.start),
            apply(second, signal.end),
            norm=self.norms[name],
            stretched=apply(no_shift | {"weight": (first["weight"] + second["weight"]) / 2}, difference),
            added=apply(no_shift | {"weight": first["weight"] - second["weight"]}, difference),
        )


def after_relu(signal: Signal) -> Signal:
    """The signal after ReLU.

    (1-t) relu(u) + t relu(v) - relu((1-t) u + t v) is at most t (1-t) |u - v|, and zero where u and v agree in sign.
    """
    start, end = signal.start.relu(), signal.end.relu()
    differing = torch.where(signal.start * signal.end < 0, signal.start - signal.end, 0.0)
    return signal.after_layer(start, end, norm=1.0, stretched=start - end, added=differing)


def after_lipschitz(layer: nn.Module, slope: float, signal: Signal) -> Signal:
    """The signal after an elementwise function whose slope is at most `slope`."""
    start, end = layer(signal.start), layer(signal.end)
    added = 2 * slope * (signal.start - signal.end)
    return signal.after_layer(start, end, norm=slope, stretched=start - end, added=added)


def after_maximum(layer: nn.MaxPool2d, signal: Signal) -> Signal:
    """The signal after a maximum over windows.

    If u and v are largest at i and j, their maxima deviate by at most t (1-t) ((u_i - u_j) + (v_j - v_i)).
    """
    if layer.dilation not in (1, (1, 1)):
        raise Unbounded(f"no bound for layer {layer}")

    def largest(x: Tensor) -> tuple[Tensor, Tensor]:
        options = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return F.max_pool2d(x, *options, ceil_mode=layer.ceil_mode, return_indices=True)

    def values_at(x: Tensor, where: Tensor) -> Tensor:
        return x.flatten(2).gather(2, where.flatten(2)).view_as(where)

    (start, i), (end, j) = largest(signal.start), largest(signal.end)
    lost = (start - values_at(signal.start, j)) + (end - values_at(signal.end, i))
    windows = prod(-(-k // s) for k, s in zip(_pair(layer.kernel_size), _pair(layer.stride), strict=True))
    return signal.after_layer(start, end, norm=sqrt(windows), stretched=start - end, added=lost)


def after_average(operation: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """The signal after averages over windows.

    The norm of a linear map with non-negative weights is at most the root of its largest row sum times its largest
    column sum (Schur's test).
    """
    start, end = operation(signal.start), operation(signal.end)
    with torch.enable_grad():
        ones = torch.ones_like(signal.start[:1, :1]).requires_grad_()
        rows = operation(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    norm = (rows.max() * columns.max()).sqrt().item()
    return signal.after_layer(start, end, norm=norm, stretched=start - end, added=torch.zeros_like(start))


def operator_norm(layer: nn.Module, weight: Tensor, shape: torch.Size) -> float:
    """An upper bound of the largest singular value of a layer with this weight, on inputs of this shape (n, c, ...).

    It is exact for linear layers and batch norms. A convolution with zero padding is part of a convolution on a large
    enough torus, whose singular values are those of its Fourier coefficients (Sedghi, Gupta & Long 2019). A convolution
    of stride s is one of stride 1 with s x s times as many channels.
    """
    weight = weight.double()
    if isinstance(layer, BATCH_NORMS):
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


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
