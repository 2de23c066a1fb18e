"""REPAIR on deep perceptrons on CIFAR-10, beside the published accuracies (Jordan et al. 2023; data of their figures).

    snakemake --cores all --configfile benchmarks/anchors/repair.yaml -- \\
        results/endpoints/cifar10/repair_{32,64,128}/repair/{1,2}.safetensors
    python -m benchmarks.anchors.repair results --out repair.json

Two networks of eleven hidden layers are trained with batch norm, which is then folded into the layers before it, as
there. The second is aligned with the first by the correlation of activations; their mean is measured as it is, and
repaired by `repair` and by `closed_form`.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
from neuralign.networks.setup import load_data
from neuralign.networks.states import load_state
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.objectives.cross_entropy import CLASSIFICATION

DEPTH, INPUTS, CLASSES = 11, 3072, 10
IMAGES = 50_000  # on which repairs measure: all, as there
PUBLISHED = {  # width -> accuracy (%) of the ends, of the mean of aligned networks, and of the repaired mean
    32: (52, 34.0, 38.9),
    64: (55, 40.7, 45.7),
    128: (57, 34.6, 47.5),
}


def folded(network: nn.Sequential, state: Mapping[str, Tensor]) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The same function without batch norms: the network and its state, with each norm folded into the layer before."""
    plain = mlp(CLASSES, 3, width=network.hidden1.out_features, depth=DEPTH, inputs=INPUTS)
    new = {name: state[name].clone() for name in plain.state_dict()}
    for i in range(1, DEPTH + 1):
        norm, layer = f"norm{i}", f"hidden{i}"
        gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + getattr(network, norm).eps).sqrt()
        new[f"{layer}.weight"] *= gain[:, None]
        new[f"{layer}.bias"] = state[f"{norm}.bias"] + gain * (new[f"{layer}.bias"] - state[f"{norm}.running_mean"])
    return plain, new


def accuracy(model: Model, state: Mapping[str, Tensor], examples: Examples) -> float:
    """In percent."""
    return values_of(model, state, examples, CLASSIFICATION.metrics["accuracy"], batch_size=1000).mean().item()


def measure(results: Path, width: int, pair: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    """One row: the accuracies of one width, of the networks that the workflow trained, and the published ones."""
    data = load_data(str(results / "data" / "cifar10.safetensors"), None)
    mean, std = (torch.tensor(values) for values in ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)))
    with_norms = Model(mlp(CLASSES, 3, width=width, depth=DEPTH, inputs=INPUTS, norm="batch"), mean, std)
    states = []
    for seed in pair:
        file = results / "endpoints" / "cifar10" / f"repair_{width}" / "repair" / f"{seed}.safetensors"
        trained = load_state(str(file), with_norms)
        plain, state = folded(with_norms.network, trained)
        model = Model(plain, mean, std)
        change = abs(accuracy(model, state, data.test) - accuracy(with_norms, trained, data.test))
        if change > 0.05:
            raise ValueError(f"{file}: folding its batch norms changed the accuracy by {change:.2f} points")
        states.append(state)
    trace = trace_model(model, data.train)
    problem = Problem(model, trace, *states, data.train)
    permutation = search(problem, lambda p: correlation(p, images=len(data.train)))
    certificate = certify(problem, permutation)
    row: dict[str, Any] = {"width": width, "certificate": certificate}
    row["ends"] = sum(accuracy(model, state, data.test) for state in states) / 2
    ends = {"naive": states[1], "permuted": permute(trace.spec, permutation, states[1])}
    for name, second in ends.items():
        merge = merge_of(model, trace, [states[0], second], data.train)
        row[name] = accuracy(model, merge.state, data.test)
        for kind, mend in (("repaired", repair), ("closed_form", closed_form)):
            mended = repaired(merge, lambda m, mend=mend: mend(m, images=IMAGES))
            row[f"{name}_{kind}"] = accuracy(model, mended, data.test)
    published = dict(zip(("ends", "permuted", "permuted_repaired"), PUBLISHED[width], strict=True))
    return row | {f"published_{name}": value for name, value in published.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the results folder of the workflow")
    parser.add_argument("--widths", type=int, nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--out", type=Path, help="a JSON file for the rows, which are also printed")
    options = parser.parse_args()
    rows = []
    for width in options.widths:
        rows.append(measure(options.results, width))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
