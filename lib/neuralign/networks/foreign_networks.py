"""Builds a network by calling an importable callable, `my_net.py:Net`, or the one that a hub's name stands for.

Names of hubs are `timm/resnet18`, `hf-hub:timm/resnet18.a1_in1k` and `torchvision:ResNet18_Weights.DEFAULT`.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from neuralign.common.errors import UserError
from neuralign.config.plugins import HUB_MODULE
from neuralign.config.references import is_hub, load

# parameters of callables that mean the number of classes, or of channels of the images
CLASSES = ("num_classes", "classes", "n_classes")
CHANNELS = ("in_channels", "in_chans", "channels", "num_channels", "n_channels", "input_channels")


class NetworkError(UserError):
    """A network that cannot be built, or cannot be run as it must be."""


def construct(use: str, options: Mapping[str, Any], classes: int | None, channels: int) -> nn.Module:
    """The network that the callable `use` returns for `options`.

    The numbers of classes and channels are passed too, unless `options` has them, to the first of the parameters
    CLASSES and CHANNELS that the callable has. A callable with `**kwargs` and none of CLASSES gets `num_classes`, as
    those of torchvision need it. If `use` names a module instead of a callable, the network is a copy of it. Raises
    NetworkError.
    """
    factory = hub_networks().factory(use) if is_hub(use) else load(use)
    if isinstance(factory, nn.Module):
        if options:
            raise NetworkError(f"{use}: is a module, which takes no options; found {dict(options)}")
        return copy.deepcopy(factory)
    if not callable(factory):
        raise NetworkError(f"{use}: found {type(factory).__name__}; a callable that returns an nn.Module is needed")
    arguments = dict(options)
    try:
        arguments = _match_counts(factory, classes, channels, options) | arguments
        network = factory(**arguments)
    except (Exception, SystemExit) as error:  # it is code of the user, which may raise anything
        raise NetworkError(f"{use}: called with {arguments or 'no options'}: {summary(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{use}: returned {type(network).__name__}; a torch.nn.Module is needed")
    return network


def hub_networks() -> ModuleType:
    """The module of networks of hubs, imported by its name: only recipes of jobs with such a network hold its code."""
    return import_module(HUB_MODULE)


def summary(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ")


def _match_counts(
    factory: Callable[..., Any], classes: int | None, channels: int, options: Mapping[str, Any]
) -> dict[str, int]:
    """The arguments for the numbers of classes and channels, by the names of the callable's parameters."""
    accepted = inspect.signature(factory).parameters
    has_kwargs = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    counts = {}
    for names, number in ((CLASSES, classes), (CHANNELS, channels)):
        name = next((n for n in names if n in accepted), names[0] if has_kwargs and names is CLASSES else None)
        if name and number is not None and not set(names) & options.keys():
            counts[name] = number
    return counts
