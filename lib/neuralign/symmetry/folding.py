"""Networks made cheap to evaluate: batch norms become part of the layers before them, ReLUs overwrite their input.

On a CPU both are bound by memory: an evaluation of TinyTen spends a quarter of its time in them.
"""

import operator
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from neuralign.networks.model import NORMS
from neuralign.symmetry.permutations import State
from neuralign.symmetry.tracing.execution import copied

WEIGHTED = (nn.Linear, nn.Conv2d)
AFFINE = (*WEIGHTED, *NORMS)
RELU_FUNCTIONS = {F.relu, torch.relu}
OWN_MEMORY = {operator.add, torch.add, torch.cat}  # the result shares no memory with an operand
EMPTY = fx.GraphModule(nn.Module(), fx.Graph())
RESERVED = {*dir(EMPTY)} - {*dir(nn.Module())}  # attributes of a torch.fx.GraphModule; no layer may have such a name


class Uncapturable(NotImplementedError):
    """A network whose graph does not say all that it does; the message says why."""


@dataclass(frozen=True)
class Folded:
    """A network whose batch norms have become part of the layers before them.

    One that follows no layer of its own stays, as a scale and a shift of every channel; one without running statistics
    stays as it is.
    """

    graph: fx.GraphModule
    norms: Mapping[str, str]  # layer -> the batch norm that was behind it
    epsilons: Mapping[str, float]  # of each batch norm with running statistics

    def state(self, state: State) -> dict[str, Tensor]:
        """The tensors of the folded network that does in evaluation mode what the network does with `state`."""
        out: dict[str, Tensor] = {}
        for name, layer in self.graph.named_modules():
            if name in self.epsilons:
                scale, shift = self._scale(state, name)
                still = {"running_mean": torch.zeros_like(scale), "running_var": torch.ones_like(scale) - layer.eps}
                out |= {f"{name}.{k}": t for k, t in {"weight": scale, "bias": shift, **still}.items()}
            elif isinstance(layer, WEIGHTED):
                weight = state[f"{name}.weight"]
                bias = state.get(f"{name}.bias", weight.new_zeros(len(weight)))
                if name in self.norms:
                    scale, shift = self._scale(state, self.norms[name])
                    weight, bias = weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias * scale + shift
                out |= {f"{name}.weight": weight, f"{name}.bias": bias}
            else:
                out |= {full: state[full] for full in _tensors(name, layer) if full in state}
        return out

    def _scale(self, state: State, norm: str) -> tuple[Tensor, Tensor]:
        """(n,) each: what a batch norm multiplies by, and what it then adds."""
        scale = (state[f"{norm}.running_var"] + self.epsilons[norm]).rsqrt() * state.get(f"{norm}.weight", 1.0)
        return scale, state.get(f"{norm}.bias", 0.0) - state[f"{norm}.running_mean"] * scale


def capture(network: nn.Module) -> fx.GraphModule:
    """The graph of a copy of `network` with all its heads, as in training; norms and dropout in evaluation mode.

    Raises Uncapturable where it depends on the input, where layers or their weights are shared or computed, or where
    a layer or a tensor of the network has the name of an attribute of torch.fx.GraphModule.
    """
    twin = copied(network)
    if reserved := sorted(RESERVED & {*twin._modules, *twin._parameters, *twin._buffers}):
        raise Uncapturable(
            f"a network with a layer or tensor {reserved[0]!r}, a name that torch.fx.GraphModule reserves"
        )
    try:
        twin.train()  # returns what the network's own `train` does
        graph = fx.symbolic_trace(twin).eval()
    except Exception as error:  # of the network's own code, which meets stand-ins for tensors here
        raise Uncapturable(f"a network whose graph depends on its input: {error}") from error
    own = dict(twin.named_parameters()) | dict(twin.named_buffers())
    called = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]
    for name, layer in graph.named_modules():
        if isinstance(layer, AFFINE):
            shared = called.count(layer) > 1 or any(f"{name}.{t}" not in own for t in layer.state_dict())
            computed = any(getattr(layer, t) is not None and f"{name}.{t}" not in own for t in ("weight", "bias"))
            if shared or computed:
                raise Uncapturable(f"layer {name!r}, whose weights are shared or computed: {type(layer).__name__}")
    return graph


def fold(network: fx.GraphModule) -> Folded:
    """A folded copy of a traced network, in evaluation mode; it gives the same outputs up to rounding."""
    modules, norms, epsilons = dict(network.named_modules()), {}, {}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    for node in list(graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, NORMS) and layer.track_running_stats:
            epsilons[str(node.target)] = layer.eps
            (before,) = node.all_input_nodes
            if _layer(before, modules, WEIGHTED) and len(before.users) == 1:
                norms[str(before.target)] = str(node.target)
                node.replace_all_uses_with(before)
    plain = fx.GraphModule(network, graph).eval()
    plain.graph.eliminate_dead_code()
    plain.delete_all_unused_submodules()
    plain.recompile()
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, WEIGHTED) or name in epsilons:
            plain.add_submodule(name, _own(layer))
    return Folded(plain, norms, epsilons)


def overwrite(network: fx.GraphModule) -> None:
    """Let each ReLU of a traced network overwrite its input, where nothing else reads that memory. In place."""
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        if _layer(node, modules, nn.ReLU) or node.target in RELU_FUNCTIONS or node.target == "relu":
            (before,) = node.all_input_nodes
            if len(before.users) == 1 and (_layer(before, modules, AFFINE) or before.target in OWN_MEMORY):
                node.op, node.target, node.args, node.kwargs = "call_function", torch.relu_, (before,), {}
    network.recompile()


def _layer(node: fx.Node, modules: Mapping[str, nn.Module], kinds: tuple[type, ...] | type) -> bool:
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), kinds)


def _tensors(name: str, layer: nn.Module) -> Iterator[str]:
    """The full names of what a layer itself holds."""
    for own in [*dict(layer.named_parameters(recurse=False)), *dict(layer.named_buffers(recurse=False))]:
        yield f"{name}.{own}" if name else own


def _own(layer: nn.Module) -> nn.Module:
    """A copy of a layer that has a weight and a bias, whatever the layer has."""
    if isinstance(layer, NORMS):
        return type(layer)(layer.num_features, layer.eps).eval()
    own, weight = deepcopy(layer), layer.get_parameter("weight")
    own.bias = nn.Parameter(weight.detach().new_zeros(len(weight)))
    return own
