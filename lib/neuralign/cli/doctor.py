"""`neuralign doctor`: how much noise alignment survives on a network."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from neuralign.cli import common
from neuralign.cli.jobs import make
from neuralign.show import columns
from neuralign.workflow import job, ref

HELP = "plant hidden permutations and noise in a network, and measure what is recovered"
EXAMPLES = [
    "neuralign doctor torchvision.models:resnet18 --option num_classes=10 --input 3,32,32",
    "neuralign doctor ./nets.py:Net --data my.npz --checkpoint a.pt --methods correlation transport",
]
METHODS = ["correlation", "correlation_pre", "transport", "transport_pre"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    common.add_network(parser)
    parser.add_argument("--checkpoint", metavar="FILE", help="the weights; left out: fresh ones, of seed 0")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="NAME", help="alignments of the config (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=common.level,
        default=None,
        metavar="LEVEL",
        help="in standard deviations of each tensor (default: 0 0.05 0.1 0.2 0.5 1)",
    )
    parser.add_argument("--seeds", type=common.count, default=3, help="repetitions (default: 3)")
    parser.add_argument("--images", type=common.count, default=256, help="that methods look at (default: 256)")
    parser.add_argument(
        "--input",
        type=common.shape,
        metavar="C,H,W",
        help="without --data: the shape of random images (default: 3,32,32)",
    )
    common.add_checkpoints(parser)
    common.add_data(parser, required=False)


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Examine; what is found is no success or failure."""
    if given.data and given.input:
        raise common.UsageError("--input is the shape of random images; with --data images have their own")
    methods = common.methods(given, given.methods)
    from neuralign import doctor, foreign
    from neuralign.align import Problem
    from neuralign.explain import immovable
    from neuralign.networks import buffers, parameters
    from neuralign.plugins import plugin
    from neuralign.tracing import trace

    model, images = _with_data(given) if given.data else _with_random_images(given)
    images = images.first(given.images)
    state = {**parameters(model.network), **buffers(model.network)}
    if given.checkpoint:
        state = foreign.read(given.checkpoint, model, given.inside).state
    example = model.normalise(images.first(2).pixels.float() / 255)
    symmetry = trace(model.network, example, attention=given.attention)
    searched = {name: plugin("align", entry) for name, entry in methods.items()}
    levels, seeds = given.noise or doctor.LEVELS, range(given.seeds)
    rows = doctor.examine(model, symmetry, state, images, searched, levels=levels, seeds=seeds)
    facts = {
        "network": given.network,
        "weights": given.checkpoint or "fresh",
        "images": f"{len(images)} images of {given.data}" if given.data else f"{len(images)} random images",
        "n": given.seeds,
        "silent": doctor.silent(Problem(model, symmetry, state, state, images)),
        "trusted": doctor.TRUSTED,
        "breaks": doctor.breaks(rows),
        "rows": rows,
    }
    if not symmetry.spec.free:
        facts["why"] = immovable(symmetry.frozen)
        return 0, facts, f"{facts['why']}. So no method has anything to find."
    return 0, facts, _text(facts)


def _with_data(given: argparse.Namespace) -> tuple[Any, Any]:
    from neuralign import setting

    known = common.config(given)
    (network, entry), (data, dataset) = common.network(given, known), common.data(given, known)
    overlay = {"networks": {network: entry}, "datasets": {data: dataset}}
    overlay["regimes"] = {common.REGIME: common.regime(not given.no_normalise)}
    overlay["checkpoints"] = {"any": {"file": "any"}}  # whose job has the settings of the model, and is not run
    c = common.catalogue(known, overlay)
    place = {"dataset": data, "network": network, "regime": common.REGIME, "checkpoint": "any"}
    with tempfile.TemporaryDirectory(prefix="neuralign-") as folder:
        file = make(c, ref("fetch_data", "data", dataset=data), Path(folder))
        images, model = setting.prepare(str(file), job(c, "import_endpoint", place).settings["model"], seed=0)
    return model, images.train


def _with_random_images(given: argparse.Namespace) -> tuple[Any, Any]:
    from neuralign import doctor
    from neuralign.networks import outputs

    shape = given.input or (3, 32, 32)
    model, images = common.build(given, shape[0]), doctor.random_images(given.images, shape)
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
    return "\n".join([head, where, "", columns(lines), "", *told])


def _share(row: dict[str, Any]) -> str:
    return f"{row['recovered']:.3f}" + (f" ± {row['recovered_std']:.3f}" if row["recovered_std"] is not None else "")
