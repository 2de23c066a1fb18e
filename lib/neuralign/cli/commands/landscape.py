"""`neuralign landscape`: the loss and the other metrics on a plane of weight space through one to three checkpoints."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, load_config
from neuralign.cli.devices import on_device
from neuralign.cli.entries import augmentations, file_digests, lone_alignment
from neuralign.cli.inner_parts import inner_parts
from neuralign.cli.interface import completions
from neuralign.cli.interface.options import (
    METHOD,
    Augmented,
    ConfigFiles,
    Data,
    Device,
    ImageOptions,
    Inside,
    Loss,
    NetworkOptions,
    choice,
)
from neuralign.cli.interface.parsers import Numbers, count, value_of, values_of
from neuralign.cli.local_jobs import load_data_and_model
from neuralign.cli.outputs import check_outputs, input_files
from neuralign.common.tables import align_columns, write_rows
from neuralign.config.signatures import check_known

DESCRIPTION = "Draw loss and accuracy around a checkpoint, or on a plane through two or three."
EXAMPLES = [
    "neuralign landscape torchvision.models:resnet18 a.pt --data my_images/   # random directions around it",
    "neuralign landscape ./nets.py:Net a.pt b.pt --data my.npz --align correlation -o plane.png",
    "neuralign landscape ./nets.py:Net a.pt b.pt c.pt --data my.npz --points 41 -o plane.csv",
]
SUFFIXES = (".html", ".png", ".pdf", ".svg", ".csv")
DRAWN_WITH = ("jinja2", "matplotlib", "pandas", "plotly")  # packages that not every installation has


def run(
    network: NetworkOptions,
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT", help="A: random directions around it; A B; or A B C: a plane through them"
        ),
    ],
    data: Data,
    images: ImageOptions,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="an interactive page (.html), a picture (.png, .pdf, .svg) or the numbers (.csv)",
        ),
    ] = Path("landscape.html"),
    align: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            autocompletion=completions.alignments("none"),
            help=f"align B and C to A first, by {METHOD}; of A and B, draw the plane through A, B and B aligned",
        ),
    ] = "none",
    points: Annotated[
        int, typer.Option(parser=value_of("GridPoints"), metavar="N", help="points of the grid in each direction")
    ] = 21,
    extent: Annotated[
        Numbers | None,
        typer.Option(
            parser=values_of("Real"),
            metavar="LOW,HIGH[,LOW,HIGH]",
            help="the window, of both axes or of each: A is at 0, and what spans the axis at 1 (default: -0.5,1.5 "
            "between checkpoints, -1,1 along random directions)",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(parser=value_of("Seed"), metavar="N", help="seed of the random directions")] = 0,
    split: Annotated[
        str,
        choice("test", "train", help="the data that is measured on"),
    ] = "test",
    loss: Loss = "cross_entropy",
    statistics: Annotated[
        str,
        choice(
            "reestimated",
            "stored",
            help="batch-norm statistics: estimated anew at every point, or those of the nearest checkpoint",
        ),
    ] = "reestimated",
    estimated_on: Annotated[
        int, typer.Option(parser=count, metavar="N", help="training examples for these statistics, at most")
    ] = 10_000,
    augmented: Augmented = False,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Measure the plane and write it to a file."""
    from neuralign import api
    from neuralign.merging.export import normalisation_of
    from neuralign.networks import foreign_checkpoints
    from neuralign.training import augmentation

    if len(checkpoints) > 3:
        raise UsageError(f"CHECKPOINT: found {len(checkpoints)}; one, two or three are needed")
    config = load_config(configfile)
    alignment = lone_alignment("--align", align, config, attention=network.attention, also=["none"]).get(align)
    check_known("--loss", "objectives", loss)
    if align != "none" and len(checkpoints) == 1:
        raise UsageError(f"--align: found {align!r}, and there is no second checkpoint to align")
    if output.suffix not in SUFFIXES:
        raise UsageError(f"--output: found {str(output)!r}; a name that ends with {', '.join(SUFFIXES)} is needed")
    missing = [name for name in DRAWN_WITH if find_spec(name) is None]
    if output.suffix != ".csv" and missing:
        raise UsageError(f"--output: {output.suffix} needs {', '.join(missing)}: pip install 'neuralign[workflow]'")
    t1, t2 = _windows(extent, points)
    augment = augmentations(data, config) if augmented else []
    check_outputs({"--output": output}, input_files(config, configfile, network, data, checkpoints))
    with on_device(device):
        dataset, model, _ = load_data_and_model(network, configfile, data, images, checkpoints)
        landscape = api.landscape(
            model.network,
            [
                foreign_checkpoints.read(file, model, part).state
                for file, part in zip(checkpoints, inner_parts(checkpoints, inside), strict=True)
            ],
            augmentation.augmented(dataset.train, augment, seed=0),
            test=dataset.test if split == "test" else dataset.train,
            method=align if alignment is None else alignment.pop("use"),
            options=alignment,
            points=points,
            t1=t1,
            t2=t2,
            seed=seed,
            statistics=statistics,
            images=estimated_on,
            loss=loss,
            attention=network.attention,
            **normalisation_of(model),
        )
    rows = list(landscape.rows())
    names = dict(zip(api.letters(len(checkpoints)), checkpoints, strict=True))
    caption = _caption(names, [row["name"] for row in landscape.models], align, seed)
    title = f"{network.network.rpartition(':')[2]} on {Path(data).stem}, {split} data"
    if output.suffix == ".csv":
        write_rows(rows, output)
    else:
        _draw(rows, landscape.models, loss, title, caption, output)
    facts = {
        "network": network.network,
        "checkpoints": [{"name": name, **file_digests(file)} for name, file in names.items()],
        "plane": caption,
        "models": landscape.models,
        "unit": landscape.unit,
        "extremes": {name: [grid.min().item(), grid.max().item()] for name, grid in landscape.values.items()},
        "points": list(next(iter(landscape.values.values())).shape),
        "output": str(output),
    }
    return 0, facts, _format(facts)


def _windows(extent: Numbers | None, points: int) -> tuple[list[float] | None, list[float] | None]:
    """The windows of both axes that --extent says, None for the defaults. Raises UsageError if they are none."""
    from neuralign.evaluation.landscape import DIGITS

    if extent is None:
        return None, None
    found = f"--extent: found {','.join(f'{number:g}' for number in extent)}"
    if len(extent) not in (2, 4):
        raise UsageError(f"{found}; two numbers are needed, LOW,HIGH, or four")
    windows = extent[:2], extent[-2:]
    for low, high in windows:
        if low >= high:
            raise UsageError(f"{found}; LOW must be smaller than HIGH")
        if (high - low) / (points - 1) < 10**-DIGITS:
            raise UsageError(f"{found}; too narrow for {points} points, which must be 1e-{DIGITS} apart")
    return windows


def _draw(
    rows: Sequence[Mapping[str, float]],
    models: Sequence[Mapping[str, Any]],
    loss: str,
    title: str,
    caption: str,
    output: Path,
) -> None:
    """Write the page or the picture."""
    from neuralign.config.metrics import metrics_of
    from neuralign.report import landscape

    metrics = landscape.measured(metrics_of(loss), rows[0])
    landscape.write(landscape.Landscape(rows, models, metrics, title, caption), output)


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
