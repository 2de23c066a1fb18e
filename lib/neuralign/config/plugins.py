"""Finds the function of a plug-in: a config entry `{use: f, ...options}` becomes f with its options bound.

A plug-in of this package is a function in a file of the same name: `training/attacks/pgd.py` holds `pgd`. One from
outside is a function that `use` names as `package.module:name` or `folder/file.py:name`, or by the name of an entry
point in the group `neuralign.<kind>` of an installed package, such as `neuralign.attacks`.

The positional parameters of a plug-in are supplied by the code that calls it. Its keyword-only parameters are the
options that the config may set, with types from `options.py` and descriptions in the `Args` list of its docstring.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from neuralign.common.files import PACKAGE
from neuralign.config.references import ObjectError, find, is_object, load

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

HUB_MODULE = "neuralign.networks.hubs.networks"  # loads the networks and checkpoints that are named after hubs


def plugin(kind: str, entry: Entry) -> Callable[..., Any]:
    """The function of a plug-in with the options of the entry bound. The entry must have passed the config check."""
    options = dict(entry)
    use = options.pop("use")
    if outside := object_outside(kind, use):
        return partial(load(outside), **options)
    if not _file_inside(kind, use).is_file():  # its package is not where the job runs
        raise ObjectError(f"no plug-in {use!r} of {kind} in {PACKAGE.name} or in the packages that are installed here")
    return partial(getattr(import_module(module(kind, use)), use), **options)


def plugin_or_none(kind: str, entry: Entry | None) -> Callable[..., Any] | None:
    """`plugin` of an entry; None for None."""
    return plugin(kind, entry) if entry else None


def object_outside(kind: str, use: str) -> str | None:
    """What a plug-in from outside is, `package.module:name` or `folder/file.py:name`; None for one of this package.

    Entry points are looked for only where this package has no plug-in of the name.
    """
    if is_object(use):
        return use
    if _file_inside(kind, use).is_file():
        return None
    return next((point.value for point in named_entry_points(kind).get(use, ())), None)


def named_entry_points(kind: str) -> dict[str, list[EntryPoint]]:
    """{name: entry points} of the installed packages that add plug-ins of a kind."""
    points: dict[str, list[EntryPoint]] = {}
    for point in _entry_points():
        if point.group == f"neuralign.{kind}":
            points.setdefault(point.name, []).append(point)
    return points


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Those of all kinds; looking for them reads a file of every installed package."""
    points = entry_points()
    return tuple(point for kind in KINDS for point in points.select(group=f"neuralign.{kind}"))


def module(kind: str, use: str) -> str:
    """The name of the module of a plug-in of this package."""
    return f"neuralign.{KINDS[kind]}.{use}"


def source(kind: str, use: str) -> Path:
    """The file of a plug-in. Raises ObjectError if one from outside has none."""
    outside = object_outside(kind, use)
    return find(outside) if outside else _file_inside(kind, use)


def _file_inside(kind: str, use: str) -> Path:
    """Where the file of a plug-in of this package would be."""
    return PACKAGE.parent.joinpath(*module(kind, use).split(".")).with_suffix(".py")
