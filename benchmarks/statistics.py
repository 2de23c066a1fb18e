"""`python -m benchmarks.statistics RECIPE ...`: error of accuracy and loss with batch-norm statistics of few images.

RECIPE: the recipe of an evaluation of a trained curve (results/recipes/evaluations/...). The curve is evaluated with a
pass over all training images at every point; then with fewer images, with and without full passes at some points that
correct the estimates. Run it in the folder that contains `results`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from neuralign.curves.storage import open_path
from neuralign.evaluation.along_curve import measure_curve
from neuralign.networks.setup import load_data_and_model
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate

COLUMNS = ["images", "full_passes", "points", "mean |d acc|", "max |d acc|", "d mean acc", "d min acc", "max |d loss|"]


def evaluations(recipe: dict[str, Any], points: int, protocols: Sequence[tuple[int | None, int | None]]) -> Iterator:
    """For each protocol (images, full passes), the rows without attack at `points` values of t."""
    inputs, settings = recipe["inputs"], recipe["settings"]
    data, net = load_data_and_model(inputs["data"], settings["model"])
    files = {name: inputs.get(name) for name in ("permutation", "bends")}
    path = open_path(net, data.train, inputs["target"], inputs["source"], curve=settings["curve"], **files)
    ts = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    transform = augmentation.pipeline(settings["augment"])
    common = {k: settings["protocol"][k] for k in ("batch_size", "seed")}
    for images, nodes in protocols:
        estimate = Estimate.on(data.train, transform, images=images, full_passes=nodes, **common)
        rows = measure_curve(net, path.curve, path.endpoints, ts, estimate, data.test, {"clean": None}, **common)
        yield [row for row in rows if row["statistics"] == "reestimated"]


def errors(full: Sequence[dict[str, Any]], estimated: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Errors of `estimated` in accuracy (percentage points) and loss, over the points without a full pass."""
    pairs = [(f, e) for f, e in zip(full, estimated, strict=True) if f["loss"] != e["loss"]]
    differences = [abs(e["accuracy"] - f["accuracy"]) for f, e in pairs]
    accuracies = [[row["accuracy"] for row in rows] for rows in (full, estimated)]
    return {
        "points": len(pairs),
        "mean |d acc|": mean(differences),
        "max |d acc|": max(differences),
        "d mean acc": mean(accuracies[1]) - mean(accuracies[0]),
        "d min acc": min(accuracies[1]) - min(accuracies[0]),
        "max |d loss|": max(abs(e["loss"] - f["loss"]) for f, e in pairs),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--points", type=int, default=9, help="values of t (default 9)")
    parser.add_argument("--images", type=int, nargs="+", default=[2048, 5000, 10_000])
    parser.add_argument("--full-passes", type=int, nargs="+", default=[0, 5], help="0: none")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    protocols = [(n, nodes or None) for nodes in arguments.full_passes for n in arguments.images]
    for path in arguments.recipes:
        evaluated = evaluations(json.loads(path.read_text()), arguments.points, [(None, None), *protocols])
        full = next(evaluated)
        print(f"{path}: accuracy {[round(row['accuracy'], 2) for row in full]}\n{'  '.join(COLUMNS)}", flush=True)
        for (images, nodes), estimated in zip(protocols, evaluated, strict=True):
            values = [f"{images}", f"{nodes or 0}", *(f"{value:.4g}" for value in errors(full, estimated).values())]
            print("  ".join(v.rjust(len(c)) for v, c in zip(values, COLUMNS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
