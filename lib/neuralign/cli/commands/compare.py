"""`neuralign compare`: whether two checkpoints are the same network up to a permutation of its neurons."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from neuralign.cli.devices import on_device
from neuralign.cli.entries import file_digests
from neuralign.cli.examples import run_on_example
from neuralign.cli.inner_parts import inner_parts
from neuralign.cli.interface.options import CheckpointA, ConfigFiles, Device, ExampleOptions, Inside, NetworkOptions
from neuralign.common.tables import align_columns

DESCRIPTION = "Say whether two checkpoints are the same up to a permutation, and which share of the neurons match."
EXAMPLES = [
    "neuralign compare torchvision.models:resnet18 a.pt b.pt --input 2,3,64,64",
    "neuralign compare ./nets.py:Net a.pt b.safetensors --input 2,3,32,32 --json",
]


def run(
    network: NetworkOptions,
    a: CheckpointA,
    b: Annotated[str, typer.Argument(metavar="B", help="the checkpoint that is compared with it")],
    example: ExampleOptions,
    device: Device = None,
    inside: Inside = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Compare by weights alone. The exit status is 0, whatever the result."""
    from neuralign import api
    from neuralign.merging.export import network_with
    from neuralign.networks import foreign_checkpoints
    from neuralign.networks.model import Model

    def compare(module: Any, inputs: Any, *, attention: bool) -> api.Comparison:
        model = Model(module, None, None)
        parts = zip((a, b), inner_parts((a, b), inside), strict=True)
        states = [foreign_checkpoints.read(file, model, part).state for file, part in parts]
        first, second = (network_with(module, state) for state in states)
        return api.compare(first, second, inputs, attention=attention)

    with on_device(device or "cpu"):
        result = run_on_example(network, configfile, example, compare, (device or "cpu").partition(":")[0])
    facts = {key: value for key, value in asdict(result).items() if key != "permutation"}
    facts |= {"sentence": result.sentence, "network": network.network}
    facts |= {"a": file_digests(a), "b": file_digests(b)}
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
