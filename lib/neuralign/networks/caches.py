"""Restores the Python attributes of modules after a run of the network, so that no cached value is used again.

In evaluation mode some networks cache in an attribute what they computed from their weights, and use it in the next
call. In a call with other weights that value would be wrong, and no error would show it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

OF_TORCH = frozenset(vars(nn.Module()))  # attributes that every module has; they are not restored
CONTAINERS = (dict, list, tuple, set, deque)  # whose items are searched; the mutable ones are restored
OPAQUE = (Tensor, nn.Module, type, FunctionType, ModuleType)  # objects whose attributes are not searched


@contextmanager
def preserved_attributes(modules: Iterable[nn.Module]) -> Iterator[Callable[[], None]]:
    """A block after which these modules have their old attributes again; mutable containers have their old items.

    Yields a function that restores them within the block. Tensors and arrays changed in place are not restored.
    """
    attributes = [vars(module) for module in modules]
    saved = [(current, {n: v for n, v in current.items() if n not in OF_TORCH}) for current in attributes]
    containers = _copy_containers(value for _, old in saved for value in old.values())

    def restore() -> None:
        for current, old in saved:
            for name in current.keys() - OF_TORCH - old.keys():
                del current[name]
            current.update(old)
        for container, content in containers:
            _refill(container, content)

    try:
        yield restore
    finally:
        restore()


def modules_in_evaluation(network: nn.Module) -> list[nn.Module]:
    """All modules in evaluation mode. Attributes of the others may change: they may count calls."""
    return [module for module in network.modules() if not module.training]


def _copy_containers(values: Iterable[Any]) -> list[tuple[Any, Any]]:
    """(container, copy of its items) of every mutable container among the values, their items and their attributes."""
    containers: dict[int, tuple[Any, Any]] = {}
    queue = list(values)
    while queue:
        value = queue.pop()
        if not isinstance(value, CONTAINERS):
            value = None if isinstance(value, OPAQUE) else getattr(value, "__dict__", None)
        if not isinstance(value, CONTAINERS) or id(value) in containers:
            continue
        if not isinstance(value, tuple):
            containers[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
        queue += value.values() if isinstance(value, dict) else value
    return list(containers.values())


def _list_objects(container: Any) -> list[Any]:
    """The keys and values of a dict, or the items of another container."""
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def _refill(container: Any, content: Any) -> None:
    """Replace the items of a container, unless they are the same objects: some containers refuse any change."""
    if len(container) == len(content) and all(map(is_, _list_objects(container), _list_objects(content))):
        return
    container.clear()
    if isinstance(container, dict | set):
        container.update(content)
    else:
        container.extend(content)
