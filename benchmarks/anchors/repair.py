"""REPAIR on perceptrons, beside the published accuracies (Jordan et al. 2023; data of their figures).

    snakemake --cores all --configfile benchmarks/anchors/repair.yaml -- \\
        results/endpoints/cifar10/repair_{32,64,128}/repair/{1,2}.safetensors
    python -m benchmarks.anchors.repair results --dataset cifar10 --out repair.json

The same with `mnist` and repair_{k1,k3,k5,k10,k20,k30,k6_plain}; and with `mnist5k`, which needs no download, but whose
4,000 training images make no networks that could be compared with the published ones.

Two networks are trained; batch norms are then folded into the layers before them, as there. The second is aligned with
the first by the correlation of activations; their mean is measured as it is, and repaired by `repair` and by
`closed_form`.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neuralign.alignment.algorithms.correlation import correlation
from neuralign.alignment.problem import Problem, certify, search
from neuralign.datasets.batches import Examples
from neuralign.evaluation.barrier import values_of
from neuralign.merging.merge import merge_of, repaired
from neuralign.merging.repairs.closed_form import closed_form
from neuralign.merging.repairs.repair import repair
from neuralign.networks.architectures.mlp import mlp
from neuralign.networks.model import Model
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.objectives.cross_entropy import CLASSIFICATION
from neuralign.workflow.running.notes import read_note

COLUMNS = ("ends", "naive", "permuted", "permuted_repaired", "permuted_closed_form")
MNIST: dict[str, tuple[float | None, ...]] = {
    "repair_k1": (98.07, 39.6, 96.82, 97.51, 97.44),
    "repair_k3": (98.2, 15.3, 93.67, 96.38, 95.74),
    "repair_k5": (98.2, 10.6, 93.53, 95.87, 95.16),
    "repair_k10": (98.25, 9.7, 81.18, 95.31, 94.66),
    "repair_k20": (98.1, 8.9, 50.6, 94.63, 94.80),
    "repair_k30": (97.9, 9.8, 31.5, 91.0, 89.9),
    "repair_k6_plain": (96.5, None, 71.68, 82.96, None),
}
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {  # dataset -> network -> accuracies (%) of the columns
    "cifar10": {
        "repair_32": (52, None, 34.0, 38.9, None),
        "repair_64": (55, None, 40.7, 45.7, None),
        "repair_128": (57, None, 34.6, 47.5, None),
    },
    "mnist": MNIST,
    "mnist5k": dict.fromkeys(MNIST, (None,) * len(COLUMNS)),
}


def folded(network: nn.Sequential, state: Mapping[str, Tensor]) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The same function without batch norms: the network and its state, with each norm folded into the layer before."""
    depth, inputs = sum(name.startswith("norm") for name, _ in network.named_children()), network.hidden1.in_features
    plain = mlp(network.output.out_features, 1, width=network.hidden1.out_features, depth=depth, inputs=inputs)
    new = {name: state[name].clone() for name in plain.state_dict()}
    for i in range(1, depth + 1):
        norm, layer = f"norm{i}", f"hidden{i}"
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + getattr(network, norm).eps).sqrt()
        new[f"{layer}.weight"] *= gain[:, None]
        new[f"{layer}.bias"] = state[f"{norm}.bias"] + gain * (new[f"{layer}.bias"] - state[f"{norm}.running_mean"])
    return plain, new


def accuracy(model: Model, state: Mapping[str, Tensor], examples: Examples) -> float:
    """In percent."""
    return values_of(model, state, examples, CLASSIFICATION.metrics["accuracy"], batch_size=1000).mean().item()


def measure(results: Path, dataset: str, network: str, pair: str) -> dict[str, Any]:
    """One row: the accuracies of a pair of networks that the workflow trained, and the published ones.

    `pair`: the seeds of both, such as 1-2.
    """
    files = [results / "endpoints" / dataset / network / "repair" / f"{seed}.safetensors" for seed in pair.split("-")]
    settings = read_note(files[0])["settings"]["model"]
    data, model = load_data_and_model(str(results / "data" / f"{dataset}.safetensors"), settings)
    states = [dict(load_state(str(file), model)) for file in files]
    if settings["network"]["norm"] == "batch":
        with_norms = model
        for i, file in enumerate(files):
            plain, state = folded(with_norms.network, states[i])
            model = Model(plain, with_norms.mean, with_norms.std)
            change = abs(accuracy(model, state, data.test) - accuracy(with_norms, states[i], data.test))
            if change > 0.05:
                raise ValueError(f"{file}: folding its batch norms changed the accuracy by {change:.2f} points")
            states[i] = state
    trace = trace_model(model, data.train)
    problem = Problem(model, trace, *states, data.train)
    permutation = search(problem, lambda p: correlation(p, images=len(data.train)))
    row: dict[str, Any] = {"dataset": dataset, "network": network, "pair": pair}
    row["certificate"] = certify(problem, permutation)
    row["ends"] = sum(accuracy(model, state, data.test) for state in states) / 2
    ends = {"naive": states[1], "permuted": permute(trace.spec, permutation, states[1])}
    for name, second in ends.items():
        merge = merge_of(model, trace, [states[0], second], data.train)
        row[name] = accuracy(model, merge.state, data.test)
        for kind, mend in (("repaired", repair), ("closed_form", closed_form)):
            mended = repaired(merge, lambda m, mend=mend: mend(m, images=len(data.train)))  # all, as there
            row[f"{name}_{kind}"] = accuracy(model, mended, data.test)
    published = dict(zip(COLUMNS, PUBLISHED[dataset][network], strict=True))
    return row | {f"published_{name}": value for name, value in published.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the results folder of the workflow")
    parser.add_argument("--dataset", choices=list(PUBLISHED), default="cifar10")
    parser.add_argument("--networks", nargs="+", help="names in benchmarks/anchors/repair.yaml (default: all)")
    parser.add_argument("--pairs", nargs="+", default=["1-2"], help="seeds of both networks (default: 1-2)")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows, which are also printed")
    options = parser.parse_args()
    rows = []
    for network, pair in product(options.networks or PUBLISHED[options.dataset], options.pairs):
        rows.append(measure(options.results, options.dataset, network, pair))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
