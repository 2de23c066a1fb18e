"""The tensors in whatever a network returns: a tensor, a tuple, a mapping, a dataclass, ..."""

from collections.abc import Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError

# types of outputs that hold no tensor
PLAIN = (type(None), str, bytes, bool, int, float, complex, Enum, torch.dtype, torch.device, torch.layout, type)


def output_tensors(outputs: Any) -> list[Tensor]:
    """All tensors in what a network returns, also within tuples, lists, sets, mappings and attributes of objects.

    A key-value cache is left out: it is an input of the network's next call, not an output, and a permutation of
    attention heads permutes it. Raises UserError for objects whose content cannot be inspected, such as generators.
    """
    return _collect_tensors(outputs, set())


def _collect_tensors(value: Any, seen: set[int]) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PLAIN) or id(value) in seen or _is_key_value_cache(value):
        return []
    seen.add(id(value))
    return [tensor for part in _list_parts(value) for tensor in _collect_tensors(part, seen)]


def _is_key_value_cache(value: Any) -> bool:
    """Whether an object has the methods of a key-value cache of the transformers package."""
    return all(callable(getattr(value, name, None)) for name in ("update", "get_seq_length"))


def _list_parts(value: Any) -> Iterable[Any]:
    """The items of a container, or the values of an object's attributes; UserError if it has neither."""
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Sequence | Set):
        return value
    slots = {name for kind in type(value).__mro__ for name in _list_slots(kind)}
    if callable(value) or not (hasattr(value, "__dict__") or slots):
        raise UserError(
            f"the network returns a {type(value).__name__}; tensors, or tuples, lists, mappings, dataclasses or other "
            "objects with attributes are needed"
        )
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in sorted(slots))]


def _list_slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]
