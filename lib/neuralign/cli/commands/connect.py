"""`neuralign connect`: low-loss curves between pairs of checkpoints, aligned and unaligned, and a report on them."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from neuralign.cli import shared
from neuralign.cli.commands.show import show
from neuralign.cli.workflow_runs import start, unlock, workflow_command
from neuralign.common.files import atomic
from neuralign.workflow.running.run_lock import exclusive

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="A B, or several pairs: A B C D")
    parser.add_argument(
        "--out", type=Path, default=Path("connected"), help="the folder for all files (default: %(default)s)"
    )
    parser.add_argument("--method", default="correlation", help="an alignment of the config (default: correlation)")
    shared.add_cores(parser)
    parser.add_argument("--dry-run", action="store_true", help="write the config and list the jobs; run nothing")
    shared.add_inside(parser)
    shared.add_data(parser, required=True)
    group = parser.add_argument_group("curves")
    add = group.add_argument
    add("--epochs", type=shared.count, default=20, help="epochs of training for each curve (default: 20)")
    add("--batch-size", type=shared.count, default=128, help="images in a training step (default: 128)")
    add("--lr", type=float, default=0.02, help="initial learning rate (default: 0.02)")
    add("--weight-decay", type=float, default=5e-4, help="weight decay (default: 0.0005)")
    add("--seed", type=shared.count, default=1, help="seed of the first pair, counted up for the others (default: 1)")
    add("--points", type=shared.count, default=17, help="points evaluated on each curve (default: 17)")


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Write the config of a study into the output folder and run the workflow on it.

    A second run makes only the results that are missing.
    """
    config = shared.load_config(arguments)
    overlay = study_config(arguments, config)
    shared.extended_catalogue(config, overlay)  # raises ConfigError before anything is written
    file = arguments.out / "connect.yaml"
    configs = [*shared.folder_config(), *arguments.configfile, file]
    options = [*(["rules"] if not arguments.verbose else []), "--cores", arguments.cores]
    command = workflow_command(shared.workflow_file("Snakefile"), arguments.out, configs, *options)
    with exclusive(arguments.out) as lock:
        with atomic(file) as temporary:
            temporary.write_text(
                "# Written by `neuralign connect`, which overwrites it. It is laid over config.yaml.\n"
                + yaml.safe_dump(overlay, sort_keys=False)
            )
        if arguments.dry_run:
            status = start([*command, "--dry-run"], STUDY, lock)
        else:
            unlock(command, STUDY, arguments.out, lock)
            status = start(command, STUDY, lock)
    facts: dict[str, Any] = {"config": str(file), "command": shlex.join([*command, "--", STUDY]), "status": status}
    if status or arguments.dry_run:
        outcome = "Snakemake failed; its messages above say where" if status else "nothing was run"
        return int(status != 0), facts, f"{outcome}\nto run only the workflow: {facts['command']}"
    table, text = show(arguments.out / "results" / "studies" / STUDY)
    return 0, facts | table, text


def study_config(arguments: argparse.Namespace, config: shared.Config) -> shared.Config:
    """The config of the study, to be laid over the config of the workflow."""
    if len(arguments.checkpoints) % 2:
        raise shared.UsageError(f"CHECKPOINT: found {len(arguments.checkpoints)}; pairs are needed: A B, or A B C D")
    (network, entry), (data, dataset) = shared.network_entry(arguments, config), shared.dataset_entry(arguments, config)
    checkpoints = shared.checkpoint_entries(arguments, arguments.checkpoints)
    name_of = {str(entry["file"]): name for name, entry in checkpoints.items()}
    names = [name_of[shared.location(file)] for file in arguments.checkpoints]
    pairs = [f"{a}-{b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    training = {key: getattr(arguments, key) for key in ("epochs", "batch_size", "lr", "weight_decay")}
    training["schedule"] = {"use": "plateau"}
    alignment, alignments = shared.alignment_entry(arguments, config)
    alignment_of = {name: "none" if name.endswith("unaligned") else alignment for name in METHODS}
    grid = {
        "dataset": data,
        "network": network,
        "regime": shared.REGIME,
        "pair": pairs,
        "curve_seed": [arguments.seed + i for i in range(len(pairs))],
        "method": list(METHODS),
        "evaluation": STUDY,
    }
    return {
        "default_study": STUDY,
        "datasets": {data: dataset},
        "networks": {network: entry},
        "checkpoints": checkpoints,
        "regimes": {shared.REGIME: shared.regime_entry(normalise=not arguments.no_normalise, training=training)},
        "alignments": {"none": None, **alignments},
        "curves": {"linear": {"use": "segment"}, "bezier": {"bends": 1}},
        "methods": {name: {"alignment": alignment_of[name], "curve": curve} for name, curve in METHODS.items()},
        "evaluations": {STUDY: {"points": arguments.points}},
        "studies": {STUDY: {"title": f"Curves between checkpoints of {arguments.network}", "grids": [grid]}},
    }
