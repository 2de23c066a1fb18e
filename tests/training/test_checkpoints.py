"""Training progress on disk."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import assert_same

from neuralign.common.errors import UserError
from neuralign.training import checkpoints
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.progress import Progress


def progress(epoch: int = 0) -> Progress:
    draws = torch.Generator().manual_seed(epoch)
    history = [{"epoch": i, "lr": 0.1 / 3, "loss": 1e-17 * i} for i in range(1, epoch + 1)]
    sums = torch.rand(4, generator=draws, dtype=torch.float64)
    buffers = {"bn.running_mean": torch.rand(3, generator=draws), "bn.num_batches_tracked": torch.tensor(epoch)}
    weights, velocity = torch.rand(2, 2, 5, generator=draws)
    return Progress(weights, {"velocity": velocity}, buffers, epoch=epoch, step=2 * epoch, history=history, sums=sums)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.now))
    yield clock


def test_saved_progress_is_restored_to_the_bit(tmp_path: Path) -> None:
    kept = progress(3)
    Checkpoint(tmp_path, every=0).keep(kept)
    actual = Checkpoint(tmp_path).restore(progress())
    assert torch.equal(actual.trainable, kept.trainable)
    assert_same(actual.optimiser, kept.optimiser)
    assert_same(actual.buffers, kept.buffers)
    assert (actual.epoch, actual.step, actual.history) == (3, 6, kept.history)
    assert torch.equal(actual.sums, kept.sums)


def test_without_a_checkpoint_training_starts_afresh(tmp_path: Path) -> None:
    fresh = progress()
    assert Checkpoint(tmp_path).restore(fresh) is fresh
    assert Checkpoint(tmp_path / "never made").restore(fresh) is fresh


def test_restored_progress_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    Checkpoint(tmp_path, every=0).keep(progress(3))
    actual = Checkpoint(tmp_path).restore(progress())
    actual.trainable.add_(1)
    actual.buffers["bn.num_batches_tracked"].add_(1)
    again = Checkpoint(tmp_path).restore(progress())
    assert torch.equal(again.trainable, progress(3).trainable)
    assert again.buffers["bn.num_batches_tracked"].item() == 3


def test_it_writes_no_more_often_than_its_interval(tmp_path: Path, clock: SimpleNamespace) -> None:
    keeper = Checkpoint(tmp_path, every=30)

    def kept_at(now: float, epoch: int) -> int:
        clock.now = now
        keeper.keep(progress(epoch))
        return keeper.restore(progress()).epoch

    assert [kept_at(t, epoch) for epoch, t in enumerate((110, 129.9, 130, 145, 159.9, 161), start=1)] == [
        *(0, 0, 3, 3, 3, 6)
    ]


def test_the_interval_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_folder_that_cannot_be_removed_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scratch").write_text("a file in place of the folder")
    Checkpoint(tmp_path / "scratch").clear()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"{tmp_path / 'scratch'} cannot be removed: ")


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


# what cannot be used


def check_fresh_start(folder: Path, fresh: Progress, caplog: pytest.LogCaptureFixture, why: str) -> None:
    """Check that nothing is restored, that one line of the log says why, and that saving works again."""
    caplog.clear()
    keeper = Checkpoint(folder, every=0)
    assert keeper.restore(fresh) is fresh
    (line,) = caplog.messages
    assert line.startswith(f"{keeper.path} cannot be used: ") and line.endswith("; this training starts afresh")
    assert re.search(why, line), line
    keeper.keep(replace(fresh, epoch=9))
    assert keeper.restore(fresh).epoch == 9


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "zeros": lambda old: bytes(len(old)),
    "truncated in the header": lambda old: old[:40],
    "truncated in the data": lambda old: old[:-7],
    "too long": lambda old: old + bytes(8),
    "no safetensors": lambda old: b"something else entirely",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    keeper = Checkpoint(tmp_path, every=0)
    keeper.keep(progress(3))
    keeper.path.write_bytes(DAMAGES[damage](keeper.path.read_bytes()))
    check_fresh_start(tmp_path, progress(), caplog, "[Hh]eader|incomplete|buffer")


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the length, the header, the metadata or the numbers. Only the blanks that pad the header do not matter."""
    keeper = Checkpoint(tmp_path, every=0)
    keeper.keep(progress(3))
    content, fresh = keeper.path.read_bytes(), progress()
    start = 8 + int.from_bytes(content[:8], "little")
    used = []
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << place % 8
        keeper.path.write_bytes(broken)
        if (actual := keeper.restore(fresh)) is not fresh:
            used.append(place)
            assert torch.equal(actual.trainable, progress(3).trainable) and actual.history == progress(3).history
    assert not [place for place in used if place >= start or content[place : place + 1] != b" "]


OTHERS = {
    "shape": lambda p: replace(p, trainable=torch.zeros(2, 6), optimiser={"velocity": torch.zeros(2, 6)}),
    "type": lambda p: replace(
        p, trainable=p.trainable.double(), optimiser={"velocity": p.optimiser["velocity"].double()}
    ),
    "optimiser": lambda p: replace(p, optimiser={"mean": torch.zeros(2, 5), "square": torch.zeros(2, 5)}),
    "buffers": lambda p: replace(p, buffers={"bn.running_mean": torch.zeros(3)}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_network_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    Checkpoint(tmp_path, every=0).keep(progress(3))
    check_fresh_start(tmp_path, OTHERS[other](progress()), caplog, "other names, shapes or types")


def test_a_checkpoint_that_was_moved_to_another_key_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoint(tmp_path / "a key", every=0).keep(progress(3))
    (tmp_path / "a key").rename(tmp_path / "another")
    check_fresh_start(tmp_path / "another", progress(), caplog, "it belongs to the job with key a key")


def test_trainings_of_one_job_are_kept_apart_and_cleared_together(tmp_path: Path) -> None:
    for name, epoch in (("one", 1), ("two", 2)):
        Checkpoint(tmp_path / "key", name, every=0).keep(progress(epoch))
    assert [Checkpoint(tmp_path / "key", name).restore(progress()).epoch for name in ("one", "two")] == [1, 2]
    Checkpoint(tmp_path / "key").clear()
    assert not (tmp_path / "key").exists()


def test_tensors_that_cannot_be_saved_are_refused_before_training(tmp_path: Path) -> None:
    fresh = Progress(torch.zeros(2), {}, {"waves": torch.zeros(2, dtype=torch.complex128)})
    with pytest.raises(UserError, match="waves has dtype torch.complex128, which safetensors files do not have$"):
        Checkpoint(tmp_path).restore(fresh)
