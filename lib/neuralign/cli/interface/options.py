"""The options that several commands have. Torch-free.

A command has a group of options as one parameter: a frozen dataclass here, whose fields typer reads. A single option is
an `Annotated` alias. A list whose metavar ends in "..." takes several values after one name of the option.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.interface import completions
from neuralign.cli.interface.parsers import (
    ExampleInput,
    Numbers,
    count,
    count_or_all,
    device,
    example_input,
    one_of,
    value_of,
    values_of,
)
from neuralign.common.errors import UserError

NETWORK, DATA = "The network", "The data"  # panels of the help
METHOD = "an alignment of the config, a plug-in, ./file.py:name or package.module:name"


def choice(*allowed: str, help: str) -> Any:
    """An option that is one of these words, which the shell completes."""
    return typer.Option(
        parser=one_of(*allowed), metavar="|".join(allowed), help=help, autocompletion=completions.words(*allowed)
    )


@dataclass(frozen=True)
class NetworkOptions:
    """NETWORK and how it is built and traced."""

    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="package.module:name, folder/file.py:name, a name of a hub (timm/<model>, hf-hub:<repository>, "
            "torchvision:<weights>), or a network of the config",
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
            parser=value_of("Side"),
            metavar="N",
            help="resize images to this height and width (default: not resized)",
            rich_help_panel=DATA,
        ),
    ] = None
    mean: Annotated[
        Numbers | None,
        typer.Option(
            parser=values_of("Fraction"),
            metavar="R,G,B",
            help="mean of pixels in [0, 1] with which NETWORK was trained (default: of the data)",
            rich_help_panel=DATA,
        ),
    ] = None
    std: Annotated[
        Numbers | None,
        typer.Option(
            parser=values_of("PositiveFraction"),
            metavar="R,G,B",
            help="standard deviation, likewise",
            rich_help_panel=DATA,
        ),
    ] = None
    no_normalise: Annotated[
        bool,
        typer.Option("--no-normalise", help="NETWORK takes pixels in [0, 1] as they are", rich_help_panel=DATA),
    ] = False

    @property
    def normalise(self) -> bool:
        """Whether pixels are normalised. Raises UserError if they are not, and are given a mean or deviation."""
        for option, value in {"--mean": self.mean, "--std": self.std}.items():
            if self.no_normalise and value:
                raise UserError(
                    f"{option}: with --no-normalise pixels are taken as they are; only one of both is needed"
                )
        return not self.no_normalise


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
Augmented = Annotated[
    bool,
    typer.Option(
        "--augmented",
        help="align, repair and estimate statistics on images changed as the dataset of the config says (`augment`), "
        "for networks that were trained so",
    ),
]
Method = Annotated[str, typer.Option(metavar="NAME", help=METHOD, autocompletion=completions.alignments())]
Loss = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="the objective of the training", autocompletion=completions.plugins("objectives")
    ),
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
    typer.Option(
        parser=count_or_all,
        metavar="N",
        help="number of CPU cores that jobs may use at a time",
        autocompletion=completions.words("all"),
    ),
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
