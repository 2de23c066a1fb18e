"""Independent random streams from one seed, one for each purpose and step.

So the random numbers of a step do not depend on what ran before it, and a resumed training draws the same ones.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed derived from `seed` and the words and numbers of `purpose`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def reseed(device: torch.device, seed: int, *purpose: object) -> None:
    """Seed the global generator of `device`, from which dropout and other layers draw, for this purpose."""
    global_generator(device).manual_seed(derive(seed, *purpose))


def global_generator(device: torch.device) -> torch.Generator:
    """Torch's global generator of `device`."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def preserved_generators(device: torch.device) -> AbstractContextManager[None]:
    """A block after which the global generators of the CPU and of `device` are restored."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def drawn_alike(device: torch.device) -> Iterator[None]:
    """A block in which a network draws the same random numbers every time; all generators are restored after it."""
    before = random.getstate(), np.random.get_state()
    with preserved_generators(device):
        for drawing_device in (torch.device("cpu"), device):
            global_generator(drawing_device).manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def stream(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded for this purpose."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))
