"""Writes a dataset to one safetensors file, which can be memory-mapped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from neuralign.common.files import atomic
from neuralign.datasets.dataset import ArrayDataset, Dataset
from neuralign.datasets.reading import large_arrays


def save(dataset: Dataset, path: str | Path) -> None:
    """Write the arrays of a dataset and, as JSON, its facts.

    Of images: the tensors {train,test}_{images,labels}, and the facts classes, mean and std (of the training pixels).
    Of other arrays: {train,test}_{inputs,targets}, and the facts classes and data (those of the dataset).

    The same dataset gives the same bytes: all facts are in one entry of the metadata, because safetensors writes
    several entries in random order.
    """
    facts: dict[str, Any] = {"classes": dataset.classes}
    if isinstance(dataset, ArrayDataset):
        names, facts["data"] = ("inputs", "targets"), dict(dataset.facts)
    else:
        names = ("images", "labels")
        facts["mean"], facts["std"] = channel_statistics(dataset.train.inputs)
    tensors: dict[str, np.ndarray] = {}
    for split_name, split in (("train", dataset.train), ("test", dataset.test)):
        tensors |= {f"{split_name}_{names[0]}": split.inputs, f"{split_name}_{names[1]}": split.targets}
    with atomic(path) as temporary:
        contiguous = {name: large_arrays.contiguous(array, temporary.parent) for name, array in tensors.items()}
        save_file(contiguous, temporary, {"facts": json.dumps(facts)})


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for pixels in [0, 1]. Exact, from histograms.

    images: uint8 (n, c, h, w).
    """
    counts = np.zeros((images.shape[1], 256), np.int64)
    for block in large_arrays.blocks(images):
        for channel, count in enumerate(counts):
            count += np.bincount(images[block, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)  # (c, 256)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), std.tolist()
