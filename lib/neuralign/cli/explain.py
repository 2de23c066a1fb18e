"""`neuralign explain`: which neurons of a network may be permuted, what is frozen and why, and whether that holds."""

import argparse
from typing import Any

from neuralign.cli import shared

EXAMPLES = [
    "neuralign explain torchvision.models:resnet18 --input 1,3,64,64",
    "neuralign explain ./nets.py:Net --option width=32 --input 1,1,28,28 --json",
]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    shared.add_network(parser)
    shared.add_example(parser)


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Explain; the status says whether the certificate holds."""
    from neuralign.symmetry.explain import explain, sentences

    facts = shared.on_example(given, explain)
    return int(not facts["certified"]), {"network": given.network, **facts}, "\n".join(sentences(facts))
