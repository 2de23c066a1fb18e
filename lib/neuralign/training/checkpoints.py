"""Saves training progress on disk, so that a job which was killed continues from there and gives the same bits.

The files are scratch files of the job, not among its declared outputs.
"""

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


class UnusableCheckpoint(ValueError):
    """A checkpoint was changed after it was written, or belongs to another job or training; the message says which."""


class Checkpoint:
    """Saves the progress of one training in a file of `folder`, the scratch folder of a job.

    Args:
        folder: its name is the key of the job, which is stored in the file too and compared.
        name: of the training; a job with several has one checkpoint for each.
        every: seconds between two writes. None: the environment variable NEURALIGN_CHECKPOINT_SECONDS, by default 30.
    """

    def __init__(self, folder: str | Path, name: str = "progress", *, every: float | None = None):
        self.path = Path(folder) / f"{name}.safetensors"
        self.every = float(os.environ.get("NEURALIGN_CHECKPOINT_SECONDS", 30)) if every is None else every
        self.written = time.monotonic()

    def restore(self, fresh: Progress) -> Progress:
        """The progress that was saved last, on the device of `fresh`; `fresh` itself if none was or it cannot be used.

        The latter is logged as a warning. Raises UserError if `fresh` has tensors that cannot be saved.
        """
        demand_savable(self.path, _tensors(fresh))
        if not self.path.exists():
            return fresh
        try:
            return self._read(fresh)
        except (SafetensorError, UnusableCheckpoint) as error:
            log.warning("%s cannot be used: %s; this training starts afresh", self.path, error)
            return fresh

    def keep(self, progress: Progress) -> None:
        """Save `progress`, unless the last write is less than `every` seconds ago or the sums are not finite."""
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
        """Remove the folder, if there is one, after the job's outputs have been written.

        What cannot be removed is logged as a warning: it takes up space, but changes no later result.
        """
        if self.path.parent.exists():
            try:
                shutil.rmtree(self.path.parent)
            except OSError as error:
                log.warning("%s cannot be removed: %s", self.path.parent, error)

    def _read(self, fresh: Progress) -> Progress:
        """The progress in the file; raises UnusableCheckpoint or SafetensorError if it cannot be used."""
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata() or {}
            # cloned, because the last bit of a sum can depend on the alignment of its terms in memory
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        facts, key = metadata.get("progress", ""), metadata.get("key", "")
        if metadata.get("digest") != _digest(tensors, facts, key):
            raise UnusableCheckpoint("its content is not what was written")
        if key != self.path.parent.name:
            raise UnusableCheckpoint(f"it belongs to the job with key {key}")
        if _shapes_and_types(tensors) != _shapes_and_types(_tensors(fresh)):
            raise UnusableCheckpoint("its tensors have other names, shapes or types than this training's")
        tensors = {name: t.to(fresh.trainable.device) for name, t in tensors.items()}
        optimiser = {name: tensors[f"optimiser.{name}"] for name in fresh.optimiser}
        buffers = {name: tensors[f"buffers.{name}"] for name in fresh.buffers}
        return Progress(tensors["trainable"], optimiser, buffers, sums=tensors["sums"], **json.loads(facts))


def _tensors(progress: Progress) -> dict[str, Tensor]:
    """All tensors of a progress by the names that they have in the file."""
    optimiser = {f"optimiser.{name}": t for name, t in progress.optimiser.items()}
    buffers = {f"buffers.{name}": b for name, b in progress.buffers.items()}
    return {"trainable": progress.trainable, "sums": progress.sums} | optimiser | buffers


def _shapes_and_types(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (t.shape, t.dtype) for name, t in tensors.items()}


def _digest(tensors: Mapping[str, Tensor], facts: str, key: str) -> str:
    """The sha256 digest of everything in a checkpoint; the tensors are on the CPU."""
    digest = hashlib.sha256(f"{facts}/{key}".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
