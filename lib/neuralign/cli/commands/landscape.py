"""`neuralign landscape`: the loss and the other metrics on a plane of weight space through one to three checkpoints."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.common.tables import align_columns, write_rows
from neuralign.workflow.running.gpus import lease

EXAMPLES = [
    "neuralign landscape torchvision.models:resnet18 a.pt --data my_images/   # random directions around it",
    "neuralign landscape ./nets.py:Net a.pt b.pt --data my.npz --align correlation -o plane.png",
    "neuralign landscape ./nets.py:Net a.pt b.pt c.pt --data my.npz --points 41 -o plane.csv",
]
SUFFIXES = (".html", ".png", ".pdf", ".svg", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    add = parser.add_argument
    add(
        "checkpoints",
        metavar="CHECKPOINT",
        nargs="+",
        help="A: random directions; A B; or A B C: the plane through them",
    )
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("landscape.html"),
        metavar="FILE",
        help="an interactive page (.html), a picture (.png, .pdf, .svg) or the numbers (.csv) (default: %(default)s)",
    )
    add(
        "--align",
        default="none",
        metavar="METHOD",
        help="align B and C to A first; of A and B, draw the plane through A, B and B aligned (default: none)",
    )
    add("--points", type=shared.count, default=21, help="points of the grid in each direction (default: 21)")
    add(
        "--extent",
        type=shared.numbers,
        metavar="LOW,HIGH[,LOW,HIGH]",
        help="the window, as in --extent=-1,2, of both axes or of each: A is at 0, and what spans the axis at 1 "
        "(default: -0.5,1.5 between checkpoints, -1,1 along random directions)",
    )
    add("--seed", type=int, default=0, help="of the random directions (default: 0)")
    add("--split", choices=["test", "train"], default="test", help="what is measured (default: test)")
    add("--loss", default="cross_entropy", help="the objective of the training (default: %(default)s)")
    add(
        "--statistics",
        choices=["reestimated", "stored"],
        default="reestimated",
        help="of batch norm: estimated anew at every point, or those of the nearest checkpoint (default: reestimated)",
    )
    add(
        "--images",
        type=shared.count,
        default=10_000,
        help="training examples on which they are estimated, at most (default: 10000)",
    )
    shared.add_inside(parser)
    shared.add_data(parser, required=True)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Measure the plane and write it to a file."""
    from neuralign import api
    from neuralign.networks import foreign_checkpoints

    files, output, extent = arguments.checkpoints, arguments.output, arguments.extent or []
    if len(files) > 3:
        raise shared.UsageError(f"CHECKPOINT: found {len(files)}; one, two or three are needed")
    if output.suffix not in SUFFIXES:
        raise shared.UsageError(
            f"--output: found {str(output)!r}; a name that ends with {', '.join(SUFFIXES)} is needed"
        )
    if len(extent) not in (0, 2, 4):
        raise shared.UsageError(f"--extent: found {len(extent)} numbers; two or four are needed")
    with lease(1):
        data, model = load_data_and_model(arguments)
        normalisation = {}
        if model.mean is not None:
            normalisation = {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")}
        landscape = api.landscape(
            model.network,
            [foreign_checkpoints.read(file, model, arguments.inside).state for file in files],
            data.train,
            test=data.test if arguments.split == "test" else data.train,
            method=arguments.align,
            points=arguments.points,
            t1=extent[:2] or None,
            t2=extent[-2:] or None,
            seed=arguments.seed,
            statistics=arguments.statistics,
            images=arguments.images,
            loss=arguments.loss,
            attention=arguments.attention,
            **normalisation,
        )
    rows = list(landscape.rows())
    names = dict(zip(api.letters(len(files)), files, strict=True))
    caption = _caption(names, [model["name"] for model in landscape.models], arguments.align, arguments.seed)
    if output.suffix == ".csv":
        write_rows(rows, output)
    else:
        _draw(rows, landscape.models, arguments, caption)
    checkpoints = [{"name": name, **shared.file_digests(file)} for name, file in names.items()]
    facts = {
        "network": arguments.network,
        "checkpoints": checkpoints,
        "plane": caption,
        "models": landscape.models,
        "unit": landscape.unit,
        "extremes": {name: [grid.min().item(), grid.max().item()] for name, grid in landscape.values.items()},
        "points": list(next(iter(landscape.values.values())).shape),
        "output": str(output),
    }
    return 0, facts, _format(facts)


def _draw(
    rows: Sequence[Mapping[str, float]],
    models: Sequence[Mapping[str, Any]],
    arguments: argparse.Namespace,
    caption: str,
) -> None:
    """Write the page or the picture."""
    from neuralign.config.metrics import metrics_of
    from neuralign.report import landscape

    metrics = landscape.measured(metrics_of(arguments.loss), rows[0])
    title = f"{arguments.network.rpartition(':')[2]} on {Path(arguments.data).stem}, {arguments.split} data"
    landscape.write(landscape.Landscape(rows, models, metrics, title, caption), arguments.output)


def _caption(files: Mapping[str, str], models: Sequence[str], method: str, seed: int) -> str:
    """What the plane goes through."""
    names = ", ".join(f"{name} = {Path(file).name}" for name, file in files.items())
    through = f"The plane through {', '.join(models)}"
    if len(models) < 3:
        directions = "a random direction" if len(models) == 2 else "two random directions"
        through += f" and {directions} with the norms of A's filters (seed {seed})"
    return f"{through}; {names}{f', aligned by {method}' if method != 'none' else ''}."


def _format(facts: Mapping[str, Any]) -> str:
    """The metrics at the checkpoints, the smallest and largest on the plane, and the file."""
    metrics = list(facts["extremes"])
    table = [["", *metrics]]
    table += [[row["name"], *(f"{row[name]:.4g}" for name in metrics)] for row in facts["models"]]
    for i, which in enumerate(("smallest on the plane", "largest")):
        table.append([which, *(f"{facts['extremes'][name][i]:.4g}" for name in metrics)])
    rows, columns = facts["points"]
    return "\n".join(
        [facts["plane"], f"{columns} x {rows} points", align_columns(table), f"written: {facts['output']}"]
    )
