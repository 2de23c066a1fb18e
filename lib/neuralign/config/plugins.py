"""A config entry `{use: f, ...options}` becomes the function f with its options bound.

A plug-in is one function in one file of the same name: `training/attacks/pgd.py` holds `pgd`. What the caller supplies
are its positional parameters; its keyword-only parameters are its options, with types from `options.py`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

Entry = Mapping[str, Any]
KINDS = {  # kind, as the config calls it -> the package whose modules are plug-ins of this kind
    "datasets": "datasets.sources",
    "networks": "networks.architectures",
    "attacks": "training.attacks",
    "augmentations": "training.augmentations",
    "schedules": "training.schedules",
    "alignments": "alignment.algorithms",
    "curves": "curves.families",
    "figures": "report.figures",
}


def plugin(kind: str, entry: Entry) -> Callable[..., Any]:
    """The function of a plug-in with the entry's options bound. The entry has been checked before."""
    options = dict(entry)
    use = options.pop("use")
    return partial(getattr(import_module(module(kind, use)), use), **options)


def plugin_or_none(kind: str, entry: Entry | None) -> Callable[..., Any] | None:
    """The same; None for no entry."""
    return plugin(kind, entry) if entry else None


def module(kind: str, use: str) -> str:
    """The name of the module of a plug-in."""
    return f"neuralign.{KINDS[kind]}.{use}"
