"""The attacks under which networks are evaluated."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from neuralign.config.plugins import Entry, plugin
from neuralign.training.progress import Attack, autocast


def attacks_of(entries: Mapping[str, Entry], precision: str = "float32") -> dict[str, Attack | None]:
    """name -> attack, of config entries, and None for clean images, which come first.

    `precision`: in which the attacks see the network.
    """
    attacks = {name: in_precision(plugin("attacks", entry), precision) for name, entry in entries.items()}
    return {"clean": None, **attacks}


def in_precision(attack: Attack, precision: str) -> Attack:
    """The attack on a network that computes in this precision ("float32", or a dtype of `torch.autocast`)."""
    if precision == "float32":
        return attack

    def attack_in_precision(
        predict: Callable[[Tensor], Any], pixels: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        def predict_in_precision(x: Tensor) -> Any:
            with autocast(x.device, precision):
                return predict(x)

        return attack(predict_in_precision, pixels, labels, generator)

    return attack_in_precision
