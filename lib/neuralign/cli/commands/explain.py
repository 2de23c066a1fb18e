"""`neuralign explain`: which neurons of a network may be permuted, which axes are frozen and why; certified."""

from typing import Any

from neuralign.cli.examples import run_on_example
from neuralign.cli.interface.options import ConfigFiles, ExampleOptions, NetworkOptions
from neuralign.common.logs.progress import report

DESCRIPTION = "Say in words which neurons of a network may be permuted, which are frozen and why; with a certificate."
EXAMPLES = [
    "neuralign explain torchvision.models:resnet18 --input 1,3,64,64",
    "neuralign explain ./nets.py:Net --option width=32 --input 1,1,28,28 --json",
    "neuralign explain ./nets.py:Reader --input tokens=2,16:0..999 --input mask=2,16:0..1",
]


def run(
    network: NetworkOptions, example: ExampleOptions, configfile: ConfigFiles = None
) -> tuple[int, dict[str, Any], str]:
    """Explain the symmetry of the network. The exit status is 0 if the certificate holds, else 1."""
    from neuralign.symmetry.explain import explain, sentences
    from neuralign.symmetry.memory import return_freed_memory

    return_freed_memory()
    report("tracing, and certifying on random permutations", 0, 0)
    facts = run_on_example(network, configfile, example, explain)
    return int(not facts["certified"]), {"network": network.network, **facts}, "\n".join(sentences(facts))
