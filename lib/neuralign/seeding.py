"""Independent random streams from one seed: one per purpose and step, so that nothing depends on what ran before."""

import hashlib
from contextlib import AbstractContextManager

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


def stream(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for that purpose."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))
