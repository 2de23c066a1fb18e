"""A network from any importable callable: `torchvision.models:resnet18`, `my_net.py:Net`."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from neuralign.common.errors import UserError
from neuralign.config.references import load

CLASSES = ("num_classes", "classes", "n_classes")  # what parameters for them are called
CHANNELS = ("in_channels", "in_chans", "channels", "num_channels", "n_channels", "input_channels")


class NetworkError(UserError):
    """A network that cannot be built or does not do what is asked of it."""


def construct(use: str, options: Mapping[str, Any], classes: int | None, channels: int) -> nn.Module:
    """What the callable returns for `options`, and for the numbers of classes and channels where they do not say them.

    These go to the first parameter of CLASSES and CHANNELS that the callable has; the classes to `num_classes` where it
    takes any keyword, as torchvision's do. A module in place of a callable is copied.
    """
    found = load(use)
    if isinstance(found, nn.Module):
        if options:
            raise NetworkError(f"{use}: is a module already and takes no options; found {dict(options)}")
        return copy.deepcopy(found)
    if not callable(found):
        raise NetworkError(f"{use}: found {type(found).__name__}, a callable that returns a torch.nn.Module is wanted")
    given = {**_filled(found, classes, channels, options), **options}
    try:
        network = found(**given)
    except (Exception, SystemExit) as error:  # the code is anybody's, and so are its errors
        raise NetworkError(f"{use}: called with {given or 'no options'}: {summary(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{use}: returned {type(network).__name__}, a torch.nn.Module is wanted")
    return network


def summary(error: BaseException) -> str:
    """Its kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ")


def _filled(
    found: Callable[..., Any], classes: int | None, channels: int, options: Mapping[str, Any]
) -> dict[str, int]:
    accepted = inspect.signature(found).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    filled = {}
    for names, number in ((CLASSES, classes), (CHANNELS, channels)):
        name = next((n for n in names if n in accepted), names[0] if anything and names is CLASSES else None)
        if name and number is not None and not set(names) & options.keys():
            filled[name] = number
    return filled
