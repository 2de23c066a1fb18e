"""Sizes of a dataset: numbers of examples and their shape, before or after the dataset is fetched; and its arrays."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from neuralign.datasets.dataset import ArrayDataset, Split
from neuralign.datasets.splits import prepare
from neuralign.workflow.planning.costs import Sizes


def sizes_in_file(file: Path) -> Sizes:
    """Sizes from the header of the file of a fetched dataset."""
    with safe_open(file, "np") as data:
        part = "images" if "train_images" in data.keys() else "inputs"  # noqa: SIM118 (not a dict)
        train, test = (data.get_slice(f"{split}_{part}").get_shape() for split in ("train", "test"))
        classes = json.loads(data.metadata()["facts"])["classes"]
    return _sizes(train, test, len(classes))


def published_sizes(entry: Mapping[str, Any]) -> Sizes | None:
    """Sizes from sizes.csv, by the plug-in of the config entry; None if the plug-in is not in that table.

    What a cell does not say is an option of the plug-in. Splits by class may differ from these sizes by some examples.
    """
    with Path(__file__).with_name("sizes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["use"] == entry["use"]:
                train, test = int(row["train"]), int(row["test"] or 0)
                if not test:
                    test = round(entry["test_fraction"] * train)
                    train -= test
                if entry["validation_fraction"]:
                    test = round(entry["validation_fraction"] * train)
                    train -= test
                side, classes = int(row["side"] or entry["size"]), int(row["classes"] or entry["classes"])
                return Sizes(train, test, int(row["channels"]), side, classes)
    return None


def sizes_by_making(entry: Mapping[str, Any]) -> Sizes:
    """Sizes of the dataset, which is made for that; for plug-ins that download nothing."""
    dataset = prepare(entry, Path())
    return _sizes(dataset.train.inputs.shape, dataset.test.inputs.shape, len(dataset.classes))


def arrays_in_file(file: Path) -> Split | None:
    """The training split in the file of a fetched dataset of arrays; None if it holds images."""
    with safe_open(file, "np") as data:
        if "train_inputs" not in data.keys():  # noqa: SIM118 (not a dict)
            return None
        return Split(data.get_tensor("train_inputs"), data.get_tensor("train_targets"))


def arrays_by_making(entry: Mapping[str, Any]) -> Split | None:
    """The training split of a dataset of arrays, which is made for that; None if it is one of images."""
    dataset = prepare(entry, Path())
    return dataset.train if isinstance(dataset, ArrayDataset) else None


def _sizes(train: Sequence[int], test: Sequence[int], classes: int) -> Sizes:
    """Sizes from the shapes of the inputs of both splits; what are no images have sides of 1 pixel or of their own."""
    channels, side = (*train[1:], 1, 1)[:2]
    return Sizes(train[0], test[0], channels, side, classes)
