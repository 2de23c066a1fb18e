"""Training on images that stay on disk, twice as large as the memory that the process is allowed, against the same
images in memory.

The limit is that of a control group below this process's own, which needs the rights of its owner. Without them the
file is only dropped from the page cache before each epoch.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.problems import NETWORKS, REGIME, SMALL, Problem, augment
from benchmarks.timing import Row, interleaved, row
from neuralign.common.memory import BUDGET, CGROUPS
from neuralign.datasets.dataset import Dataset, Split
from neuralign.datasets.images import Images, load
from neuralign.datasets.reading import large_arrays
from neuralign.datasets.storage import save

CLASSES, SIDE = 10, 32
LIMIT = 1.5e9  # bytes of memory
PER_EPOCH = 4096  # images, chosen at random for each round: two blocks, only the second of which can be read ahead
NAME = "neuralign-benchmark"  # of the control group
FILES = {"memory": "memory.limit_in_bytes", "": "memory.max"}  # controllers -> file with the limit


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Rows of wall and of processor seconds, for training and for batches in file order."""
    limit, per_epoch, repeats = (2e6, 64, 2) if quick else (LIMIT, PER_EPOCH, 5)
    name, entry = ("TinyTen", SMALL["TinyTen"]) if quick else ("ResNet32", NETWORKS["ResNet32"])
    problem = Problem.of(name, entry, device)
    with tempfile.TemporaryDirectory(dir=None if quick else ".", prefix=".larger-than-memory-") as folder:
        path = _write(Path(folder) / "data", int(2 * limit / (3 * SIDE**2)))
        on_disk = _load(path, torch.device(device))
        _evict(path)
        with _limited_memory(None if quick else int(limit)) as exceeded:
            for _ in on_disk.batches(512):  # fills the memory that is allowed
                pass
            note = f"{path.stat().st_size / 1e9:.1f} GB of images, {per_epoch} at random for each epoch; {exceeded()}"
            return _compare(problem, on_disk, path, per_epoch, repeats, note)


def _compare(problem: Problem, on_disk: Images, path: Path, per_epoch: int, repeats: int, note: str) -> list[Row]:
    """Rows of epochs of training, each round on other images, which are the same in memory and on disk."""
    processor: list[list[float]] = [[], []]  # seconds of all threads of this process
    generator = torch.Generator().manual_seed(0)
    chosen: list[Images] = []

    def train(images: Images, seconds: list[float]) -> None:
        start = time.process_time()
        problem.endpoint(images, REGIME, augment())()
        seconds.append(time.process_time() - start)

    def choose() -> tuple[Images, Images]:
        """The images of this round, in memory and on disk, both drawn by the first of the two actions."""
        if not chosen:
            rows = on_disk.random_order(generator)[:per_epoch]
            (in_memory,) = on_disk.parts([rows])
            chosen.extend([in_memory, on_disk.subset(rows)])
            _evict(path)
            return chosen[0], chosen[1]
        pair = chosen[0], chosen[1]
        chosen.clear()
        return pair

    wall = interleaved(
        lambda: train(choose()[0], processor[0]),
        lambda: train(choose()[1], processor[1]),
        repeats=repeats,
        device=on_disk.device.type,
    )
    rows = [
        row(f"{problem.name}: an epoch on disk / in memory", baseline=wall[0], ours=wall[1], target="<= 1.1", note=note)
    ]
    baseline, ours = (seconds[-repeats:] for seconds in processor)
    return [
        *rows,
        row(f"{problem.name}: the same, processor", baseline=baseline, ours=ours, target="<= 1.1", note=note),
    ]


def _write(path: Path, count: int) -> Path:
    """The file of a dataset with so many random images, which are alike in its 16 MB pieces."""
    pixels = large_arrays.empty((count, 3, SIDE, SIDE), np.uint8, path.parent)
    draws = np.random.default_rng(0)
    piece = draws.integers(0, 256, pixels[next(large_arrays.blocks(pixels))].shape, np.uint8)
    for block in large_arrays.blocks(pixels):
        pixels[block] = piece[: len(pixels[block])]
    labels = draws.integers(0, CLASSES, count)
    few = Split(pixels[:100].copy(), labels[:100].copy())
    save(Dataset(Split(pixels, labels), few, tuple(map(str, range(CLASSES)))), path)
    return path


def _load(path: Path, device: torch.device) -> Images:
    """The training images, on disk."""
    before = os.environ.get(BUDGET)
    os.environ[BUDGET] = "0"
    try:
        return load(path, device).train
    finally:
        del os.environ[BUDGET]
        if before is not None:
            os.environ[BUDGET] = before


def _evict(path: Path) -> None:
    """Drop the file from the page cache."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


@contextmanager
def _limited_memory(limit: int | None) -> Iterator[Callable[[], str]]:
    """A block in which this process may take no more memory, the cache of files included; says whether that worked."""
    groups = list(_own_groups()) if limit else []
    entered: list[Path] = []
    try:
        for group, file in groups:
            inner = group / NAME
            try:
                inner.mkdir()
                (inner / file).write_text(str(limit))
                (inner / "cgroup.procs").write_text(str(os.getpid()))
            except OSError:
                if inner.is_dir():
                    inner.rmdir()
                continue
            entered.append(inner)
        yield lambda: _describe(entered[0]) if entered else "no limit of memory could be set"
    finally:
        for inner in entered:
            (inner.parent / "cgroup.procs").write_text(str(os.getpid()))
            inner.rmdir()


def _own_groups() -> Iterator[tuple[Path, str]]:
    """The control groups of this process that can limit memory, with the name of the file for it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers in FILES:
            group = CGROUPS / controllers / place.strip("/")
            if (group / "cgroup.procs").is_file():
                yield group, FILES[controllers]


def _describe(group: Path) -> str:
    """The limit of a control group, and what is in use."""
    limit, used = (
        ("limit_in_bytes", "usage_in_bytes") if (group / "memory.limit_in_bytes").is_file() else ("max", "current")
    )
    most, now = (int((group / f"memory.{name}").read_text()) / 1e9 for name in (limit, used))
    return f"memory limited to {most:.1f} GB, of which {now:.2f} GB are in use"
