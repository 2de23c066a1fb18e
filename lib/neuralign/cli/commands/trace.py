"""`neuralign trace`: the permutation symmetry of a network as JSON or CSV, for other programs."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.common.files import atomic
from neuralign.common.tables import write_rows

EXAMPLES = [
    "neuralign trace torchvision.models:resnet18 --input 1,3,64,64 --out resnet18.json",
    "neuralign trace ./nets.py:Net --input 1,1,28,28 --out net.csv   # one row for each axis of each tensor",
    "neuralign trace ./nets.py:Reader --input tokens=2,16:0..999 --input mask=2,16:0..1 --out reader.json",
]
DESCRIPTION = """
Writes every free group (a set of units that may be permuted) with its size and, for every axis of every parameter and
buffer, the groups along this axis, or why it is frozen. Without --out the CSV is printed, with --json the JSON. The
result is not certified; `explain` certifies it. docs/command-line.md says how to read the data.
"""
COLUMNS = ("tensor", "axis", "size", "group", "units", "blocks", "frozen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.description = f"{parser.description}\n{DESCRIPTION}"
    shared.add_network(parser)
    shared.add_example(parser)
    parser.add_argument(
        "--meta",
        action="store_true",
        help="build NETWORK on PyTorch's meta device, without memory for its weights; refused where its code reads "
        "numbers",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write, .json or .csv")


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Trace the network, and write or print its symmetry."""
    if arguments.out and arguments.out.suffix not in (".json", ".csv"):
        raise shared.UsageError(f"--out: found {arguments.out}; .json or .csv is needed")
    from neuralign.symmetry.export import export, rows
    from neuralign.symmetry.tracing.trace import trace

    symmetry = export(shared.run_on_example(arguments, trace, "meta" if arguments.meta else "cpu"))
    shapes = shared.example_shapes(arguments)
    data = {"network": arguments.network, "input": shapes, "attention": arguments.attention, **symmetry}
    table = list(rows(symmetry))
    if not arguments.out:
        return 0, data, _format_csv(table)
    if arguments.out.suffix == ".csv":
        write_rows(table, arguments.out, COLUMNS)
    else:
        with atomic(arguments.out) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n")
    counts = f"{len(data['groups'])} free groups, {len(data['tensors'])} tensors"
    return 0, data, f"{counts}: {arguments.out}"


def _format_csv(table: list[dict[str, Any]]) -> str:
    """The rows as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().rstrip("\n")
