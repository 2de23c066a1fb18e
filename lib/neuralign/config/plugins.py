"""Finds the function of a plug-in: a config entry `{use: f, ...options}` becomes f with its options bound.

A plug-in is a function in a file of the same name: `training/attacks/pgd.py` holds `pgd`. Its positional parameters are
supplied by the code that calls it. Its keyword-only parameters are the options that the config may set, with types from
`options.py` and descriptions in the `Args` list of its docstring.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from neuralign.common.files import PACKAGE

Entry = Mapping[str, Any]
KINDS = {  # kind of plug-in -> the package whose modules are plug-ins of this kind
    "datasets": "datasets.sources",
    "networks": "networks.architectures",
    "attacks": "training.attacks",
    "augmentations": "training.augmentations",
    "schedules": "training.schedules",
    "objectives": "training.objectives",
    "optimisers": "training.optimisers",
    "alignments": "alignment.algorithms",
    "cohorts": "alignment.cohorts",
    "curves": "curves.families",
    "repairs": "merging.repairs",
    "figures": "report.figures",
}


def plugin(kind: str, entry: Entry) -> Callable[..., Any]:
    """The function of a plug-in with the options of the entry bound. The entry must have passed the config check."""
    options = dict(entry)
    use = options.pop("use")
    return partial(getattr(import_module(module(kind, use)), use), **options)


def plugin_or_none(kind: str, entry: Entry | None) -> Callable[..., Any] | None:
    """`plugin` of an entry; None for None."""
    return plugin(kind, entry) if entry else None


def module(kind: str, use: str) -> str:
    """The name of the module of a plug-in."""
    return f"neuralign.{KINDS[kind]}.{use}"


def source(kind: str, use: str) -> Path:
    """The file of a plug-in."""
    return PACKAGE.parent.joinpath(*module(kind, use).split(".")).with_suffix(".py")
