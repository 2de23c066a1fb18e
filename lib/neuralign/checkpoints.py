"""Training progress on disk, outside the declared outputs: a killed job goes on where it was, to the same bits."""

import json
import os
import shutil
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neuralign.files import atomic
from neuralign.training import Progress


class Checkpoint:
    """A `Keeper` in `folder`, which belongs to one job of one configuration (its name carries the job's key).

    It writes when the last write is `every` seconds ago; by default NEURALIGN_CHECKPOINT_SECONDS, or 30.
    """

    def __init__(self, folder: str | Path, *, every: float | None = None):
        self.path = Path(folder) / "progress.safetensors"
        self.every = float(os.environ.get("NEURALIGN_CHECKPOINT_SECONDS", 30)) if every is None else every
        self.written = time.monotonic()

    def restore(self, fresh: Progress) -> Progress:
        """What was kept last; `fresh` where there is nothing."""
        if not self.path.exists():
            return fresh
        device = str(fresh.trainable.device)
        with safe_open(self.path, "pt", device=device) as file:
            facts = json.loads(file.metadata()["progress"])
            # copies, for a sum can depend in its last bit on where in memory its terms begin
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        buffers = {name: tensors[f"buffers.{name}"] for name in fresh.buffers}
        return Progress(tensors["trainable"], tensors["velocity"], buffers, sums=tensors["sums"], **facts)

    def keep(self, progress: Progress) -> None:
        """Write `progress` if the last write is `every` seconds ago, and only what one could go on from."""
        if time.monotonic() - self.written < self.every or not torch.isfinite(progress.sums).all():
            return
        tensors = {name: getattr(progress, name) for name in ("trainable", "velocity", "sums")}
        tensors |= {f"buffers.{name}": b for name, b in progress.buffers.items()}
        facts = json.dumps({name: getattr(progress, name) for name in ("epoch", "step", "history")})
        with atomic(self.path) as temporary:
            save_file(tensors, temporary, {"progress": facts})
        self.written = time.monotonic()

    def clear(self) -> None:
        """Remove the folder; the job's outputs are safe now."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
