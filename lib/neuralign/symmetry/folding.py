"""Makes networks faster to evaluate: folds batch norms into the layers before them, and lets ReLUs work in place.

On a CPU both operations are limited by memory bandwidth; an evaluation of TinyTen spends a quarter of its time in them.
"""

import operator
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from neuralign.networks.model import BATCH_NORMS, State
from neuralign.symmetry.tracing.execution import evaluation_copy

WEIGHTED = (nn.Linear, nn.Conv2d)  # layers that a batch norm can be folded into
AFFINE = (*WEIGHTED, *BATCH_NORMS)
RELU_FUNCTIONS = {F.relu, torch.relu}
NEW_MEMORY = {operator.add, torch.add, torch.cat}  # functions whose result shares no memory with an operand
EMPTY = fx.GraphModule(nn.Module(), fx.Graph())
RESERVED = {*dir(EMPTY)} - {*dir(nn.Module())}  # attributes of a torch.fx.GraphModule; no layer may have such a name


class Uncapturable(NotImplementedError):
    """`torch.fx` cannot represent the network as a graph of its layers; the message, a noun phrase, says what it is."""


@dataclass(frozen=True)
class Folded:
    """A network with its batch norms folded into the layers before them.

    A batch norm that does not follow a layer directly, or whose input is used elsewhere too, stays as a scale and a
    shift of every channel. One without running statistics stays as it is.
    """

    graph: fx.GraphModule
    norms: Mapping[str, str]  # layer -> the batch norm that is folded into it
    epsilons: Mapping[str, float]  # batch norm with running statistics -> its epsilon

    def state(self, state: State) -> dict[str, Tensor]:
        """The tensors with which the folded network computes what the original does with `state` in evaluation mode."""
        out: dict[str, Tensor] = {}
        for name, layer in self.graph.named_modules():
            if name in self.epsilons:
                scale, shift = self._scale_and_shift(state, name)
                mean, var = torch.zeros_like(scale), torch.ones_like(scale) - layer.eps  # the norm divides by 1
                out |= {f"{name}.weight": scale, f"{name}.bias": shift}
                out |= {f"{name}.running_mean": mean, f"{name}.running_var": var}
            elif isinstance(layer, WEIGHTED):
                weight = state[f"{name}.weight"]
                bias = state.get(f"{name}.bias", weight.new_zeros(len(weight)))
                if name in self.norms:
                    scale, shift = self._scale_and_shift(state, self.norms[name])
                    weight, bias = weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias * scale + shift
                out |= {f"{name}.weight": weight, f"{name}.bias": bias}
            else:
                out |= {n: state[n] for n in _tensor_names(name, layer) if n in state}
        return out

    def _scale_and_shift(self, state: State, norm: str) -> tuple[Tensor, Tensor]:
        """The scale (n,) and the shift (n,) of the affine map that the batch norm `norm` is in evaluation mode."""
        scale = (state[f"{norm}.running_var"] + self.epsilons[norm]).rsqrt() * state.get(f"{norm}.weight", 1.0)
        return scale, state.get(f"{norm}.bias", 0.0) - state[f"{norm}.running_mean"] * scale


def capture(network: nn.Module) -> fx.GraphModule:
    """The torch.fx graph of a copy of `network`, in evaluation mode.

    It is recorded in training mode, so it has the auxiliary outputs that a network may have in that mode only.

    Raises Uncapturable if the graph depends on the input, if layers or their weights are shared or computed, or if a
    layer or a tensor has the name of an attribute of torch.fx.GraphModule.
    """
    twin = evaluation_copy(network)
    if reserved := sorted(RESERVED & {*twin._modules, *twin._parameters, *twin._buffers}):
        raise Uncapturable(
            f"a network with a layer or tensor {reserved[0]!r}, a name that torch.fx.GraphModule reserves"
        )
    try:
        twin.train()  # on a line of its own: a network's own `train` may return None
        graph = fx.symbolic_trace(twin).eval()
    except Exception as error:  # of any kind: the network's code gets proxies in place of tensors
        raise Uncapturable(f"a network whose graph depends on its input: {error}") from error
    tensors = dict(twin.named_parameters()) | dict(twin.named_buffers())
    called = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]
    for name, layer in graph.named_modules():
        if isinstance(layer, AFFINE):
            # `tensors` has a shared tensor once, and no computed one
            shared = called.count(layer) > 1 or any(f"{name}.{t}" not in tensors for t in layer.state_dict())
            computed = any(getattr(layer, t) is not None and f"{name}.{t}" not in tensors for t in ("weight", "bias"))
            if shared or computed:
                raise Uncapturable(f"layer {name!r}, whose weights are shared or computed: {type(layer).__name__}")
    return graph


def fold(network: fx.GraphModule) -> Folded:
    """A folded copy of a captured network in evaluation mode; its outputs are the same up to rounding."""
    modules, norms, epsilons = dict(network.named_modules()), {}, {}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    for node in list(graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, BATCH_NORMS) and layer.track_running_stats:
            epsilons[str(node.target)] = layer.eps
            (source,) = node.all_input_nodes
            if _is_layer(source, modules, WEIGHTED) and len(source.users) == 1:
                weight = modules[str(source.target)].get_parameter("weight")
                if len(weight) == layer.num_features:  # else the norm is over another axis, such as tokens
                    norms[str(source.target)] = str(node.target)
                    node.replace_all_uses_with(source)
    folded = fx.GraphModule(network, graph).eval()
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    folded.recompile()
    for name, layer in list(folded.named_modules()):
        if isinstance(layer, WEIGHTED) or name in epsilons:
            folded.add_submodule(name, _with_bias(layer))
    return Folded(folded, norms, epsilons)


def use_inplace_relus(network: fx.GraphModule) -> None:
    """Change `network`, a captured one, so that each ReLU whose input nothing else reads works in place."""
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        if _is_layer(node, modules, nn.ReLU) or node.target in RELU_FUNCTIONS or node.target == "relu":
            (source,) = node.all_input_nodes
            if len(source.users) == 1 and (_is_layer(source, modules, AFFINE) or source.target in NEW_MEMORY):
                node.op, node.target, node.args, node.kwargs = "call_function", torch.relu_, (source,), {}
    network.recompile()


def _is_layer(node: fx.Node, modules: Mapping[str, nn.Module], kinds: tuple[type, ...] | type) -> bool:
    """Whether a node of the graph calls a layer of one of these classes."""
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), kinds)


def _tensor_names(name: str, layer: nn.Module) -> Iterator[str]:
    """The names in the network of the parameters and buffers of a layer `name`, without those of its submodules."""
    for tensor in [*dict(layer.named_parameters(recurse=False)), *dict(layer.named_buffers(recurse=False))]:
        yield f"{name}.{tensor}" if name else tensor


def _with_bias(layer: nn.Module) -> nn.Module:
    """A new layer of the same kind that has a weight and a bias, to hold the tensors of `Folded.state`."""
    if isinstance(layer, BATCH_NORMS):
        return type(layer)(layer.num_features, layer.eps).eval()
    twin, weight = deepcopy(layer), layer.get_parameter("weight")
    twin.bias = nn.Parameter(weight.detach().new_zeros(len(weight)))
    return twin
