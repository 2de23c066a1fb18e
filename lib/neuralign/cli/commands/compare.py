"""`neuralign compare`: whether two checkpoints are the same network up to a permutation of its neurons."""

import argparse
from dataclasses import asdict
from typing import Any

from neuralign.cli import shared
from neuralign.common.tables import align_columns

EXAMPLES = [
    "neuralign compare torchvision.models:resnet18 a.pt b.pt --input 2,3,64,64",
    "neuralign compare ./nets.py:Net a.pt b.safetensors --input 2,3,32,32 --json",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    parser.add_argument("a", metavar="A", help="a checkpoint: .safetensors, or a state_dict saved by torch.save")
    parser.add_argument("b", metavar="B", help="the checkpoint that is compared with it")
    shared.add_inside(parser)
    shared.add_example(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Compare by weights alone. The exit status is 0, whatever the result."""
    from neuralign import api
    from neuralign.merging.export import network_with
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import Model

    def compare(network: Any, example: Any, *, attention: bool) -> api.Comparison:
        model = Model(network, None, None)
        states = [foreign_checkpoints.read(file, model, arguments.inside).state for file in (arguments.a, arguments.b)]
        a, b = (network_with(network, state) for state in states)
        return api.compare(a, b, example, attention=attention)

    result = shared.run_on_example(arguments, compare)
    facts = {key: value for key, value in asdict(result).items() if key != "permutation"}
    facts |= {"sentence": result.sentence, "network": arguments.network}
    facts |= {"a": shared.file_digests(arguments.a), "b": shared.file_digests(arguments.b)}
    return 0, facts, _format(result.layers, result.sentence)


def _format(layers: tuple[dict[str, Any], ...], sentence: str) -> str:
    """A table with a line for each group, and the sentence."""
    if not layers:
        return f"no neuron of the network may be permuted\n{sentence}"
    lines = [["group", "units", "match better than chance", "cosine", "chance"]]
    for row in layers:
        numbers = [f"{row['matched']:.0%}", f"{row['cosine']:.3f}", f"{row['chance']:.3f}"]
        lines.append([row["group"], str(row["units"]), *numbers])
    return "\n".join([align_columns(lines), "", sentence])
