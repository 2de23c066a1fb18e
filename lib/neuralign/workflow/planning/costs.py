"""Costs of a job, computed from its settings before it runs: work, bytes on disk, and peak memory.

The unit of work is the forward pass of one image. A backward pass counts 2; one for the gradient by the image only, as
in an attack, counts 1. So a training step counts 3, and one under PGD with k steps counts 3 + 2k, as in the FLOP counts
for the paper.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from neuralign.common.memory import SHARE
from neuralign.common.tables import align_columns
from neuralign.config.plugins import plugin
from neuralign.datasets.dataset import Split

Settings = Mapping[str, Any]
STEP = 3  # work of a training step per image: forward, and backward with gradients by the weights
FLOAT = 4  # bytes of a float32
JOB_MEMORY = 8000  # megabytes that the rules ask for, for a job with networks in its first attempt
COLUMNS = ["rule", "jobs", "done", "hours left", "disk", "peak memory", "hours from"]
REPAIR = 8  # passes over its images that a repair takes: the ends, each layer in turn, the statistics
REFINING = 10  # points of a line at which its two maxima are refined
TRAININGS = ("train_endpoint", "train_curve")  # rules


@dataclass(frozen=True)
class Sizes:
    """Sizes of a dataset: numbers of images, and the shape of an image as the network sees it."""

    train: int
    test: int
    channels: int
    side: int
    classes: int

    @property
    def bytes(self) -> int:
        """Bytes of the uint8 pixels and int64 labels of both splits."""
        return (self.train + self.test) * (self.channels * self.side**2 + 8)


@dataclass(frozen=True)
class Counts:
    """Sizes of a network: numbers in its parameters, in its buffers, and in the outputs of all layers for one image."""

    parameters: int
    buffers: int
    activations: int


class TimedTraining(NamedTuple):
    """A training of which a calibration times some steps."""

    network: Settings  # its config entry
    sizes: Sizes
    augment: list[Any]
    batch_size: int
    precision: str
    objective: Any = None  # its config entry; None for that of a classifier
    arrays: Split | None = None  # the training split of a dataset of arrays; None for images


def network_key(network: Settings, sizes: Sizes) -> str:
    """The key in a calibration of a network, from its config entry and the sizes of its images."""
    return json.dumps([dict(network), sizes.channels, sizes.side, sizes.classes], sort_keys=True)


def training_key(precision: str) -> str:
    """The key in a calibration of the seconds per forward pass in a training with this precision."""
    return "train" if precision == "float32" else f"train {precision}"


def precision_of(settings: Settings) -> str:
    """The precision that a job trains in, or that the attacks of an evaluation search in; float32 for others."""
    of_attacks = settings.get("protocol", {}).get("attack_precision", "float32")
    return str(settings.get("training", {}).get("precision", of_attacks))


def has_training_steps(rule: str, settings: Settings) -> bool:
    """Whether a job takes training steps: a training, or an alignment by gradient descent such as PAM."""
    return rule in TRAININGS or "lr" in settings.get("method", {})


def attack_work(entry: Settings | None) -> int:
    """Work per image that an attack adds, 0 for no attack: 2 per step, and 1 per restart to compare the restarts."""
    if not entry:
        return 0
    restarts = entry.get("restarts", 1)
    return restarts * 2 * entry.get("steps", 1) + (restarts if restarts > 1 else 0)


def estimation_images(protocol: Settings, sizes: Sizes) -> int:
    """How many training images batch-norm statistics are estimated on."""
    return sizes.train if protocol["images"] is None else min(protocol["images"], sizes.train)


def work(rule: str, settings: Settings, sizes: Sizes, *, has_buffers: bool = True) -> float:
    """The work of a job, or of each of its processes, in forward passes of one example; 0 for a rule without networks.

    `has_buffers`: False for a network that has none, and so no statistics of batch norm to be estimated.
    """
    if not has_buffers and "protocol" in settings:
        settings = {**settings, "protocol": {**settings["protocol"], "images": 0, "full_passes": 0}}
    return float(WORK[rule](settings, sizes)) if rule in WORK else 0.0


def _training(s: Settings, sizes: Sizes) -> float:
    """The work of each of its processes."""
    return s["training"]["epochs"] * sizes.train * (STEP + attack_work(s["attack"])) / s.get("gpus", 1)


def _align(s: Settings, sizes: Sizes) -> int:
    method, attack = s["method"], attack_work(s.get("attack"))
    if "lr" in method and "epochs" not in method:  # so many steps, or none that read data
        return 0 if method.get("loss") == "distance" else method["steps"] * method["batch_size"] * (STEP + attack)
    if "epochs" not in method:  # the activations of both networks are computed once, or never
        if "choose" in method:  # a midpoint for each run
            return method["restarts"] * method["images"] * (1 + attack) if method["choose"] == "midpoint" else 0
        return 2 * min(method["images"], sizes.train) * (1 + attack) if "images" in method else 0
    rounds, candidates = method.get("rounds", 1), method.get("candidates", 0)
    scored = min(method.get("scoring_batches", 0) * method["batch_size"], sizes.train)
    epochs = rounds * method["epochs"] + (rounds - 1) * method.get("bend_epochs", 0)
    return epochs * sizes.train * (STEP + attack) + (2 + rounds * (candidates + 2)) * scored * (1 + attack)


def _align_cohort(s: Settings, sizes: Sizes) -> int:
    """That of each network with the first, once; what is aligned with means again depends on when nothing changes."""
    return (len(s["members"]) - 1) * _align({**s, "method": s["inner"]}, sizes)


def _evaluate_cohort(s: Settings, sizes: Sizes) -> int:
    count, tests = len(s["members"]), 1 + sum(1 + attack_work(a) for a in s["attacks"].values())
    images = sizes.train if s["protocol"]["full_passes"] else estimation_images(s["protocol"], sizes)
    return (count + 2) * images + (2 * count + 2) * tests * sizes.test


def _signature(s: Settings, sizes: Sizes) -> int:
    return 2 * sizes.test


def _midpoint(s: Settings, sizes: Sizes) -> int:
    # statistics of two midpoints; each end is matched once and compared twice
    return 6 * estimation_images(s["protocol"], sizes) + 8 * sizes.test


def _evaluate(s: Settings, sizes: Sizes) -> int:
    points, tests = s["protocol"]["points"], 1 + sum(1 + attack_work(a) for a in s["attacks"].values())
    tested = (points + 2) * tests * sizes.test  # the ends are tested with their stored statistics too
    return _statistics(s["protocol"], sizes, dimensions=1) + tested


def _plane(s: Settings, sizes: Sizes) -> int:
    return _statistics(s["protocol"], sizes, dimensions=2) + s["protocol"]["points"] ** 2 * sizes.test


def _statistics(protocol: Settings, sizes: Sizes, *, dimensions: int) -> int:
    """The work of estimating batch-norm statistics: at each point on `images`, at nodes also on all training images."""
    images, nodes = estimation_images(protocol, sizes), (protocol.get("full_passes") or 0) ** dimensions
    corrections = nodes * (images + sizes.train) if images < sizes.train else 0
    return protocol["points"] ** dimensions * images + corrections


def _merge(s: Settings, sizes: Sizes) -> float:
    """At each point of the line a pass over the test images, and at those that refine the two maxima."""
    tests = 1 + sum(1 + attack_work(a) for a in s["attacks"].values())
    points = s["protocol"]["points"] + REFINING + 4  # with the passes over the layers of three networks
    repairs = [min(entry.get("images", 0), sizes.train) for entry in s["repairs"].values()]
    line = points * (estimation_images(s["protocol"], sizes) + sizes.test)
    # a repair of all layers runs the network once for each, about half of it on average; clean ends are points
    return line + ((1 + len(repairs)) * tests + 2 * (tests - 1)) * sizes.test + REPAIR * sum(repairs)


def _bound(s: Settings, sizes: Sizes) -> int:
    return s.get("points", 17) * min(s.get("images", 500), sizes.test)


WORK: dict[str, Callable[[Settings, Sizes], float]] = {
    "train_endpoint": _training,
    "train_curve": _training,
    "align": _align,
    "align_cohort": _align_cohort,
    "evaluate_cohort": _evaluate_cohort,
    "signature": _signature,
    "midpoint": _midpoint,
    "evaluate": _evaluate,
    "plane": _plane,
    "bound": _bound,
    "merge": _merge,
}


def disk(rule: str, settings: Settings, sizes: Sizes, counts: Counts | None) -> int | None:
    """Bytes on disk of the data, network or bends that a job makes, else 0; None if `counts` are needed and missing."""
    if rule == "fetch_data":
        return sizes.bytes
    if rule not in TRAININGS:
        return 0
    if counts is None:
        return None
    numbers = counts.parameters + counts.buffers
    return FLOAT * (numbers if rule == "train_endpoint" else settings["curve"]["bends"] * counts.parameters)


def memory(rule: str, settings: Settings, sizes: Sizes, counts: Counts | None) -> int | None:
    """An upper estimate of the peak memory in bytes; None if `counts` are missing.

    It is the sum of the data, some copies of the weights, and the outputs of all layers for a batch, which count twice
    in a training because of their gradients. Of the data no more counts than a job with JOB_MEMORY holds: if they are
    larger, they stay on disk.
    """
    data = min(sizes.bytes, int(SHARE * JOB_MEMORY * 1e6))
    if rule not in WORK:
        return data if rule == "fetch_data" else 0
    if counts is None:
        return None
    protocol = settings.get("training") or settings.get("protocol") or settings.get("method") or {}
    outputs = protocol.get("batch_size", 500) * counts.activations * (2 if has_training_steps(rule, settings) else 1)
    copies = 16 if rule in ("evaluate", "plane") else 8  # eight points at a time share each batch
    copies += _copies_of_optimiser(protocol.get("optimiser"))
    processes = settings.get("gpus", 1)  # they share the outputs only
    return processes * (data + FLOAT * copies * counts.parameters) + FLOAT * outputs


def _copies_of_optimiser(entry: Settings | None) -> int:
    """How many times the size of the weights a training with this optimiser takes beyond one with SGD (None).

    Each tensor of its state counts twice, as a step makes another of its size.
    """
    if not entry:
        return 0
    import torch  # seconds of imports that no other plan needs

    weights = torch.empty(2, device="meta")
    state = plugin("optimisers", entry)().initial_state(weights)
    return 2 * sum(tensor.shape == weights.shape for tensor in state.values())


def rate(done: Iterable[tuple[float, float]]) -> float | None:
    """Seconds per forward pass of finished jobs, (seconds, forward passes) each; None if there are none.

    It is the median over all passes, so that a few jobs on a machine that was busy or paused do not count.
    """
    by_rate = sorted((seconds / passes, passes) for seconds, passes in done if passes)
    half, counted = sum(passes for _, passes in by_rate) / 2, 0.0
    for i, (seconds_per_pass, passes) in enumerate(by_rate):
        counted += passes
        if counted == half:
            return (seconds_per_pass + by_rate[i + 1][0]) / 2
        if counted > half:
            return seconds_per_pass
    return None


def total(values: Iterable[Any]) -> Any:
    """The sum; None if any value is None."""
    numbers = list(values)
    return None if None in numbers else sum(numbers)


def highest(values: Iterable[int | None]) -> int | None:
    """The largest value, 0 if there are none; None if any value is None."""
    numbers = [0, *values]
    return None if None in numbers else max(v for v in numbers if v is not None)


def table(rows: list[dict[str, Any]]) -> str:
    """The plan as a text table, with a row of totals."""
    lines = [COLUMNS]
    for row in [*rows, _total_row(rows)]:
        hours = "?" if row["hours"] is None else f"{row['hours']:,.{2 if row['hours'] < 100 else 0}f}"
        lines.append(
            [row["rule"], f"{row['jobs']:,}", f"{row['done']:,}", hours, _size(row["disk"]), _size(row["memory"])]
            + [row["source"]]
        )
    return align_columns(lines, right=range(1, 6))


def _total_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {column: total(row[column] for row in rows) for column in ("jobs", "done", "hours", "disk")}
    return {"rule": "total", **sums, "memory": highest(row["memory"] for row in rows), "source": ""}


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    if not count:
        return "–"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
