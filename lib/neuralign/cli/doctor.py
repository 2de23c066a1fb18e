"""`neuralign doctor`: how much noise alignment survives on a network."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import make
from neuralign.common.tables import align_columns
from neuralign.workflow.graph import job
from neuralign.workflow.job import ref

EXAMPLES = [
    "neuralign doctor torchvision.models:resnet18 --option num_classes=10 --input 3,32,32",
    "neuralign doctor ./nets.py:Net --data my.npz --checkpoint a.pt --methods correlation transport",
]
METHODS = ["correlation", "correlation_pre", "transport", "transport_pre"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    shared.add_network(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="the weights; left out: fresh ones, of seed 0")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="NAME", help="alignments of the config (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=shared.level,
        default=None,
        metavar="LEVEL",
        help="in standard deviations of each tensor (default: 0 0.05 0.1 0.2 0.5 1)",
    )
    parser.add_argument("--seeds", type=shared.count, default=3, help="repetitions (default: 3)")
    parser.add_argument("--images", type=shared.count, default=256, help="that methods look at (default: 256)")
    parser.add_argument(
        "--input",
        type=shared.shape,
        metavar="C,H,W",
        help="without --data: the shape of random images (default: 3,32,32)",
    )
    shared.add_checkpoints(parser)
    shared.add_data(parser, required=False)


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Examine; what is found is no success or failure."""
    if given.data and given.input:
        raise shared.UsageError("--input is the shape of random images; with --data images have their own")
    methods = shared.methods(given, given.methods)
    from neuralign.alignment import recovery
    from neuralign.alignment.problem import Problem
    from neuralign.config.plugins import plugin
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import buffers, parameters
    from neuralign.symmetry.explain import why_all_is_fixed
    from neuralign.symmetry.tracing.trace import trace

    model, images = _with_data(given) if given.data else _with_random_images(given)
    images = images.first(given.images)
    state = {**parameters(model.network), **buffers(model.network)}
    if given.checkpoint:
        state = foreign_checkpoints.read(given.checkpoint, model, given.inside).state
    example = model.normalise(images.first(2).pixels.float() / 255)
    symmetry = trace(model.network, example, attention=given.attention)
    searched = {name: plugin("alignments", entry) for name, entry in methods.items()}
    levels, seeds = given.noise or recovery.LEVELS, range(given.seeds)
    rows = recovery.examine(model, symmetry, state, images, searched, levels=levels, seeds=seeds)
    facts = {
        "network": given.network,
        "weights": given.checkpoint or "fresh",
        "images": f"{len(images)} images of {given.data}" if given.data else f"{len(images)} random images",
        "n": given.seeds,
        "silent": recovery.silent(Problem(model, symmetry, state, state, images)),
        "trusted": recovery.TRUSTED,
        "breaks": recovery.breaks(rows),
        "rows": rows,
    }
    if not symmetry.spec.free:
        facts["why"] = why_all_is_fixed(symmetry.frozen)
        return 0, facts, f"{facts['why']}. So no method has anything to find."
    return 0, facts, _text(facts)


def _with_data(given: argparse.Namespace) -> tuple[Any, Any]:
    from neuralign.networks.setup import prepare

    known = shared.config(given)
    (network, entry), (data, dataset) = shared.network(given, known), shared.data(given, known)
    overlay = {"networks": {network: entry}, "datasets": {data: dataset}}
    overlay["regimes"] = {shared.REGIME: shared.regime(not given.no_normalise)}
    overlay["checkpoints"] = {"any": {"file": "any"}}  # whose job has the settings of the model, and is not run
    c = shared.catalogue(known, overlay)
    place = {"dataset": data, "network": network, "regime": shared.REGIME, "checkpoint": "any"}
    with tempfile.TemporaryDirectory(prefix="neuralign-") as folder:
        file = make(c, ref("fetch_data", "data", dataset=data), Path(folder))
        images, model = prepare(str(file), job(c, "import_endpoint", place).settings["model"], seed=0)
    return model, images.train


def _with_random_images(given: argparse.Namespace) -> tuple[Any, Any]:
    from neuralign.alignment import recovery
    from neuralign.networks.model import outputs

    shape = given.input or (3, 32, 32)
    model, images = shared.build(given, shape[0]), recovery.random_images(given.images, shape)
    outputs(model.network, model.normalise(images.first(2).pixels.float() / 255))  # refuses what it does not take
    return model, images


def _text(facts: dict[str, Any]) -> str:
    rows, silent = facts["rows"], facts["silent"] | {"": sum(facts["silent"].values())}
    levels = list(dict.fromkeys(row["noise"] for row in rows))
    lines = [["method", "group", "units", "silent", *(f"noise {level:g}" for level in levels)]]
    for method, group in dict.fromkeys((row["method"], row["group"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["group"]) == (method, group)]
        front = [method, group or "all units", str(mine[0]["units"]), str(silent.get(group, "?"))]
        lines.append([*front, *map(_share, mine)])
    head = f"share of units recovered, mean ± sd over n = {facts['n']} planted permutations"
    where = f"weights: {facts['weights']}; {facts['images']}; silent: units that never vary on these images"
    broken = {
        m: "holds at every level" if at is None else f"breaks at noise {at:g}" for m, at in facts["breaks"].items()
    }
    told = [f"{m}: {how} (breaks: less than {facts['trusted']:.0%} of all units)" for m, how in broken.items()]
    return "\n".join([head, where, "", align_columns(lines), "", *told])


def _share(row: dict[str, Any]) -> str:
    return f"{row['recovered']:.3f}" + (f" ± {row['recovered_std']:.3f}" if row["recovered_std"] is not None else "")
