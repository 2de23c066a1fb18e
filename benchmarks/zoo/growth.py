"""What a trace and a certificate cost, by the number of parameters: `python -m benchmarks.zoo.growth`.

Writes docs/growth.csv, one row for each network, measured in a process of its own. Its limit of data (`ulimit -d`) is
what the certificate takes for the memory of the machine.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.zoo.processes import ROOT, measure, print_row
from neuralign.common.files import atomic

# networks of torchvision, small ones first
NETWORKS = ["squeezenet1_1", "mobilenet_v2", "efficientnet_b0", "resnet18", "resnet50", "resnet101", "vit_b_32"]
NETWORKS += ["regnet_y_32gf", "convnext_large", "vit_l_16", "vit_h_14", "regnet_y_128gf"]
COLUMNS = ["network", "parameters", "groups", "precision", "certified", "error", "trace_seconds"]
COLUMNS += ["certificate_seconds", "trace_peak", "peak", "limit", "failure"]


def cost(name: str) -> dict[str, Any]:
    """The row of a network: CPU seconds on one thread, and GiB that the process had at most, libraries included."""
    from benchmarks.zoo.examination import peak_memory
    from benchmarks.zoo.networks import make
    from neuralign.symmetry.explain import certify_random
    from neuralign.symmetry.tracing.trace import trace

    sample = make("torchvision", name)
    example = sample.draw(2, 0)
    start = time.process_time()
    symmetry = trace(sample.network, example)
    traced, trace_peak = time.process_time(), peak_memory()
    facts = certify_random(symmetry, example)
    return {
        "parameters": sum(p.numel() for p in sample.network.parameters()),
        "groups": len(symmetry.spec.free),
        "precision": facts["precision"],
        "certified": facts["certified"],
        "error": facts["max_error"],
        "trace_seconds": traced - start,
        "certificate_seconds": time.process_time() - traced,
        "trace_peak": trace_peak,
        "peak": peak_memory(),
    }


def main() -> None:
    """Measure the networks and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", help=f"of torchvision (default: {', '.join(NETWORKS)})")
    parser.add_argument("--memory", type=int, default=12, help="GiB of memory that each process may take (12)")
    parser.add_argument("--seconds", type=int, default=3600, help="CPU seconds that one network may take (3600)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "growth.csv", help="the table to write")
    parser.add_argument("--row", help="print the row of one network as JSON")
    arguments = parser.parse_args()
    if arguments.row:
        print_row(lambda: cost(arguments.row))
        return
    rows = pd.read_csv(arguments.out).to_dict("records") if arguments.out.exists() else []
    for name in arguments.network or NETWORKS:
        command = ["-m", "benchmarks.zoo.growth", "--row", name]
        row = {"network": name, "limit": arguments.memory, **measure(command, arguments.seconds, arguments.memory)}
        rows = [old for old in rows if old["network"] != name] + [row]
        frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("parameters")
        with atomic(arguments.out) as temporary:
            frame.to_csv(temporary, index=False)
        print(row, flush=True)


if __name__ == "__main__":
    main()
