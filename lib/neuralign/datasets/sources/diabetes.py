"""The diabetes table that scikit-learn contains: a regression without a download."""

from pathlib import Path

import numpy as np

from neuralign.config.options import OpenFraction, Seed
from neuralign.datasets.dataset import ArrayDataset, Split
from neuralign.datasets.splits import stratified_split


def diabetes(cache: Path, *, test_fraction: OpenFraction = 0.2, seed: Seed = 0) -> ArrayDataset:
    """442 patients: ten measurements (n, 10) and the progression of the disease a year later (n, 1), in float32.

    Source: Efron, Hastie, Johnstone & Tibshirani 2004, "Least Angle Regression". Both are standardised by mean and
    standard deviation of the training split, which are among the facts of the dataset. Both splits keep the file order.

    Args:
        test_fraction: Share of the patients, chosen at random, that is the test split.
        seed: Seed of the split.
    """
    from sklearn.datasets import load_diabetes  # a second of imports that no other dataset needs

    source = load_diabetes(scaled=False)
    is_test = stratified_split(np.zeros(len(source.target)), test_fraction, seed)
    inputs, targets = (_standardise(x, ~is_test) for x in (source.data, source.target[:, None]))
    facts = {"columns": list(source.feature_names)}
    for part, (_, mean, std) in (("inputs", inputs), ("targets", targets)):
        facts |= {f"{part}_mean": mean.tolist(), f"{part}_std": std.tolist()}
    train, test = (Split(inputs[0][part], targets[0][part]) for part in (~is_test, is_test))
    return ArrayDataset(train, test, ("progression",), facts)


def _standardise(values: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the columns of `values` in standard units, in float32; mean and standard deviation of the training rows)."""
    mean, std = values[train].mean(0), values[train].std(0)
    return ((values - mean) / std).astype(np.float32), mean, std
