"""A dataset as one safetensors file that can be memory-mapped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuralign.common.files import atomic
from neuralign.datasets.dataset import Dataset

FORMAT = "neuralign.dataset/1"
CHUNK = 1024  # images at a time: a dataset of several GB is never held twice


def save(dataset: Dataset, path: str | Path) -> None:
    """Write {train,test}_{images,labels} and, as JSON in the metadata, classes and the training pixels' mean and std.

    The same dataset gives the same bytes. (The writer of the safetensors package orders metadata at random and copies
    each tensor; the format itself is a length, a JSON header and the raw tensors.)
    """
    mean, std = moments(dataset.train.images)
    tensors = {  # 8-byte labels first, so that every tensor is aligned
        "train_labels": dataset.train.labels.astype("<i8", copy=False),
        "test_labels": dataset.test.labels.astype("<i8", copy=False),
        "train_images": dataset.train.images,
        "test_images": dataset.test.images,
    }
    facts = {"format": FORMAT, "classes": json.dumps(dataset.classes), "mean": json.dumps(mean), "std": json.dumps(std)}
    header: dict[str, Any] = {"__metadata__": facts}
    begin = 0
    for name, array in tensors.items():
        kind = "U8" if array.dtype == np.uint8 else "I64"
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, begin + array.nbytes)}
        begin += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.writelines(np.ascontiguousarray(chunk).data for chunk in _chunks(array))


def moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, pixels in [0, 1]; exact, from histograms. images: (n, c, h, w)"""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for chunk in _chunks(images):
        for channel, count in enumerate(counts):
            count += np.bincount(chunk[:, channel].ravel(), minlength=256)
    pixels = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)  # (c, 256)
    mean = share @ pixels
    std = np.sqrt((share * (pixels - mean[:, None]) ** 2).sum(1))
    return mean.tolist(), std.tolist()


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[i : i + CHUNK] for i in range(0, len(array), CHUNK))
