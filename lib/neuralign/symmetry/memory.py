"""How much memory the comparison of two networks needs."""

GIB = 2**30
MARGIN = (
    1.1  # for what is needed for a moment; the measured need of a vit_b_16 is 0.7, of a resnet101 1.0 of the estimate
)


def needed_memory(itemsize: int, state: int, gradients: int, activations: int) -> int:
    """How many bytes `outputs_and_gradients` of two networks need, one after the other, besides the networks.

    Args:
        itemsize: bytes of a number.
        state: numbers in a network's parameters and buffers, of which there is one copy.
        gradients: numbers in the gradients that are held at once, of each network.
        activations: numbers in all results of a forward pass, of which the backward pass may need every one.
    """
    return int(itemsize * (state + 2 * gradients + activations) * MARGIN)
