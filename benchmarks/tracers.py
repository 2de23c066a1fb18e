"""How many networks can be traced by a recorded run (`symmetry.tracing.trace`), by `torch.fx` and by `torch.export`.

`python -m benchmarks.tracers` tries all three on torchvision's classification networks and on the networks of
`tests/helpers/awkward.py`, and prints which ones each of them cannot trace, and why. `torch.fx` and `torch.export`
succeed if they return a graph, the recorded run if some neurons may be permuted.
"""

import argparse
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks.zoo import networks as zoo
from neuralign.symmetry.tracing.trace import trace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from awkward import FIXED, FREE  # noqa: E402


def recorded(network: nn.Module, example: Tensor) -> None:
    """The recorded run of this library, which includes auxiliary heads that only run in training mode."""
    trace(network, example)


def symbolic(network: nn.Module, example: Tensor) -> None:
    """`torch.fx`, in training mode; it has no values and no shapes."""
    torch.fx.symbolic_trace(network.train())


def exported(network: nn.Module, example: Tensor) -> None:
    """`torch.export` in evaluation mode."""
    torch.export.export(network.eval(), (example,))


def exported_in_training(network: nn.Module, example: Tensor) -> None:
    """`torch.export` in training mode, which includes auxiliary heads."""
    torch.export.export(network.train(), (example,))


WAYS = {"recorded run": recorded, "torch.fx": symbolic, "torch.export": exported, "in training": exported_in_training}


def networks() -> Iterator[tuple[str, str, Callable[[], tuple[nn.Module, Tensor]]]]:
    """(kind, name, function that makes the network and an input)."""
    sizes = {n: models.get_model_weights(n).DEFAULT.meta["num_params"] for n in models.list_models(module=models)}
    for name in sorted(sizes, key=lambda n: sizes[n]):
        yield "torchvision", name, lambda name=name: network_and_images(name)
    for name, (make, _) in (FREE | FIXED).items():
        yield "hand-made", name, lambda make=make: (make(), torch.randn(2, 3, 8, 8))


def network_and_images(name: str) -> tuple[nn.Module, Tensor]:
    """A network of torchvision and two images."""
    sample = zoo.make("torchvision", name)
    return sample.network, sample.draw(2, 0)


def try_way(way: Callable[[nn.Module, Tensor], None], network: nn.Module, example: Tensor) -> tuple[float, str]:
    """(seconds, the error; "" if there was none)."""
    start = time.perf_counter()
    try:
        way(network, example)
    except Exception as error:  # tracers may raise anything; the table shows it
        text = " ".join(str(error).split())
        return time.perf_counter() - start, f"{type(error).__name__}: {text[:120]}"
    return time.perf_counter() - start, ""


def main() -> None:
    """Try all tracers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression on names")
    warnings.simplefilter("ignore")
    rows = []
    for kind, name, make in networks():
        if re.search(parser.parse_args().only, name):
            network, example = make()
            for way, function in WAYS.items():
                seconds, why = try_way(function, network, example)
                rows.append({"kind": kind, "network": name, "way": way, "seconds": seconds, "why": why})
                if why:
                    print(f"{name}, {way}: {why}", flush=True)
    groups = pd.DataFrame(rows).groupby(["kind", "way"], sort=False)
    print(
        groups.agg(
            networks=("network", "size"),
            seen=("why", lambda why: int((why == "").sum())),
            median_seconds=("seconds", "median"),
            slowest=("seconds", "max"),
        )
    )


if __name__ == "__main__":
    main()
