"""A config entry `{use: f, ...options}` becomes the function f with its options bound.

A plug-in is one function in one file of the same name: `attacks/pgd.py` holds `pgd`. What the caller supplies are its
positional parameters; its keyword-only parameters are its options, with types from `options.py`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

Entry = Mapping[str, Any]


def plugin(home: str, entry: Entry) -> Callable[..., Any]:
    """The function `neuralign.<home>.<use>.<use>` with the entry's options bound. The entry has been checked before."""
    options = dict(entry)
    use = options.pop("use")
    return partial(getattr(import_module(f"neuralign.{home}.{use}"), use), **options)
