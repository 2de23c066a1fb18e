"""`neuralign trace`: the permutation symmetry of a network as JSON or CSV, for other programs."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError
from neuralign.cli.examples import example_shapes, run_on_example
from neuralign.cli.interface.options import ConfigFiles, ExampleOptions, NetworkOptions
from neuralign.cli.outputs import check_outputs
from neuralign.common.files import atomic
from neuralign.common.tables import write_rows

EXAMPLES = [
    "neuralign trace torchvision.models:resnet18 --input 1,3,64,64 --out resnet18.json",
    "neuralign trace ./nets.py:Net --input 1,1,28,28 --out net.csv   # one row for each axis of each tensor",
    "neuralign trace ./nets.py:Reader --input tokens=2,16:0..999 --input mask=2,16:0..1 --out reader.json",
]
DESCRIPTION = """Write the permutation symmetry of a network as data for other programs, JSON or CSV; not certified.

Writes every free group (a set of units that may be permuted) with its size and, for every axis of every parameter and
buffer, the groups along this axis, or why it is frozen. Without --out the CSV is printed, with --json the JSON. The
result is not certified; `explain` certifies it. docs/command-line.md says how to read the data.
"""
COLUMNS = ("tensor", "axis", "size", "group", "units", "blocks", "frozen")


def run(
    network: NetworkOptions,
    example: ExampleOptions,
    meta: Annotated[
        bool,
        typer.Option(
            "--meta",
            help="build NETWORK on PyTorch's meta device, without memory for its weights; refused where its code "
            "reads numbers",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="the file to write, .json or .csv")] = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Trace the network, and write or print its symmetry."""
    if out and out.suffix not in (".json", ".csv"):
        raise UsageError(f"--out: found {out}; .json or .csv is needed")
    check_outputs({"--out": out}, [])
    from neuralign.symmetry.export import export, rows
    from neuralign.symmetry.tracing.trace import trace

    symmetry = export(run_on_example(network, configfile, example, trace, "meta" if meta else "cpu"))
    shapes = example_shapes(example)
    data = {"network": network.network, "input": shapes, "attention": network.attention, **symmetry}
    table = list(rows(symmetry))
    if not out:
        return 0, data, _format_csv(table)
    if out.suffix == ".csv":
        write_rows(table, out, COLUMNS)
    else:
        with atomic(out) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n")
    counts = f"{len(data['groups'])} free groups, {len(data['tensors'])} tensors"
    return 0, data, f"{counts}: {out}"


def _format_csv(table: list[dict[str, Any]]) -> str:
    """The rows as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().rstrip("\n")
