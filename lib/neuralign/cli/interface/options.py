"""The options that several commands have, and the parsers of their values. Torch-free.

A command has a group of options as one parameter: a frozen dataclass here, whose fields typer reads. A single option is
an `Annotated` alias. A list whose metavar ends in "..." takes several values after one name of the option.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NewType, TypeVar

import typer

from neuralign.cli.interface import completions

NETWORK, DATA = "The network", "The data"  # panels of the help
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


@for_text
def count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise typer.BadParameter(f"found {text!r}, a whole number from 1 is needed")
    return int(text)


def count_or_all(text: str) -> str:
    """A whole number from 1, or `all`, as text."""
    if text != "all" and not re.fullmatch(r"[1-9][0-9]*", text):
        raise typer.BadParameter(f"found {text!r}, a whole number from 1 or `all` is needed")
    return text


@for_text
def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"found {text!r}, a number is needed") from None


@for_text
def number_from_0(text: str) -> float:
    """A finite number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"found {text!r}, a number from 0 is needed")
    return value


@for_text
def numbers(text: str) -> Numbers:
    """Numbers separated by commas."""
    try:
        return Numbers([float(part) for part in text.split(",")])
    except ValueError:
        raise typer.BadParameter(f"found {text!r}, numbers such as 0.485,0.456,0.406 are needed") from None


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
    if not name and len(sizes) < 2:  # the first size counts the examples
        raise typer.BadParameter(f"found {shape!r}, a shape such as 1,3,32,32 is needed")
    return ExampleInput(sizes, name or "", (int(smallest), int(largest)) if smallest else None, bool(is_bool))


@for_text
def image_shape(text: str) -> ImageShape:
    """Channels, height and width."""
    parts = text.split(",")
    if len(parts) != 3:
        raise typer.BadParameter(f"found {text!r}, channels,height,width are needed, such as 3,32,32")
    return ImageShape(*map(count, parts))


@for_text
def device(text: str) -> str:
    """The name of a device."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", text):
        raise typer.BadParameter(f"found {text!r}, cpu, cuda or cuda:N is needed")
    return text


@dataclass(frozen=True)
class NetworkOptions:
    """NETWORK and how it is built and traced."""

    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="package.module:name, folder/file.py:name, or a network of the config",
            autocompletion=completions.networks,
        ),
    ]
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="a keyword argument of NETWORK, the value as JSON (else text); may be repeated",
            rich_help_panel=NETWORK,
        ),
    ] = None
    attention: Annotated[
        bool,
        typer.Option(
            "--attention",
            help="also permute attention heads, and channels within heads",
            rich_help_panel=NETWORK,
        ),
    ] = False


@dataclass(frozen=True)
class ExampleOptions:
    """The random inputs on which a network is run."""

    input: Annotated[
        list[ExampleInput] | None,
        typer.Option(
            parser=example_input,
            metavar="[NAME=]N,...[:VALUES]",
            help="shape of an input (default: 2,3,32,32), with the name of the argument for inputs passed by name; "
            "VALUES are whole numbers, such as 0..999, or bool (default: normally distributed numbers); may be "
            "repeated",
            rich_help_panel=NETWORK,
        ),
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(
            parser=count,
            metavar="N",
            help="the one input is whole numbers below N, not pixels",
            rich_help_panel=NETWORK,
        ),
    ] = None


@dataclass(frozen=True)
class ImageOptions:
    """Resizing and normalisation of the images of --data."""

    size: Annotated[
        int | None,
        typer.Option(
            parser=count,
            metavar="N",
            help="resize images to this height and width (default: not resized)",
            rich_help_panel=DATA,
        ),
    ] = None
    mean: Annotated[
        Numbers | None,
        typer.Option(
            parser=numbers,
            metavar="R,G,B",
            help="mean of pixels in [0, 1] with which NETWORK was trained (default: of the data)",
            rich_help_panel=DATA,
        ),
    ] = None
    std: Annotated[
        Numbers | None,
        typer.Option(parser=numbers, metavar="R,G,B", help="standard deviation, likewise", rich_help_panel=DATA),
    ] = None
    no_normalise: Annotated[
        bool,
        typer.Option("--no-normalise", help="NETWORK takes pixels in [0, 1] as they are", rich_help_panel=DATA),
    ] = False


_DATA = typer.Option(
    metavar="DATA",
    help="a folder with train/<class>/<image> and test/<class>/<image>, a .npz with x_train, y_train, x_test and "
    "y_test, or a dataset of the config",
    rich_help_panel=DATA,
    autocompletion=completions.datasets,
)
Data = Annotated[str, _DATA]
OptionalData = Annotated[str | None, _DATA]
CheckpointA = Annotated[
    str, typer.Argument(metavar="A", help="a checkpoint: .safetensors, or a state_dict saved by torch.save")
]
Inside = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="where in the checkpoints the tensors of the network are, such as model_ema (default: the only place)",
    ),
]
Method = Annotated[
    str, typer.Option(metavar="NAME", help="an alignment of the config", autocompletion=completions.alignments)
]
Device = Annotated[
    str | None,
    typer.Option(
        parser=device,
        metavar="DEVICE",
        help="cpu, cuda or cuda:N (default: a free GPU, or the CPU where there is none)",
        autocompletion=completions.devices,
    ),
]
Cores = Annotated[
    str,
    typer.Option(parser=count_or_all, metavar="N", help="number of CPU cores that jobs may use at a time"),
]
Results = Annotated[Path, typer.Option(metavar="FOLDER", help="folder of the workflow's results")]
Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="a study of the config", autocompletion=completions.studies)
]
StudyOrDefault = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="a study of the config (default: its default_study)",
        autocompletion=completions.studies,
    ),
]
ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE...",
        help="laid over the default config, and over config.yaml of a folder made by `neuralign init`, one after the "
        "other, as Snakemake does",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
Verbose = Annotated[bool, typer.Option("--verbose", help="report progress on standard error")]
