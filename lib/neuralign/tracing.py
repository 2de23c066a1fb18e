"""From a network to its permutation symmetry, and to probes on its activations, by one walk over its torch.fx graph.

Every tensor in the graph carries its channels on axis 1, as a tuple of (group, cells): a concatenation adds tuples, a
sum ties them (union-find), flattening multiplies the cells. The walk is linear in the size of the graph.
"""

import operator
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from neuralign.symmetry import Axis, Spec

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Mish)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSING = (*ACTIVATIONS, *POOLS, nn.Identity, nn.Dropout, nn.Dropout2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATION_FUNCTIONS = {F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, torch.relu, torch.tanh}
POOL_FUNCTIONS = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}
DROPOUT_FUNCTIONS = {F.dropout, F.dropout2d}
PASSING_FUNCTIONS = ACTIVATION_FUNCTIONS | POOL_FUNCTIONS | DROPOUT_FUNCTIONS | {operator.neg}
ELEMENTWISE = {operator.add, operator.sub, operator.mul, operator.truediv}  # x += y is traced as x + y
ELEMENTWISE |= {torch.add, torch.sub, torch.mul, torch.div}
PASSING_METHODS = {"relu", "relu_", "contiguous", "float", "tanh", "sigmoid"}
SIZES = {"size", "dim", getattr}  # getattr: x.shape
FLATTENING = {torch.flatten, "flatten", "view", "reshape", torch.reshape}


class Untraceable(NotImplementedError):
    """A network with an operation no permutation rule is known for; the message names the operation."""


@dataclass(frozen=True)
class Tap:
    """Where a group's activations can be read: channels `start` .. `start + size` of the output of a graph node."""

    node: str
    start: int
    summed: bool = False  # whether it follows a sum, as on a residual stream


Taps = dict[str, tuple[Tap, ...]]  # free group -> the activations that carry it, in graph order


@dataclass(frozen=True)
class Trace:
    spec: Spec
    taps: Taps  # post-activations
    before: Taps  # pre-activations: what enters those nonlinearities
    graph: fx.GraphModule

    def probe(self, taps: Taps, *, largest: int | None = None) -> tuple[fx.GraphModule, list[str]]:
        """A module that returns the tapped activations of one input, and the node names they belong to.

        Maps of more than `largest` rows are halved where they are tapped, and go on halved.
        """
        names = list(dict.fromkeys(tap.node for found in taps.values() for tap in found))
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        graph.graph_copy(self.graph.graph, copies)
        by_name = {node.name: copy for node, copy in copies.items()}
        if largest is not None:
            for name in names:
                with graph.inserting_after(by_name[name]):
                    halved = graph.call_function(_halve, (by_name[name], largest))
                by_name[name].replace_all_uses_with(halved)
                halved.args = (by_name[name], largest)
                by_name[name] = halved
        graph.output(tuple(by_name[name] for name in names))
        for node in graph.nodes:
            if node.target in DROPOUT_FUNCTIONS:  # traced in training mode, where it is on
                node.replace_all_uses_with(node.all_input_nodes[0])
        probe = fx.GraphModule(self.graph, graph)
        probe.graph.eliminate_dead_code()
        probe.recompile()
        return probe.eval(), names


def trace(network: nn.Module, example: Tensor) -> Trace:
    """The symmetry of `network`, seen with a normalised `example` input (n, c, h, w).

    Traced in training mode, so that auxiliary heads take part; on a copy, so that the network's mode is left as it was.
    Raises `Untraceable` where an operation has no rule.
    """
    graph = fx.symbolic_trace(deepcopy(network).train())
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]  # a pre-activation that is read is not overwritten
    with torch.no_grad():
        _Shapes(graph.eval()).run(example)
    walk = _Walk(graph)
    for node in graph.graph.nodes:
        walk.visit(node)
    return walk.result()


def _halve(activation: Tensor, largest: int) -> Tensor:
    """Every second row and column of maps (n, c, h, w) that are larger than `largest`."""
    return activation[..., ::2, ::2] if activation.dim() == 4 and activation.shape[-1] > largest else activation


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """An argument of a call, however it was passed."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor (torch.fx's own ShapeProp imports sympy, a third of a second in every job)."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


class _Walk:
    def __init__(self, graph: fx.GraphModule):
        self.graph = graph
        self.modules = dict(graph.named_modules())
        self.channels: dict[fx.Node, Axis] = {}
        self.parent: dict[str, str] = {}  # union-find over groups; a root is its own parent, and the oldest of its set
        self.sizes: dict[str, int] = {}
        self.fixed: set[str] = set()
        self.axes: dict[str, tuple[Axis, ...]] = {}
        self.active: list[fx.Node] = []

    # groups

    def new(self, name: str, size: int) -> Axis:
        self.parent[name] = name
        self.sizes[name] = size
        return ((name, 1),)

    def root(self, group: str) -> str:
        while self.parent[group] != group:
            self.parent[group] = group = self.parent[self.parent[group]]
        return group

    def tie(self, node: fx.Node, first: Axis, second: Axis) -> Axis:
        def widths(axis: Axis) -> list[tuple[int, int]]:
            return [(self.sizes[g], cells) for g, cells in axis]

        if widths(first) != widths(second):
            raise Untraceable(f"{node}: joins channels laid out as {widths(first)} and {widths(second)}")
        for (a, _), (b, _) in zip(first, second, strict=True):
            old, young = sorted((self.root(a), self.root(b)), key=list(self.sizes).index)
            self.parent[young] = old
        return first

    # nodes

    def visit(self, node: fx.Node) -> None:
        inputs = [n for n in node.all_input_nodes if n in self.channels]
        if node.op == "placeholder":
            name = f"<{node.name}>"  # not the name of any layer
            self.channels[node] = self.new(name, self.shape(node)[1])
            self.fixed.add(name)
        elif node.op == "output":
            self.fixed |= {group for n in inputs for group, _ in self.channels[n]}
        elif node.op == "call_module" and not inputs:
            raise Untraceable(f"layer {node.target!r}: its input does not come from the image")
        elif node.op == "call_module":
            self.channels[node] = self.layer(node, self.modules[str(node.target)], self.channels[inputs[0]])
        elif node.op in ("call_function", "call_method") and inputs and not self.is_size(node):
            self.channels[node] = self.function(node, inputs)
        if self.is_activation(node):
            self.active.append(node)

    def layer(self, node: fx.Node, layer: nn.Module, source: Axis) -> Axis:
        name = str(node.target)
        if f"{name}.weight" in self.axes:
            raise Untraceable(f"layer {name!r} is used twice")
        if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Linear) and getattr(layer, "groups", 1) == 1:
            if isinstance(layer, nn.Linear) and len(self.shape(node)) != 2:
                raise Untraceable(f"layer {name!r}: a linear layer on an input of shape {self.shape(node)}")
            out = self.new(name, layer.weight.shape[0])
            self.axes[f"{name}.weight"] = (out, source, *[()] * (layer.weight.dim() - 2))
            self.axes[f"{name}.bias"] = (out,)
            return out
        if isinstance(layer, NORMS):
            self.axes |= {f"{name}.{t}": (source,) for t in ("weight", "bias", "running_mean", "running_var")}
            return source
        if isinstance(layer, nn.Flatten):
            return self.flatten(node, source)
        if isinstance(layer, PASSING):
            return source
        raise Untraceable(f"no permutation rule for layer {name!r}: {layer}")

    def function(self, node: fx.Node, inputs: Sequence[fx.Node]) -> Axis:
        target, source = node.target, self.channels[inputs[0]]
        if target is torch.cat and _argument(node, 1, "dim", 0) % len(self.shape(node)) == 1:
            parts = _argument(node, 0, "tensors", ())
            if all(part in self.channels for part in parts):
                return sum((self.channels[part] for part in parts), ())
        if target in FLATTENING:
            return self.flatten(node, source)
        if target in ELEMENTWISE and all(self.is_aligned(node, n) for n in node.all_input_nodes):
            for other in inputs[1:]:
                source = self.tie(node, source, self.channels[other])
            return source
        if target in PASSING_FUNCTIONS or (node.op == "call_method" and target in PASSING_METHODS):
            return source
        if target in (torch.mean, "mean"):
            rank, dims = len(self.shape(inputs[0])), _argument(node, 1, "dim", None) or ()
            averaged = {d % rank for d in (dims if isinstance(dims, list | tuple) else [dims])}
            if averaged and averaged == set(range(2, rank)):
                return source
        raise Untraceable(f"no permutation rule for operation {node.format_node()}")

    def flatten(self, node: fx.Node, source: Axis) -> Axis:
        before, after = self.shape(node.all_input_nodes[0]), self.shape(node)
        if len(after) != 2 or before[0] != after[0]:
            raise Untraceable(f"{node}: reshapes {before} to {after}; only flattening all but the batch is known")
        cells = after[1] // before[1]
        return tuple((group, own * cells) for group, own in source)

    @staticmethod
    def shape(node: fx.Node) -> tuple[int, ...]:
        return node.meta["shape"]

    @staticmethod
    def is_size(node: fx.Node) -> bool:
        """Whether the result is a number or a shape, which no permutation changes."""
        return node.target in SIZES and "shape" not in node.meta

    def is_aligned(self, node: fx.Node, operand: fx.Node) -> bool:
        """Whether an operand has its channels where the result has them, or does the same to every channel."""
        if operand in self.channels:
            return len(self.shape(operand)) == len(self.shape(node))
        if "shape" not in operand.meta:
            return True  # a number
        return self.shape(operand)[::-1][len(self.shape(node)) - 2 :][:1] in ((), (1,))

    def is_activation(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.modules[str(node.target)], ACTIVATIONS)
        return node.target in ACTIVATION_FUNCTIONS or (node.op == "call_method" and node.target in ("relu", "relu_"))

    # the answer

    def result(self) -> Trace:
        def settle(axis: Axis) -> Axis:
            return tuple((self.root(group), cells) for group, cells in axis)

        tensors: dict[str, Tensor] = dict(self.graph.named_parameters(remove_duplicate=False))
        tensors |= dict(self.graph.named_buffers(remove_duplicate=False))
        known = self.axes.keys() | {node.target for node in self.graph.graph.nodes if node.op == "get_attr"}
        names: dict[Tensor, str] = {}
        for name, tensor in tensors.items():
            if (first := names.setdefault(tensor, name)) != name:
                raise Untraceable(f"{first!r} and {name!r} are one tensor")
            if name not in known and tensor.numel() > 1:
                raise Untraceable(f"no permutation rule for tensor {name!r}")
        axes = {name: tuple(map(settle, dims)) for name, dims in self.axes.items() if name in tensors}
        sizes = {g: n for g, n in self.sizes.items() if self.root(g) == g}
        spec = Spec(axes, sizes, frozenset(map(self.root, self.fixed)))
        before = [n for node in self.active for n in node.all_input_nodes[:1] if n in self.channels]
        return Trace(spec, self.tap(spec, self.active), self.tap(spec, before), self.graph)

    def tap(self, spec: Spec, nodes: Sequence[fx.Node]) -> Taps:
        """Where `nodes` carry each free group; where none does, the last tensor that carries it."""
        chosen: dict[str, list[Tap]] = {g: [] for g in spec.free}
        anywhere: dict[str, list[Tap]] = {g: [] for g in spec.free}
        for node, axis in self.channels.items():
            start, summed = 0, self.is_sum(node) or any(map(self.is_sum, node.all_input_nodes))
            for group, cells in axis:
                name = self.root(group)
                if name in chosen and cells == 1:
                    anywhere[name].append(Tap(node.name, start, summed))
                    if node in nodes:
                        chosen[name].append(anywhere[name][-1])
                start += spec.sizes[name] * cells
        return {g: tuple(chosen[g] or anywhere[g][-1:]) for g in spec.free}

    def is_sum(self, node: fx.Node) -> bool:
        return node.target in ELEMENTWISE and sum(n in self.channels for n in node.all_input_nodes) > 1
