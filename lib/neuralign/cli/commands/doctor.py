"""`neuralign doctor`: how reliably alignments recover a known permutation of a network, at several noise levels."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, load_config
from neuralign.cli.devices import demand_cpu, on_device
from neuralign.cli.entries import alignment_plugins
from neuralign.cli.examples import build_network
from neuralign.cli.interface import completions
from neuralign.cli.interface.options import (
    METHOD,
    ConfigFiles,
    Device,
    ImageOptions,
    Inside,
    NetworkOptions,
    OptionalData,
)
from neuralign.cli.interface.parsers import ImageShape, count, image_shape, too_large, value_of
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.common.tables import align_columns

DESCRIPTION = "Permute a network at random and add noise, and measure how much of the permutation alignment recovers."
EXAMPLES = [
    "neuralign doctor torchvision.models:resnet18 --option num_classes=10 --input 3,32,32",
    "neuralign doctor ./nets.py:Net --data my.npz --checkpoint a.pt --methods correlation transport",
]
METHODS = ["correlation", "correlation_pre", "transport", "transport_pre"]
SHAPE = ImageShape(3, 32, 32)  # of random images


def run(
    network: NetworkOptions,
    normalisation: ImageOptions,
    data: OptionalData = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="the weights (default: initial weights of seed 0)")
    ] = None,
    methods: Annotated[
        list[str],
        typer.Option(metavar="NAME...", help=f"each {METHOD}", autocompletion=completions.alignments()),
    ] = METHODS,
    noise: Annotated[
        list[float] | None,
        typer.Option(
            parser=value_of("NonNegative"),
            metavar="LEVEL...",
            help="standard deviation of the noise, relative to that of each tensor (default: 0 0.05 0.1 0.2 0.5 1)",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(parser=count, metavar="N", help="number of random permutations")] = 3,
    images: Annotated[int, typer.Option(parser=count, metavar="N", help="number of images for alignment")] = 256,
    input: Annotated[
        ImageShape | None,
        typer.Option(
            parser=image_shape,
            metavar="C,H,W",
            help="shape of the random images that are used without --data (default: 3,32,32)",
        ),
    ] = None,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Measure the share of recovered units. The exit status is 0, however small the share is."""
    if data and input:
        raise UsageError("--input is the shape of random images and cannot be combined with --data")
    if not data:
        demand_cpu(device)
        if problem := too_large([images, *(input or SHAPE)]):
            raise UsageError(f"--images: found {images} random images of {','.join(map(str, input or SHAPE))}{problem}")
    entries = alignment_plugins("--methods", methods, load_config(configfile))

    from neuralign.alignment import recovery
    from neuralign.alignment.problem import Problem
    from neuralign.config.plugins import plugin
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import buffers, parameters
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.tracing.trace import trace

    with on_device(device if data else "cpu"):
        if data:
            dataset, model, _ = load_data_and_model(
                network, configfile, data, normalisation, [checkpoint] if checkpoint else []
            )
            examples = dataset.train
        else:
            model, examples = _build_model_and_random_images(network, configfile, images, input or SHAPE)
        examples = examples.first(images)
        state = {**parameters(model.network), **buffers(model.network)}
        if checkpoint:
            state = dict(foreign_checkpoints.read(checkpoint, model, inside).state)
        symmetry = trace(model.network, model.normalise(next(examples.batches(2))[0]), attention=network.attention)
        algorithms = {name: plugin("alignments", entry) for name, entry in entries.items()}
        levels = noise or recovery.LEVELS
        rows = recovery.examine(model, symmetry, state, examples, algorithms, levels=levels, seeds=range(seeds))
        silent = recovery.silent_units(Problem(model, symmetry, state, state, examples))
    facts = {
        "network": network.network,
        "weights": checkpoint or "fresh",
        "images": f"{len(examples)} images of {data}" if data else f"{len(examples)} random images",
        "n": seeds,
        "silent": silent,
        "trusted": recovery.TRUSTED,
        "breaks": recovery.breaking_levels(rows),
        "rows": rows,
    }
    if not symmetry.spec.free:
        facts["why"] = why_all_is_fixed(symmetry.frozen)
        return 0, facts, f"{facts['why']}. So there is no permutation to recover."
    return 0, facts, _format_report(facts)


def _build_model_and_random_images(
    network: NetworkOptions, configfile: list[Path] | None, images: int, shape: ImageShape
) -> tuple[Any, Any]:
    """The model with weights of seed 0 and without normalisation, and random images."""
    from neuralign.alignment import recovery
    from neuralign.networks.model import evaluation_outputs

    model, examples = build_network(network, configfile, shape.channels), recovery.random_images(images, shape)
    # raises UserError if the network does not take such images
    evaluation_outputs(model.network, model.normalise(examples.first(2).pixels.float() / 255))
    return model, examples


def _format_report(facts: dict[str, Any]) -> str:
    """A table with a line for each method and group, and the noise at which each method breaks."""
    rows, silent = facts["rows"], facts["silent"] | {"": sum(facts["silent"].values())}  # "": all groups
    levels = list(dict.fromkeys(row["noise"] for row in rows))
    lines = [["method", "group", "units", "silent", *(f"noise {level:g}" for level in levels)]]
    for method, group in dict.fromkeys((row["method"], row["group"]) for row in rows):
        matching = [row for row in rows if (row["method"], row["group"]) == (method, group)]
        labels = [method, group or "all units", str(matching[0]["units"]), str(silent.get(group, "?"))]
        lines.append([*labels, *map(_format_share, matching)])
    title = f"share of units recovered, mean ± sd over n = {facts['n']} planted permutations"
    conditions = f"weights: {facts['weights']}; {facts['images']}; silent: units that are constant on these images"
    verdicts = {
        method: "does not break" if noise is None else f"breaks at noise {noise:g}"
        for method, noise in facts["breaks"].items()
    }
    breaks = f"(breaks: recovers less than {facts['trusted']:.0%} of all units)"
    sentences = [f"{method}: {verdict} {breaks}" for method, verdict in verdicts.items()]
    return "\n".join([title, conditions, "", align_columns(lines), "", *sentences])


def _format_share(row: dict[str, Any]) -> str:
    """The share of recovered units in a row, with its deviation over the seeds."""
    return f"{row['recovered']:.3f}" + (f" ± {row['recovered_std']:.3f}" if row["recovered_std"] is not None else "")
