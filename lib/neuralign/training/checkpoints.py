"""Training progress on disk, outside the declared outputs: a killed job goes on where it was, to the same bits."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuralign.common.files import atomic
from neuralign.common.tensors import demand_savable
from neuralign.training.progress import Progress

log = logging.getLogger(__name__)


class Damaged(ValueError):
    """What is on disk is not what was kept, or was kept for something else."""


class Checkpoint:
    """A `Keeper` in `folder`, which belongs to one job of one configuration: its name is the job's key.

    A job of several trainings has one for each, by `name`. It writes when the last write is `every` seconds ago; by
    default NEURALIGN_CHECKPOINT_SECONDS, or 30.
    """

    def __init__(self, folder: str | Path, name: str = "progress", *, every: float | None = None):
        self.path = Path(folder) / f"{name}.safetensors"
        self.every = float(os.environ.get("NEURALIGN_CHECKPOINT_SECONDS", 30)) if every is None else every
        self.written = time.monotonic()

    def restore(self, fresh: Progress) -> Progress:
        """What was kept last; `fresh` where there is nothing, or, with a warning, nothing that can be used.

        Refused if `fresh` could not be kept.
        """
        demand_savable(self.path, _tensors(fresh))
        if not self.path.exists():
            return fresh
        try:
            return self._read(fresh)
        except (SafetensorError, Damaged) as error:
            log.warning("%s cannot be used: %s; this training starts afresh", self.path, error)
            return fresh

    def keep(self, progress: Progress) -> None:
        """Write `progress` if the last write is `every` seconds ago, and only what one could go on from."""
        if time.monotonic() - self.written < self.every or not torch.isfinite(progress.sums).all():
            return
        tensors = {name: t.cpu() for name, t in _tensors(progress).items()}
        facts = json.dumps({name: getattr(progress, name) for name in ("epoch", "step", "history")})
        key = self.path.parent.name
        metadata = {"progress": facts, "key": key, "digest": _digest(tensors, facts, key)}
        with atomic(self.path) as temporary:
            save_file(tensors, temporary, metadata)
        self.written = time.monotonic()

    def clear(self) -> None:
        """Remove the folder; the job's outputs are safe now."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _read(self, fresh: Progress) -> Progress:
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata() or {}
            # copies, for a sum can depend in its last bit on where in memory its terms begin
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        facts, key = metadata.get("progress", ""), metadata.get("key", "")
        if metadata.get("digest") != _digest(tensors, facts, key):
            raise Damaged("its content is not what was written")
        if key != self.path.parent.name:
            raise Damaged(f"it is that of the job with key {key}")
        if _layout(tensors) != _layout(_tensors(fresh)):
            raise Damaged("its tensors have other names, shapes or types than this training's")
        tensors = {name: t.to(fresh.trainable.device) for name, t in tensors.items()}
        buffers = {name: tensors[f"buffers.{name}"] for name in fresh.buffers}
        return Progress(tensors["trainable"], tensors["velocity"], buffers, sums=tensors["sums"], **json.loads(facts))


def _tensors(progress: Progress) -> dict[str, Tensor]:
    buffers = {f"buffers.{name}": b for name, b in progress.buffers.items()}
    return {name: getattr(progress, name) for name in ("trainable", "velocity", "sums")} | buffers


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (t.shape, t.dtype) for name, t in tensors.items()}


def _digest(tensors: Mapping[str, Tensor], facts: str, key: str) -> str:
    found = hashlib.sha256(f"{facts}/{key}".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
