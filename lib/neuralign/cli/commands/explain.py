"""`neuralign explain`: which neurons of a network may be permuted, which axes are frozen and why; certified."""

import argparse
from typing import Any

from neuralign.cli import shared

EXAMPLES = [
    "neuralign explain torchvision.models:resnet18 --input 1,3,64,64",
    "neuralign explain ./nets.py:Net --option width=32 --input 1,1,28,28 --json",
    "neuralign explain ./nets.py:Reader --input tokens=2,16:0..999 --input mask=2,16:0..1",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    shared.add_network(parser)
    shared.add_example(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Explain the symmetry of the network. The exit status is 0 if the certificate holds, else 1."""
    from neuralign.symmetry.explain import explain, sentences
    from neuralign.symmetry.memory import return_freed_memory

    return_freed_memory()
    facts = shared.run_on_example(arguments, explain)
    return int(not facts["certified"]), {"network": arguments.network, **facts}, "\n".join(sentences(facts))
