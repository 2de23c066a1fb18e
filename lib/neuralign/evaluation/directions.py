"""Random directions in weight space whose filters are as long as those of a network (Li et al. 2018, "Visualizing the
Loss Landscape of Neural Nets", arXiv:1712.09913).

The scale of a network's weights is arbitrary where its units are scale-invariant, as before batch norm. Directions that
have the network's own scale, filter by filter, make pictures of different networks comparable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.curves.endpoints import divide
from neuralign.datasets.batches import Inputs
from neuralign.networks.model import Model, State, trainable

CORNERS = 3  # states that span a plane


def filter_normalised(state: State, names: Sequence[str], draws: torch.Generator) -> dict[str, Tensor]:
    """A direction, {name: tensor of the shape of that in `state`}, drawn from a normal distribution.

    Each filter, the slice of a tensor along its first axis, has the norm of that filter in `state`: the kernel of an
    output channel of a convolution, the row of a linear layer, the vector of a token. Tensors of fewer than two axes,
    which are biases and the parameters of norms, are zero.

    Args:
        state: of the network.
        names: of the tensors that the direction has.
        draws: a generator on the CPU, so that all devices get the same numbers.
    """
    direction = {}
    for name in names:
        weights = state[name]
        if weights.dim() < 2 or not weights.numel():
            direction[name] = torch.zeros_like(weights)
            continue
        drawn = torch.randn(weights.shape, generator=draws, dtype=torch.promote_types(weights.dtype, torch.float32))
        drawn = drawn.to(weights.device)
        scale = _filter_norms(weights) / _filter_norms(drawn)
        direction[name] = (drawn * scale.to(drawn.dtype).view(-1, *[1] * (weights.dim() - 1))).to(weights.dtype)
    return direction


def _filter_norms(tensor: Tensor) -> Tensor:
    """The L2 norm of each slice along the first axis, (n,) in float64."""
    wide = tensor.flatten(1).to(torch.promote_types(tensor.dtype, torch.float64))
    return torch.linalg.vector_norm(wide, dim=1)


def spanning_states(model: Model, states: Sequence[State], inputs: Inputs, seed: int) -> list[State]:
    """Three states that span a plane: the given ones, followed by the first state moved along random directions.

    With one state the plane is spanned by two directions, with two by the line between them and one direction.

    Args:
        model: the network.
        states: one to three.
        inputs: of a few examples, on which buffers that follow from the weights are computed at the new states.
        seed: of the directions.

    Raises UserError if no trained parameter has two axes or more, so that there is no filter to scale by.
    """
    first, trained = states[0], trainable(model.network)
    names = [name for name in first if name in trained]
    if len(states) < CORNERS and not any(first[name].dim() > 1 and first[name].any() for name in names):
        raise UserError(
            "no random direction: no trained parameter of the network has two axes or more and weights that are not "
            "zero, so there is no filter whose norm a direction could have"
        )
    moved = []
    for number in range(CORNERS - len(states)):
        direction = filter_normalised(first, names, stream(seed, "direction", number))
        state = {name: t + direction[name] if name in direction else t for name, t in first.items()}
        moved.append(state | divide(model, [first, state], inputs).updated_from_weights(state))
    return [*states, *moved]
