"""Examples that stay on disk: the same bits as in memory, read ahead by a thread of its own."""

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import assert_same, generator, perceptron, pictures, randomised
from torch import Tensor

import neuralign as na
from benchmarks.pretended_gpu import pretended_gpu
from neuralign.common.errors import UserError
from neuralign.common.memory import BUDGET
from neuralign.datasets import arrays, batches, images
from neuralign.datasets.arrays import ArraysOnDisk
from neuralign.datasets.batches import Batch, Examples, tensors_of
from neuralign.datasets.dataset import ArrayDataset, Dataset, Split
from neuralign.datasets.images import ImagesOnDisk, as_is
from neuralign.datasets.on_disk import AHEAD, OnDisk, open_dataset, read_ahead
from neuralign.datasets.storage import save
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import split_trainable
from neuralign.training.augmentation import pipeline
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Progress, Regime
from neuralign.training.schedules.constant import constant

CPU = torch.device("cpu")
COUNT = 23
TRANSFORM = pipeline([{"use": "crop", "pad": 0.125}, {"use": "flip"}])


def write_images(path: Path, count: int = COUNT) -> Path:
    train, test = (pictures(n, 8, seed=n) for n in (count, 5))
    save(Dataset(*(Split(s.pixels.numpy(), s.labels.numpy()) for s in (train, test)), tuple("abcde")), path)
    return path


def write_tokens(path: Path) -> Path:
    draws = np.random.default_rng(0)
    train, test = (Split(*(draws.integers(0, 50, (n, 6), np.uint8) for _ in range(2))) for n in (COUNT, 5))
    save(ArrayDataset(train, test, tuple(map(str, range(50)))), path)
    return path


def write_rows(path: Path) -> Path:
    draws = np.random.default_rng(0)
    train, test = (Split(draws.random((n, 3), np.float32), draws.random((n, 2))) for n in (COUNT, 5))
    save(ArrayDataset(train, test, ("a", "b")), path)
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path, torch.device], Any]]] = {
    "images": (write_images, images.load),
    "resized images": (write_images, lambda path, device: images.load(path, device, 12)),
    "tokens": (write_tokens, arrays.load),
    "rows": (write_rows, arrays.load),
}


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits into memory."""
    monkeypatch.setenv(BUDGET, "0")


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Examples, Examples]:
    """The same training examples, in memory and on disk."""
    write, load = KINDS[request.param]
    path = write(tmp_path / "data")
    monkeypatch.delenv(BUDGET, raising=False)
    in_memory = load(path, CPU).train
    monkeypatch.setenv(BUDGET, "0")
    on_disk = load(path, CPU).train
    assert isinstance(on_disk, OnDisk) and not isinstance(in_memory, OnDisk)
    return in_memory, on_disk


def assert_same_batches(actual: Iterator[Batch], expected: Iterator[Batch]) -> None:
    """The same number of batches, with the same tensors, types and layouts in memory."""
    count = 0
    for one, other in zip(actual, expected, strict=True):
        count += 1
        for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride() and a.device == b.device
    assert count


def transform_of(examples: Examples) -> Any:
    return as_is if isinstance(examples, arrays.Arrays) else TRANSFORM


@pytest.mark.parametrize("size", [1, 4, COUNT, 100])
def test_batches_in_file_order_are_the_same(both: tuple[Examples, Examples], size: int) -> None:
    in_memory, on_disk = both
    assert len(on_disk) == len(in_memory) == COUNT and on_disk.device == CPU
    assert_same_batches(on_disk.batches(size), in_memory.batches(size))


@pytest.mark.parametrize("size", [1, 4, 100])
def test_shuffled_batches_are_the_same(both: tuple[Examples, Examples], size: int) -> None:
    shuffled = [e.shuffled(size, transform_of(e), generator(1), generator(2)) for e in both]
    assert_same_batches(shuffled[1], shuffled[0])


@pytest.mark.parametrize("size, at_once, first", [(4, 8, 0), (4, 8, 3), (4, 4, 5), (1, 3, 22), (100, 2048, 0)])
def test_the_batches_of_an_epoch_are_the_same_from_any_step_on(
    both: tuple[Examples, Examples], size: int, at_once: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AT_ONCE", at_once)
    epochs = [e.epoch(size, transform_of(e), generator(1), generator, first) for e in both]
    assert_same_batches(epochs[1], epochs[0])


def test_chosen_examples_are_the_same_and_stay_on_disk(both: tuple[Examples, Examples]) -> None:
    index = torch.tensor([7, 7, 3, 4, 5, 22, 0])

    def chosen(examples: Examples) -> list[Examples]:
        by_index = examples.subset(index)
        of_file = [
            examples.first(4),
            examples.subset(slice(5, 9)),
            examples.subset(examples.random_order(generator(3))),
        ]
        return [by_index, by_index.first(3), by_index.subset(index % 7), *of_file]

    for in_memory, on_disk in zip(*map(chosen, both), strict=True):
        assert isinstance(on_disk, OnDisk) and len(on_disk) == len(in_memory)
        assert_same_batches(on_disk.batches(2), in_memory.batches(2))
        taken = [e.take(torch.tensor([1, 0]), transform_of(e), generator(4)) for e in (on_disk, in_memory)]
        assert_same_batches(iter(taken[:1]), iter(taken[1:]))


def test_images_on_disk_are_images_with_labels_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = images.load(write_images(tmp_path / "data"), CPU)
    monkeypatch.setenv(BUDGET, "0")
    on_disk = images.load(tmp_path / "data", CPU)
    assert isinstance(on_disk.train, ImagesOnDisk) and on_disk.channels == in_memory.channels == 3
    assert (on_disk.classes, on_disk.mean, on_disk.std) == (in_memory.classes, in_memory.mean, in_memory.std)
    assert torch.equal(on_disk.test.labels, in_memory.test.labels)
    assert_same_batches(on_disk.train.balanced(7).batches(3), in_memory.train.balanced(7).batches(3))


def test_arrays_on_disk_tell_their_shapes(tmp_path: Path, no_memory: None) -> None:
    data = arrays.load(write_tokens(tmp_path / "data"), CPU)
    assert isinstance(data.train, ArraysOnDisk) and data.channels == 6 and data.test.inputs.shape == (5, 6)


def test_a_single_image_is_read(tmp_path: Path, no_memory: None) -> None:
    data = images.load(write_images(tmp_path / "data", count=5), CPU).train.first(1)
    ((pixels, labels),) = data.epoch(128, as_is, generator(), generator)
    assert pixels.shape == (1, 3, 8, 8) and labels.tolist() == [0]


# what is computed with them


def trained(examples: images.Images, stop_after: int | None = None, progress: Progress | None = None) -> Progress:
    """An endpoint of two epochs, or the part of it up to a step, or from `progress` on."""
    model = perceptron(dropout=0.3)
    start, buffers = split_trainable(model, randomised(model.network))
    layout, regime = FlatLayout.of(start), Regime(2, 4, 0.05, 0.9, 0.01, constant)
    double = lambda x, draws: TRANSFORM(x, draws).double()  # noqa: E731
    arguments = (model, layout.flatten(start), lambda w, t: w, layout, buffers, examples, regime)
    training = Training(*arguments, transform=double, seed=1)
    if progress is not None:
        training.progress = progress
    if stop_after is None:
        return fit(training)
    for _ in islice(training.steps(), stop_after):
        pass
    return training.progress


def both_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[images.Images, images.Images]:
    in_memory = images.load(write_images(folder / "data"), CPU).train
    monkeypatch.setenv(BUDGET, "0")
    return in_memory, images.load(folder / "data", CPU).train


def test_a_training_on_disk_has_the_bits_of_one_in_memory_also_if_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AT_ONCE", 8)
    in_memory, on_disk = both_images(tmp_path, monkeypatch)
    expected = trained(in_memory)
    assert torch.equal(trained(on_disk).trainable, expected.trainable)
    resumed = trained(on_disk, progress=trained(on_disk, stop_after=9))
    assert torch.equal(resumed.trainable, expected.trainable) and resumed.history == expected.history
    assert_same(resumed.buffers, expected.buffers)


@pytest.mark.parametrize("sample", [None, 10])
def test_statistics_of_batch_norm_are_the_same(
    sample: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = perceptron()
    state = randomised(model.network)
    parameters, buffers = split_trainable(model, state)

    def estimated(examples: Examples) -> dict[str, Tensor]:
        estimate = Estimate.on(examples, TRANSFORM, batch_size=4, seed=1, images=sample)
        return refresh(model, parameters, buffers, estimate.sample())

    in_memory, on_disk = both_images(tmp_path, monkeypatch)
    assert_same(estimated(on_disk), estimated(in_memory))


def test_other_programs_may_use_images_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = perceptron().network
    states = [randomised(network, seed) for seed in (1, 2)]

    def results(examples: images.Images) -> list[Any]:
        aligned = na.align(network, *states, examples)
        curve = na.connect(network, *states, examples, epochs=1, batch_size=8)
        return [aligned.permutation, curve(0.5), na.evaluate(network, states[0], examples, batch_size=5)]

    on_disk, in_memory = map(results, reversed(both_images(tmp_path, monkeypatch)))
    for actual, expected in zip(on_disk[:2], in_memory[:2], strict=True):
        assert_same(actual, expected)
    assert on_disk[2] == in_memory[2]
    labels = images.load(tmp_path / "data", CPU).train
    with pytest.raises(UserError, match="labels are in 0 .. 4; only 0 .. 2 are allowed"):
        few = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        na.evaluate(few, few.state_dict(), labels)


# on a GPU


@pytest.mark.parametrize("kind", KINDS)
def test_batches_for_a_gpu_are_on_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, load = KINDS[kind]
    path = write(tmp_path / "data")
    in_memory = load(path, CPU).train
    with pretended_gpu():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 10**9))
        on_disk = load(path, torch.device("cuda")).train
        assert isinstance(on_disk, OnDisk) and on_disk.device.type == "cuda"
        pairs = [
            (on_disk.batches(4), in_memory.batches(4)),
            *[
                (one.epoch(4, as_is, generator(1), generator), other.epoch(4, as_is, generator(1), generator))
                for one, other in [(on_disk, in_memory), (on_disk.first(9), in_memory.first(9))]
            ],
        ]
        for actual, expected in pairs:
            for one, other in zip(actual, expected, strict=True):
                for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
                    assert a.is_cuda and torch.equal(a.cpu(), b)


def test_on_a_gpu_its_own_memory_counts(tmp_path: Path, no_memory: None) -> None:
    path = write_images(tmp_path / "data")
    with pretended_gpu():
        assert not isinstance(images.load(path, torch.device("cuda")).train, OnDisk)


# reading


@pytest.mark.parametrize("rows", [[], [4], [3, 4, 5, 6], [6, 5, 4], [1, 2, 9, 9, 2, 3, 0], [*range(10)], [0, 9, 1, 8]])
def test_rows_are_read_in_the_order_asked_for(rows: list[int], tmp_path: Path) -> None:
    _, ((tensor, _), _) = open_dataset(write_rows(tmp_path / "data"), ("inputs", "targets"))
    actual = tensor.read(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(actual, tensor.whole()[rows]) and torch.equal(tensor.read_all(), tensor.whole())


def test_neighbours_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ((tensor, _), _) = open_dataset(write_rows(tmp_path / "data"), ("inputs", "targets"))
    sizes, preadv = [], os.preadv

    def watched(file: int, targets: list[memoryview], start: int) -> int:
        sizes.append(len(targets[0]))
        return preadv(file, targets, start)

    monkeypatch.setattr(os, "preadv", watched)
    tensor.read(torch.tensor([2, 3, 4, 8, 7]))
    assert sizes == [3 * 12, 12, 12]


def test_results_come_in_order_from_one_other_thread_that_is_not_far_ahead() -> None:
    threads, done, seen = set(), [], []

    def double(i: int) -> int:
        threads.add(threading.current_thread())
        done.append(i)
        return 2 * i

    for result in read_ahead(double, range(9)):
        time.sleep(0.002)
        seen.append(result)
        assert len(done) <= len(seen) + AHEAD
    assert seen == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    (thread,) = threads
    assert thread is not threading.current_thread() and not thread.is_alive()


def test_no_arguments_give_no_results() -> None:
    assert list(read_ahead(str, [])) == [] and list(read_ahead(str, [1])) == ["1"]


def test_an_error_is_raised_where_its_result_is_due() -> None:
    def invert(i: int) -> float:
        return 1 / (3 - i)

    seen = []
    with pytest.raises(ZeroDivisionError):
        for result in read_ahead(invert, range(9)):
            seen.append(result)
    assert len(seen) == 3 and not reading_threads()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_the_thread_ends_when_the_batches_are_left_early(both: tuple[Examples, Examples]) -> None:
    _, on_disk = both
    epoch = on_disk.epoch(2, as_is, generator(), generator)
    next(epoch)
    batch = on_disk.batches(2)
    next(batch)
    assert reading_threads()
    epoch.close()
    del batch
    assert not reading_threads()
    next(on_disk.batches(1))
    assert not reading_threads()


# bad files


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_of_one_line(tmp_path: Path, no_memory: None) -> None:
    path = write_images(tmp_path / "data")
    examples, size = images.load(path, CPU).train, path.stat().st_size
    os.truncate(path, 1500)
    message = (
        f"{path}: ends after 1500 bytes, but had {size} when it was opened; it must not change while a job reads it"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        list(examples.epoch(4, as_is, generator(), generator))
    assert not reading_threads()


def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, on_disk = both_images(tmp_path, monkeypatch)
    expected = list(in_memory.batches(4))
    write_images(tmp_path / "data", count=9)
    assert_same_batches(on_disk.batches(4), iter(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_when_they_are_read(
    value: float, tmp_path: Path, no_memory: None
) -> None:
    rows, targets = np.ones((6, 2), np.float32), np.zeros((6, 1), np.float32)
    rows[4, 1] = value
    save(ArrayDataset(Split(rows, targets), Split(rows, targets), ("a",)), tmp_path / "data")
    examples = arrays.load(tmp_path / "data", CPU).train
    read = examples.batches(2)
    next(read), next(read)
    with pytest.raises(UserError, match=f"^{tmp_path / 'data'}: train_inputs: 1 numbers are not finite$"):
        next(read)


def test_targets_without_an_output_are_refused_when_they_are_read(tmp_path: Path, no_memory: None) -> None:
    tokens = np.arange(6, dtype=np.uint8)[:, None]
    save(ArrayDataset(Split(tokens, tokens), Split(tokens, tokens), tuple("abcd")), tmp_path / "data")
    with pytest.raises(UserError, match=r"data: train_targets are in 4 .. 5; only 0 .. 3 are allowed$"):
        list(arrays.load(tmp_path / "data", CPU).train.batches(2))


def rewritten(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The content of a safetensors file with a changed header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header = json.dumps(change(header) or header).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda old: b"", "its header would end at byte 8, the file ends at byte 0"),
    "no header": (
        lambda old: b"\xff" * 8,
        "its header would end at byte 18446744073709551623, the file ends at byte 8",
    ),
    "no JSON": (lambda old: struct.pack("<Q", 3) + b"abc", "Expecting value: line 1 column 1"),
    "a list": (lambda old: struct.pack("<Q", 2) + b"[]", "its header is no mapping"),
    "cut short": (lambda old: old[:-1], r"\w+ ends at byte \d+, the file at byte \d+"),
    "no tensor": (lambda old: rewritten(old, lambda h: {"__metadata__": h["__metadata__"]}), "it has no tensor train_"),
    "another shape": (
        lambda old: rewritten(old, lambda h: h["train_labels"].update(shape=[22])),
        r"train_labels has 184 bytes; its shape \(22,\) needs 176",
    ),
    "an unknown type": (lambda old: rewritten(old, lambda h: h["train_images"].update(dtype="U7")), "'U7'"),
    "no facts": (lambda old: rewritten(old, lambda h: h["__metadata__"].pop("facts") and None), "'facts'"),
    "negative places": (
        lambda old: rewritten(old, lambda h: h["train_labels"].update(data_offsets=[-184, 0])),
        "train_labels ends at byte",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("budget", ["0", "100000"])
def test_a_damaged_file_is_refused_in_one_line(
    damage: str, budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUDGET, budget)
    path, (change, message) = write_images(tmp_path / "data"), DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"^{path}: not a dataset that `fetch_data` wrote, or damaged: {message}"):
        images.load(path, CPU)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a dataset that `fetch_data` wrote, or damaged: \[Errno 21\] Is a dir"):
        images.load(tmp_path, CPU)
    assert not arrays.holds_arrays(tmp_path)
