"""Independent random streams from one seed, one for each purpose and step.

The random numbers of a step do not depend on what ran before it, so a resumed training draws the same numbers.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed derived from `seed` and the words and numbers of `purpose`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def reseed(device: torch.device, seed: int, *purpose: object) -> None:
    """Seed the global generator of `device`, from which dropout and other layers draw, for this purpose."""
    global_generator(device).manual_seed(derive(seed, *purpose))


def global_generator(device: torch.device) -> torch.Generator:
    """Torch's global generator of `device`; "cuda" without a number is the present GPU of this process."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def preserved_generators(device: torch.device) -> AbstractContextManager[None]:
    """A block after which the global generators of the CPU and of `device` are restored."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def repeatable_draws(device: torch.device) -> Iterator[None]:
    """A block in which all global generators (torch, numpy, random) start from seed 0; they are restored after it.

    So a network that draws random numbers draws the same ones in every such block.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with preserved_generators(device):
        for drawing_device in (torch.device("cpu"), device):
            global_generator(drawing_device).manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


class PartGenerator(torch.Generator):
    """A generator of a process that computes a part of a batch, from which `uniform` draws for the whole batch.

    So every process gets the numbers for its examples that a single process would draw for them.
    """

    whole: int  # examples in the batch
    part: slice  # of them in the part


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) for the examples of a batch, float32 of this shape, on the generator's device."""
    device = generator.device
    if isinstance(generator, PartGenerator):
        return torch.rand((generator.whole, *shape[1:]), generator=generator, device=device)[generator.part]
    return torch.rand(shape, generator=generator, device=device)


def stream(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` with the seed of this purpose."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))
