"""The attacks under which networks are evaluated."""

from collections.abc import Mapping

from neuralign.config.plugins import Entry, plugin
from neuralign.training.progress import Attack, in_precision


def attacks_of(entries: Mapping[str, Entry], precision: str = "float32") -> dict[str, Attack | None]:
    """name -> attack, of config entries, and None for clean images, which come first.

    `precision`: in which the attacks see the network.
    """
    attacks = {name: in_precision(plugin("attacks", entry), precision) for name, entry in entries.items()}
    return {"clean": None, **attacks}
