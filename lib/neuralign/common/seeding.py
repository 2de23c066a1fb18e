"""Independent random streams from one seed: one per purpose and step, so that nothing depends on what ran before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed that depends on `seed` and on the words and numbers of `purpose`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def reseed(device: torch.device, seed: int, *purpose: object) -> None:
    """Seed torch's global generator of `device` for that purpose: what dropout and other layers draw from."""
    global_generator(device).manual_seed(derive(seed, *purpose))


def global_generator(device: torch.device) -> torch.Generator:
    """Torch's own generator of `device`."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def aside(device: torch.device) -> AbstractContextManager[None]:
    """A block after which the global generators of the CPU and of `device` are as they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def drawn_alike(device: torch.device) -> Iterator[None]:
    """What a network draws at random is the same in every run, and no one else's draws change."""
    before = random.getstate(), np.random.get_state()
    with aside(device):
        for each in (torch.device("cpu"), device):
            global_generator(each).manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def stream(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for that purpose."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))
