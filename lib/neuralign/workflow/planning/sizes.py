"""Sizes of a dataset: numbers of images and their shape, before or after the dataset is fetched."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from neuralign.datasets.splits import prepare
from neuralign.workflow.planning.costs import Sizes


def sizes_in_file(file: Path) -> Sizes:
    """Sizes from the header of the file of a fetched dataset."""
    with safe_open(file, "np") as data:
        train, test = (data.get_slice(f"{split}_images").get_shape() for split in ("train", "test"))
        classes = json.loads(data.metadata()["facts"])["classes"]
    return Sizes(train[0], test[0], train[1], train[2], len(classes))


def published_sizes(entry: Mapping[str, Any]) -> Sizes | None:
    """Sizes from sizes.csv, by the plug-in of the config entry; None if the plug-in is not in that table."""
    with Path(__file__).with_name("sizes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["use"] == entry["use"]:
                train, test, channels, side = (int(row[k]) for k in ("train", "test", "channels", "side"))
                if entry["validation_fraction"]:
                    test = round(entry["validation_fraction"] * train)
                    train -= test
                return Sizes(train, test, channels, side, int(row["classes"] or entry["classes"]))
    return None


def sizes_by_making(entry: Mapping[str, Any]) -> Sizes:
    """Sizes of the dataset, which is made for that; for plug-ins that download nothing."""
    dataset = prepare(entry, Path())
    _, channels, side, _ = dataset.train.images.shape
    return Sizes(len(dataset.train.images), len(dataset.test.images), channels, side, len(dataset.classes))
