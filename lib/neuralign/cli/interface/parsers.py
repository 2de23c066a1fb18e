"""The parsers of the values of options. They name what was found and what is allowed; typer adds the option.

What an option may be that the config has too is said once, by a type of `config/options.py`. Torch-free.
"""

import re
from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any, NamedTuple, NewType, TypeVar

import typer

LARGEST = 10**9  # so many numbers an input may have: 4 GB
Value = TypeVar("Value")
Numbers = NewType("Numbers", list[float])  # a value such as 0.5,0.25; a plain list would be an option to be repeated


class ExampleInput(NamedTuple):
    """One input of a network, to be drawn at random."""

    shape: list[int]
    name: str = ""  # of the argument; "" if it is passed by position
    values: tuple[int, int] | None = None  # smallest and largest whole number; None: normally distributed numbers
    is_bool: bool = False


class ImageShape(NamedTuple):
    """The shape of an image."""

    channels: int
    height: int
    width: int


def for_text(parse: Callable[[str], Value]) -> Callable[[Any], Value]:
    """`parse` as a parser of typer, which also gives it the default of an option, a value already."""

    @wraps(parse)
    def parse_text(value: Any) -> Value:
        return parse(value) if isinstance(value, str) else value

    return parse_text


def value_of(name: str) -> Callable[[Any], Any]:
    """A parser of values of a type of `config/options.py`, such as "Count"."""

    @for_text
    def parse(text: str) -> Any:
        return _validated(name, text, text)

    return parse


def values_of(name: str) -> Callable[[Any], Numbers]:
    """A parser of numbers separated by commas, each of a type of `config/options.py`."""

    @for_text
    def parse(text: str) -> Numbers:
        return Numbers([_validated(name, part, text, "; commas separate several") for part in text.split(",")])

    return parse


def _validated(name: str, part: str, text: str, more: str = "") -> Any:
    """The value of a part of the text. Pydantic is imported only now: the help does without it."""
    from pydantic import TypeAdapter, ValidationError

    from neuralign.config import options

    adapter = TypeAdapter(getattr(options, name))
    try:
        return adapter.validate_python(part)
    except ValidationError:
        from neuralign.config.documentation.reference_page import type_in_words

        raise typer.BadParameter(f"found {text!r}; needed is a {type_in_words(adapter.json_schema())}{more}") from None


def one_of(*allowed: str) -> Callable[[str], str]:
    """A parser of one of these words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise typer.BadParameter(f"found {text!r}; needed is {' or '.join(allowed)}")
        return text

    return parse


count = value_of("Count")


def count_or_all(text: str) -> str:
    """A whole number from 1, or `all`, as text."""
    if text != "all" and not re.fullmatch(r"[1-9][0-9]*", text):
        raise typer.BadParameter(f"found {text!r}, a whole number from 1 or `all` is needed")
    return text


def _check_size(text: str, sizes: Sequence[int]) -> None:
    """Refuse a shape that no memory holds."""
    if problem := too_large(sizes):
        raise typer.BadParameter(f"found {text!r}{problem}")


def too_large(sizes: Sequence[int]) -> str:
    """The words on a shape that no memory holds; "" for any other."""
    return f", which are {prod(sizes):.1e} numbers; at most {LARGEST:.0e} are allowed" if prod(sizes) > LARGEST else ""


@for_text
def example_input(text: str) -> ExampleInput:
    """One input of a network, such as `1,3,64,64` or `input_ids=1,16:0..999`."""
    parts = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?([^=:]*)(?::(?:(bool)|([0-9]{1,18})\.\.([0-9]{1,18})))?", text)
    if not parts or (parts[4] and int(parts[4]) > int(parts[5])):
        raise typer.BadParameter(
            f"found {text!r}, an input such as 1,3,64,64, tokens=1,16:0..999 or mask=1,16:bool is needed"
        )
    name, shape, is_bool, smallest, largest = parts.groups()
    sizes = [count(part) for part in shape.split(",")]
    _check_size(text, sizes)
    if not name and len(sizes) < 2:  # the first size counts the examples
        raise typer.BadParameter(f"found {shape!r}, a shape such as 1,3,32,32 is needed")
    return ExampleInput(sizes, name or "", (int(smallest), int(largest)) if smallest else None, bool(is_bool))


@for_text
def image_shape(text: str) -> ImageShape:
    """Channels, height and width."""
    parts = text.split(",")
    if len(parts) != 3:
        raise typer.BadParameter(f"found {text!r}, channels,height,width are needed, such as 3,32,32")
    sizes = [count(part) for part in parts]
    _check_size(text, sizes)
    return ImageShape(*sizes)


@for_text
def device(text: str) -> str:
    """The name of a device."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", text):
        raise typer.BadParameter(f"found {text!r}, cpu, cuda or cuda:N is needed")
    return text
