"""Training progress on disk."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import assert_same

from neuralign import checkpoints
from neuralign.checkpoints import Checkpoint
from neuralign.training import Progress


def progress(epoch: int = 0) -> Progress:
    draws = torch.Generator().manual_seed(epoch)
    history = [{"epoch": i, "lr": 0.1 / 3, "loss": 1e-17 * i} for i in range(1, epoch + 1)]
    sums = torch.rand(4, generator=draws, dtype=torch.float64)
    buffers = {"bn.running_mean": torch.rand(3, generator=draws), "bn.num_batches_tracked": torch.tensor(epoch)}
    weights = torch.rand(2, 2, 5, generator=draws)
    return Progress(*weights, buffers, epoch=epoch, step=2 * epoch, history=history, sums=sums)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.now))
    yield clock


def test_what_was_kept_comes_back_to_the_bit(tmp_path: Path) -> None:
    kept = progress(3)
    Checkpoint(tmp_path, every=0).keep(kept)
    found = Checkpoint(tmp_path).restore(progress())
    assert torch.equal(found.trainable, kept.trainable) and torch.equal(found.velocity, kept.velocity)
    assert_same(found.buffers, kept.buffers)
    assert (found.epoch, found.step, found.history) == (3, 6, kept.history)
    assert torch.equal(found.sums, kept.sums)


def test_where_nothing_was_kept_training_starts_afresh(tmp_path: Path) -> None:
    fresh = progress()
    assert Checkpoint(tmp_path).restore(fresh) is fresh
    assert Checkpoint(tmp_path / "never made").restore(fresh) is fresh


def test_what_comes_back_can_be_trained_on_without_changing_the_file(tmp_path: Path) -> None:
    Checkpoint(tmp_path, every=0).keep(progress(3))
    found = Checkpoint(tmp_path).restore(progress())
    found.trainable.add_(1)
    found.buffers["bn.num_batches_tracked"].add_(1)
    again = Checkpoint(tmp_path).restore(progress())
    assert torch.equal(again.trainable, progress(3).trainable)
    assert again.buffers["bn.num_batches_tracked"].item() == 3


def test_it_writes_no_more_often_than_it_should(tmp_path: Path, clock: SimpleNamespace) -> None:
    keeper = Checkpoint(tmp_path, every=30)

    def kept_at(now: float, epoch: int) -> int:
        clock.now = now
        keeper.keep(progress(epoch))
        return keeper.restore(progress()).epoch

    assert [kept_at(t, epoch) for epoch, t in enumerate((110, 129.9, 130, 145, 159.9, 161), start=1)] == [
        *(0, 0, 3, 3, 3, 6)
    ]


def test_the_interval_is_a_matter_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURALIGN_CHECKPOINT_SECONDS", raising=False)
    assert Checkpoint(tmp_path).every == 30
    monkeypatch.setenv("NEURALIGN_CHECKPOINT_SECONDS", "2.5")
    assert Checkpoint(tmp_path).every == 2.5


def test_the_newest_progress_replaces_the_one_before_and_leaves_no_other_file(tmp_path: Path) -> None:
    keeper = Checkpoint(tmp_path / "new" / "folder", every=0)
    for epoch in (1, 2):
        keeper.keep(progress(epoch))
    assert keeper.restore(progress()).epoch == 2
    assert [path.name for path in keeper.path.parent.iterdir()] == ["progress.safetensors"]


def test_clearing_removes_the_folder_even_if_it_was_never_made(tmp_path: Path) -> None:
    keeper = Checkpoint(tmp_path / "scratch", every=0)
    keeper.clear()
    keeper.keep(progress(1))
    keeper.clear()
    assert not (tmp_path / "scratch").exists()
    assert keeper.restore(progress()).epoch == 0


def test_an_interrupted_write_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Checkpoint(tmp_path, every=0)
    keeper.keep(progress(1))

    def fail(tensors: dict, path: Path, facts: dict) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        keeper.keep(progress(2))
    assert keeper.restore(progress()).epoch == 1
    assert len(list(tmp_path.iterdir())) == 1
