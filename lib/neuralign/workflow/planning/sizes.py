"""Sizes of a dataset: numbers of images and their shape, before or after the dataset is fetched."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from neuralign.datasets.splits import prepare
from neuralign.workflow.planning.costs import Sizes


def fetched(file: Path) -> Sizes:
    """Sizes from the header of the file of a fetched dataset."""
    with safe_open(file, "np") as data:
        train, test = (data.get_slice(f"{split}_images").get_shape() for split in ("train", "test"))
        classes = json.loads(data.metadata()["facts"])["classes"]
    return Sizes(train[0], test[0], train[1], train[2], len(classes))


def published(entry: Mapping[str, Any]) -> Sizes | None:
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


def made_by(entry: Mapping[str, Any]) -> Sizes:
    """Sizes found by making the dataset; for plug-ins that download nothing."""
    made = prepare(entry, Path())
    _, channels, side, _ = made.train.images.shape
    return Sizes(len(made.train.images), len(made.test.images), channels, side, len(made.classes))
