"""Training progress on disk, outside the declared outputs: a killed job goes on where it was, to the same bits."""

import json
import shutil
import time
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from neuralign.files import atomic
from neuralign.training import Progress


class Checkpoint:
    """A `Keeper` in `folder`, which belongs to one job of one configuration (its name carries the job's key)."""

    def __init__(self, folder: str | Path, *, every: float = 30.0):
        self.path = Path(folder) / "progress.safetensors"
        self.every = every  # seconds between writes
        self.written = time.monotonic()

    def restore(self, fresh: Progress) -> Progress:
        """What was kept last; `fresh` where there is nothing."""
        if not self.path.exists():
            return fresh
        device = str(fresh.trainable.device)
        with safe_open(self.path, "pt", device=device) as file:
            facts = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        buffers = {name: tensors[f"buffers.{name}"] for name in fresh.buffers}
        return Progress(tensors["trainable"], tensors["velocity"], buffers, facts["epoch"], facts["history"])

    def keep(self, progress: Progress) -> None:
        """Write `progress` if the last write is `every` seconds ago."""
        if time.monotonic() - self.written < self.every:
            return
        tensors = {"trainable": progress.trainable.detach(), "velocity": progress.velocity}
        tensors |= {f"buffers.{name}": b for name, b in progress.buffers.items()}
        facts = json.dumps({"epoch": progress.epoch, "history": progress.history})
        with atomic(self.path) as temporary:
            save_file(tensors, temporary, {"progress": facts})
        self.written = time.monotonic()

    def clear(self) -> None:
        """Remove the folder; the job's outputs are safe now."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
