"""How much memory the comparison of two networks needs."""

import ctypes

GIB = 2**30
M_MMAP_THRESHOLD = -3  # of malloc.h
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


def return_freed_memory() -> None:
    """Let the C library return the memory of each tensor above 1 MiB to the system as soon as it is freed.

    By default glibc keeps what is freed between tensors that are still in use, and a process that works on a large
    network holds up to twice what it needs. It costs a little time; it is for whole processes, so no library call does
    it. The environment variable MALLOC_MMAP_THRESHOLD_=1048576 has the same effect.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in every C library
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)
