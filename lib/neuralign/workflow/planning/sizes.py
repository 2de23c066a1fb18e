"""How large a dataset is, before or after it is fetched."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from neuralign.config.plugins import plugin
from neuralign.workflow.planning.costs import Sizes


def fetched(file: Path) -> Sizes:
    """From the header of a prepared dataset."""
    with safe_open(file, "np") as data:
        train, test = (data.get_slice(f"{split}_images").get_shape() for split in ("train", "test"))
        classes = json.loads(data.metadata()["facts"])["classes"]
    return Sizes(train[0], test[0], train[1], train[2], len(classes))


def published(entry: Mapping[str, Any]) -> Sizes | None:
    """From sizes.csv, by the plug-in; None if it does not say."""
    with Path(__file__).with_name("sizes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["use"] == entry["use"]:
                train, test, channels, side = (int(row[k]) for k in ("train", "test", "channels", "side"))
                return Sizes(train, test, channels, side, int(row["classes"] or entry["classes"]))
    return None


def made_by(entry: Mapping[str, Any]) -> Sizes:
    """By making the dataset and counting: for data that no download is needed for."""
    made = plugin("datasets", {k: v for k, v in entry.items() if k not in ("augment", "mean", "std")})(Path())
    _, channels, side, _ = made.train.images.shape
    return Sizes(len(made.train.images), len(made.test.images), channels, side, len(made.classes))
