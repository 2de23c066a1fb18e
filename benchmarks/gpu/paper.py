"""What config.yaml says of the paper's rows on CIFAR-10, and random images of that size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problems import Kind
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import lay_over, read_config
from neuralign.datasets.dataset import Dataset, Split
from neuralign.workflow.graph import job, jobs
from neuralign.workflow.job import Job, Wildcards
from neuralign.workflow.planning.costs import Sizes
from neuralign.workflow.planning.sizes import published_sizes

ROOT = Path(__file__).resolve().parents[2]
DATASET = "cifar10"
NETWORKS = {"tinyten": "TinyTen", "resnet32": "ResNet32"}  # name in the config -> name in the paper
PATH = {"pair": "1-2", "alignment": "none", "curve": "bezier", "curve_seed": "1"}  # wildcards of a curve
_TRAINING = {"batch_size": 8}
QUICK: dict[str, Any] = {  # laid over the config, to test that everything runs
    "networks": {"tinyten": {"use": "tinyten", "width": 2}},
    "attacks": {"pgd5": {"steps": 1}, "pgd20": {"steps": 1}},
    "regimes": {name: {"endpoint": _TRAINING, "curve": _TRAINING, "overrides": []} for name in ("standard", "robust")},
    "alignments": {"correlation": {"images": 32}, "pam_unaligned": {"batch_size": 8}},
    "evaluations": {n: {"points": 3, "batch_size": 16, "images": 32, "full_passes": 2} for n in ("standard", "robust")},
}


def networks(quick: bool) -> dict[str, str]:
    """{name in the config: name in the paper} of the networks that are measured."""
    return {"tinyten": "TinyTen"} if quick else NETWORKS


def catalogue(quick: bool) -> Catalogue:
    """The config with one more study for each network, which is named like it: its row in the paper's table.

    The row is the first grid of the study `paper`, on this dataset and with this network alone.
    """
    config = read_config([ROOT / "config.yaml"])
    if quick:
        lay_over(config, QUICK)
    grid = config["studies"]["paper"]["grids"][0]
    for network in networks(quick):
        row = {**grid, "dataset": DATASET, "network": network}
        config["studies"][network] = {"title": f"The row of {network}", "grids": [row]}
    return Catalogue(config)


def training(c: Catalogue, network: str, kind: Kind, regime: str = "standard") -> Job:
    """The job that trains an endpoint or a curve (`kind`) of this network."""
    if kind == "endpoint":
        return job(c, "train_endpoint", _place(network, regime) | {"seed": "1"})
    return job(c, "train_curve", _place(network, regime) | PATH)


def trainings(c: Catalogue, network: str) -> Iterator[tuple[str, Kind, dict[str, Any]]]:
    """(name, kind, settings) of the trainings of an endpoint, of a curve, and of an endpoint under attack."""
    yield "endpoint", "endpoint", training(c, network, "endpoint").settings
    yield "curve", "curve", training(c, network, "curve").settings
    yield "PGD", "endpoint", training(c, network, "endpoint", "robust").settings


def alignment(c: Catalogue, network: str, name: str) -> Job:
    """The job that aligns a pair of this network by the entry `name` of the section `alignments`."""
    return job(c, "align", _place(network, "standard") | {"pair": "1-2", "alignment": name})


def evaluation(c: Catalogue, network: str, regime: str) -> Job:
    """The job that evaluates a curve by the evaluation of the regime's name, `standard` or `robust`."""
    return job(c, "evaluate", _place(network, regime) | PATH | {"evaluation": regime})


def _place(network: str, regime: str) -> Wildcards:
    return {"dataset": DATASET, "network": network, "regime": regime}


def row(c: Catalogue, network: str) -> list[tuple[str, Wildcards, Job]]:
    """(rule, wildcards, description) of the jobs of the row that compute with networks."""
    return [(rule, w, description) for rule, w, description in jobs(c, network) if "model" in description.settings]


def sizes(c: Catalogue, quick: bool) -> Sizes:
    """The numbers of images of the dataset, and their shape."""
    published = published_sizes(c.entry("datasets", DATASET))
    assert published is not None  # the dataset is in the table of published sizes
    return Sizes(40, 20, published.channels, published.side, published.classes) if quick else published


def random_dataset(sizes: Sizes) -> Dataset:
    """Random bytes as images, in a dataset of this size."""
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = generator.integers(256, size=(count, sizes.channels, sizes.side, sizes.side), dtype=np.uint8)
        return Split(images, np.arange(count) % sizes.classes)

    return Dataset(split(sizes.train), split(sizes.test), tuple(map(str, range(sizes.classes))))
