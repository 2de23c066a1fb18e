"""What modules keep in Python besides parameters and buffers, put back after a run.

Some networks keep what they computed from their weights in evaluation mode, to use it in the next call. With other
weights that would be a wrong number without a word, so nothing that one run leaves there may meet the next.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

OF_TORCH = frozenset(vars(nn.Module()))  # attributes of every module: parameters, buffers, children, hooks, its mode
CONTAINERS = (dict, list, tuple, set, deque)
CLOSED = (Tensor, nn.Module, type, FunctionType, ModuleType)  # what is not looked into


@contextmanager
def uncached(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block after which these modules have the attributes they had before, and these contain what they did.

    Tensors and arrays that the block writes to in place are not put back.
    """
    attributes = [vars(module) for module in modules]
    before = [(each, {n: value for n, value in each.items() if n not in OF_TORCH}) for each in attributes]
    contents = _contents(value for _, own in before for value in own.values())
    try:
        yield
    finally:
        for each, own in before:
            for name in each.keys() - OF_TORCH - own.keys():
                del each[name]
            each.update(own)
        for container, held in contents:
            _refill(container, held)


def evaluating(network: nn.Module) -> list[nn.Module]:
    """The modules in evaluation mode; those in training mode may count their calls, or note what comes next."""
    return [module for module in network.modules() if not module.training]


def _contents(values: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Every container that these values are, contain or have for attributes, with a copy of what it holds."""
    found: dict[int, tuple[Any, Any]] = {}
    ahead = list(values)
    while ahead:
        value = ahead.pop()
        if not isinstance(value, CONTAINERS):
            value = None if isinstance(value, CLOSED) else getattr(value, "__dict__", None)
        if not isinstance(value, CONTAINERS) or id(value) in found:
            continue
        if not isinstance(value, tuple):
            found[id(value)] = value, value.copy()
        ahead += value.values() if isinstance(value, dict) else value
    return list(found.values())


def _refill(container: Any, held: Any) -> None:
    """Put back what a container held."""
    container.clear()
    if isinstance(container, dict | set):
        container.update(held)
    else:
        container.extend(held)
