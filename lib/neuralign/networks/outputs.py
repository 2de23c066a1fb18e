"""The tensors that a network returns, wherever it puts them."""

from collections.abc import Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import Refused

PLAIN = (type(None), str, bytes, bool, int, float, complex, Enum, torch.dtype, torch.device, torch.layout, type)


def heads(outputs: Any) -> list[Tensor]:
    """All tensors of what a network returns, also those in tuples, lists, sets, mappings and objects with attributes.

    A cache of keys and values is left out: the network keeps it for its own next call, and its order is that of the
    heads within the network. Refused is what may hold tensors where nobody can look, such as a generator.
    """
    return _tensors(outputs, set())


def _tensors(value: Any, seen: set[int]) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PLAIN) or id(value) in seen or is_cache(value):
        return []
    seen.add(id(value))
    return [tensor for part in _parts(value) for tensor in _tensors(part, seen)]


def is_cache(value: Any) -> bool:
    """Whether an object is a cache of keys and values, as transformers has them, by what it can do."""
    return all(callable(getattr(value, name, None)) for name in ("update", "get_seq_length"))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Sequence | Set):
        return value
    slots = {name for kind in type(value).__mro__ for name in _slots(kind)}
    if callable(value) or not (hasattr(value, "__dict__") or slots):
        raise Refused(
            f"the network returns a {type(value).__name__}; tensors, or tuples, lists, mappings, dataclasses or other "
            "objects with attributes are wanted"
        )
    return [*vars(value).values()] if hasattr(value, "__dict__") else [getattr(value, s, None) for s in sorted(slots)]


def _slots(kind: type) -> list[str]:
    found = vars(kind).get("__slots__", ())
    names = [found] if isinstance(found, str) else list(found)
    return [name for name in names if not name.startswith("__")]
