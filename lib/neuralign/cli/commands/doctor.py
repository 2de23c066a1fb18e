"""`neuralign doctor`: how reliably alignments recover a known permutation of a network, at several noise levels."""

import argparse
from contextlib import nullcontext
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.common.tables import align_columns
from neuralign.workflow.running.gpus import lease

EXAMPLES = [
    "neuralign doctor torchvision.models:resnet18 --option num_classes=10 --input 3,32,32",
    "neuralign doctor ./nets.py:Net --data my.npz --checkpoint a.pt --methods correlation transport",
]
METHODS = ["correlation", "correlation_pre", "transport", "transport_pre"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="the weights (default: initial weights of seed 0)")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="NAME", help="alignments of the config (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=shared.noise_level,
        default=None,
        metavar="LEVEL",
        help="standard deviation of the noise, relative to that of each tensor (default: 0 0.05 0.1 0.2 0.5 1)",
    )
    parser.add_argument("--seeds", type=shared.count, default=3, help="number of random permutations (default: 3)")
    parser.add_argument(
        "--images", type=shared.count, default=256, help="number of images for alignment (default: 256)"
    )
    parser.add_argument(
        "--input",
        type=shared.image_shape,
        metavar="C,H,W",
        help="shape of the random images that are used without --data (default: 3,32,32)",
    )
    shared.add_inside(parser)
    shared.add_data(parser, required=False)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Measure the share of recovered units. The exit status is 0, however small the share is."""
    if arguments.data and arguments.input:
        raise shared.UsageError("--input is the shape of random images and cannot be combined with --data")
    entries = shared.alignment_plugins(arguments, arguments.methods)
    with lease(1) if arguments.data else nullcontext():  # without data it runs on the CPU
        return _examine(arguments, entries)


def _examine(arguments: argparse.Namespace, entries: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
    """What `run` returns, for these alignments {name: entry of the config}."""
    from neuralign.alignment import recovery
    from neuralign.alignment.problem import Problem
    from neuralign.config.plugins import plugin
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import buffers, parameters
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.tracing.trace import trace

    if arguments.data:
        data, model = load_data_and_model(arguments, [arguments.checkpoint] if arguments.checkpoint else [])
        images = data.train
    else:
        model, images = _build_model_and_random_images(arguments)
    images = images.first(arguments.images)
    state = {**parameters(model.network), **buffers(model.network)}
    if arguments.checkpoint:
        state = dict(foreign_checkpoints.read(arguments.checkpoint, model, arguments.inside).state)
    example = model.normalise(next(images.batches(2))[0])
    symmetry = trace(model.network, example, attention=arguments.attention)
    methods = {name: plugin("alignments", entry) for name, entry in entries.items()}
    levels, seeds = arguments.noise or recovery.LEVELS, range(arguments.seeds)
    rows = recovery.examine(model, symmetry, state, images, methods, levels=levels, seeds=seeds)
    facts = {
        "network": arguments.network,
        "weights": arguments.checkpoint or "fresh",
        "images": f"{len(images)} images of {arguments.data}" if arguments.data else f"{len(images)} random images",
        "n": arguments.seeds,
        "silent": recovery.silent_units(Problem(model, symmetry, state, state, images)),
        "trusted": recovery.TRUSTED,
        "breaks": recovery.breaking_levels(rows),
        "rows": rows,
    }
    if not symmetry.spec.free:
        facts["why"] = why_all_is_fixed(symmetry.frozen)
        return 0, facts, f"{facts['why']}. So there is no permutation to recover."
    return 0, facts, _format_report(facts)


def _build_model_and_random_images(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The model with weights of seed 0 and without normalisation, and random images."""
    from neuralign.alignment import recovery
    from neuralign.networks.model import evaluation_outputs

    shape = arguments.input or (3, 32, 32)
    model, images = shared.build_network(arguments, shape[0]), recovery.random_images(arguments.images, shape)
    # raises UserError if the network does not take such images
    evaluation_outputs(model.network, model.normalise(images.first(2).pixels.float() / 255))
    return model, images


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
