"""`neuralign explain`: which neurons of a network may be permuted, what is frozen and why, and whether that holds."""

import argparse
from typing import Any

from neuralign.cli import shared
from neuralign.common.errors import Refused

HELP = "show which neurons of a network may be permuted, what is frozen and why, with a certificate"
EXAMPLES = [
    "neuralign explain torchvision.models:resnet18 --input 1,3,64,64",
    "neuralign explain ./nets.py:Net --option width=32 --input 1,1,28,28 --json",
]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    shared.add_network(parser)
    parser.add_argument(
        "--input", type=shared.sizes, default=[2, 3, 32, 32], metavar="N,...", help="its shape (default: 2,3,32,32)"
    )
    parser.add_argument("--tokens", type=shared.count, metavar="N", help="the input are whole numbers below N")


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Explain; the status says whether the certificate holds."""
    import torch

    from neuralign.common.seeding import stream
    from neuralign.networks.foreign_networks import NetworkError, summary
    from neuralign.networks.model import outputs
    from neuralign.symmetry.explain import explain, sentences

    network = shared.build(given, given.input[1]).network
    draws = stream(0, "example input")
    if given.tokens:
        example = torch.randint(given.tokens, given.input, generator=draws)
    else:
        example = torch.randn(given.input, generator=draws)
    outputs(network, example)  # refuses an input that it does not take
    try:
        facts = explain(network, example, attention=given.attention)
    except Refused:
        raise
    except Exception as error:  # the code is anybody's, and so are its errors
        raise NetworkError(f"{given.network} cannot be run as it is explained: {summary(error)}") from error
    return int(not facts["certified"]), {"network": given.network, **facts}, "\n".join(sentences(facts))
