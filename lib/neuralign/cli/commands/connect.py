"""`neuralign connect`: low-loss curves between pairs of checkpoints, aligned and unaligned, and a report on them."""

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from neuralign.cli.commands.show import show
from neuralign.cli.configs import (
    Config,
    UsageError,
    absolute_paths,
    extended_catalogue,
    folder_config,
    load_config,
    workflow_file,
)
from neuralign.cli.devices import select_device
from neuralign.cli.entries import (
    REGIME,
    alignment_entry,
    checkpoint_entries,
    dataset_entry,
    location,
    network_entry,
    regime_entry,
)
from neuralign.cli.interface.options import (
    ConfigFiles,
    Cores,
    Data,
    Device,
    ImageOptions,
    Inside,
    Method,
    NetworkOptions,
    Verbose,
)
from neuralign.cli.interface.parsers import count, value_of
from neuralign.cli.outputs import check_outputs, input_files
from neuralign.cli.workflow_runs import failure, run_study, workflow_command
from neuralign.common.files import atomic
from neuralign.config.files import lay_over
from neuralign.workflow.running.run_lock import exclusive

DESCRIPTION = "Learn and measure low-loss curves between checkpoints, aligned and unaligned."
EXAMPLES = [
    "neuralign connect torchvision.models:resnet18 a.pt b.pt --data my_images/ --out connected",
    "neuralign connect ./nets.py:Net a.pt b.pt c.pt d.pt --data my.npz --epochs 50   # two pairs: a-b and c-d",
]
STUDY = "connect"
METHODS = {  # method of the study -> its curve
    "linear_unaligned": "linear",
    "linear_aligned": "linear",
    "unaligned": "bezier",
    "aligned": "bezier",
}
CURVES = "The curves"  # a panel of the help


@dataclass(frozen=True)
class CurveOptions:
    """How curves are trained and evaluated."""

    epochs: Annotated[
        int,
        typer.Option(
            parser=value_of("Epochs"), metavar="N", help="epochs of training for each curve", rich_help_panel=CURVES
        ),
    ] = 20
    batch_size: Annotated[
        int, typer.Option(parser=count, metavar="N", help="images in a training step", rich_help_panel=CURVES)
    ] = 128
    lr: Annotated[
        float,
        typer.Option(parser=value_of("Positive"), metavar="RATE", help="initial learning rate", rich_help_panel=CURVES),
    ] = 0.02
    weight_decay: Annotated[
        float,
        typer.Option(parser=value_of("NonNegative"), metavar="DECAY", help="weight decay", rich_help_panel=CURVES),
    ] = 5e-4
    seed: Annotated[
        int,
        typer.Option(
            parser=value_of("Seed"),
            metavar="N",
            help="seed of the first pair, counted up for the others",
            rich_help_panel=CURVES,
        ),
    ] = 1
    points: Annotated[
        int,
        typer.Option(
            parser=value_of("Points"), metavar="N", help="points evaluated on each curve", rich_help_panel=CURVES
        ),
    ] = 17


def run(
    network: NetworkOptions,
    checkpoints: Annotated[list[str], typer.Argument(metavar="CHECKPOINT", help="A B, or several pairs: A B C D")],
    data: Data,
    images: ImageOptions,
    curves: CurveOptions,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="the folder for all files")] = Path("connected"),
    method: Method = "correlation",
    cores: Cores = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write the config and list the jobs; run nothing")] = False,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
    verbose: Verbose = False,
) -> tuple[int, dict[str, Any], str]:
    """Write the config of a study into the output folder and run the workflow on it.

    A second run makes only the results that are missing.
    """
    select_device(device)
    config = load_config(configfile)
    overlay = study_config(config, network, checkpoints, data, images, curves, method, inside)
    extended_catalogue(config, overlay)  # raises ConfigError before anything is written
    file = out / "connect.yaml"
    check_outputs({"--out": file}, input_files(config, configfile, network, data, checkpoints))
    lay_over(config, overlay)
    lay_over(overlay, absolute_paths(config))  # the workflow runs in `out`
    configs = [*folder_config(), *(configfile or ()), file]
    options = ["--cores", cores, *(["--resources", "gpu=0"] if device == "cpu" else [])]
    snakefile = workflow_file("Snakefile")
    command = partial(workflow_command, snakefile, out, configs, options, verbose=verbose)
    with exclusive(out) as lock:
        with atomic(file) as temporary:
            temporary.write_text(
                "# Written by `neuralign connect`, which overwrites it. It is laid over config.yaml.\n"
                + yaml.safe_dump(overlay, sort_keys=False)
            )
        status = run_study(command(dry_run=dry_run), STUDY, overlay["studies"][STUDY], out, lock)
    facts: dict[str, Any] = {"config": str(file), "command": shlex.join([*command(), "--", STUDY]), "status": status}
    if status or dry_run:
        outcome = failure(status, out) if status else "nothing was run"
        return int(status != 0), facts, f"{outcome}\nto run only the workflow: {facts['command']}"
    table, text = show(out / "results" / "studies" / STUDY)
    return 0, facts | table, text


def study_config(
    config: Config,
    network: NetworkOptions,
    checkpoints: list[str],
    data: str,
    images: ImageOptions,
    curves: CurveOptions,
    method: str,
    inside: str | None,
) -> Config:
    """The config of the study, to be laid over the config of the workflow."""
    if len(checkpoints) % 2:
        raise UsageError(f"CHECKPOINT: found {len(checkpoints)}; pairs are needed: A B, or A B C D")
    network_name, network_keys = network_entry(network, config, images)
    data_name, data_keys = dataset_entry(data, config)
    endpoints = checkpoint_entries(checkpoints, inside)
    name_of = {str(endpoint["file"]): name for name, endpoint in endpoints.items()}
    names = [name_of[location(file)] for file in checkpoints]
    pairs = [f"{a}-{b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    training = {key: getattr(curves, key) for key in ("epochs", "batch_size", "lr", "weight_decay")}
    training["schedule"] = {"use": "plateau"}
    alignment, alignments = alignment_entry("--method", method, config, attention=network.attention)
    alignment_of = {name: "none" if name.endswith("unaligned") else alignment for name in METHODS}
    grid = {
        "dataset": data_name,
        "network": network_name,
        "regime": REGIME,
        "pair": pairs,
        "curve_seed": [curves.seed + i for i in range(len(pairs))],
        "method": list(METHODS),
        "evaluation": STUDY,
    }
    return {
        "default_study": STUDY,
        "datasets": {data_name: data_keys},
        "networks": {network_name: network_keys},
        "checkpoints": endpoints,
        "regimes": {REGIME: regime_entry(normalise=images.normalise, training=training)},
        "alignments": {"none": None, **alignments},
        "curves": {"linear": {"use": "segment"}, "bezier": {"bends": 1}},
        "methods": {name: {"alignment": alignment_of[name], "curve": curve} for name, curve in METHODS.items()},
        "evaluations": {STUDY: {"points": curves.points}},
        "studies": {STUDY: {"title": f"Curves between checkpoints of {network.network}", "grids": [grid]}},
    }
