"""Order and splits of a dataset: the key `content`, which makes copies equal, and `validation_fraction`."""

from pathlib import Path

import numpy as np
import pytest

from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.splits import content_of, prepare


@pytest.fixture
def write(tmp_path):
    """(name, order of the training images, change) -> the config entry of a file with 40 images of two classes."""

    def write(name: str, order: np.ndarray | None = None, change: int = 0) -> dict[str, str]:
        images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), np.uint8)
        images[0, 0, 0, 0] += change
        labels = np.arange(50) % 2
        order = np.arange(40) if order is None else order
        train = {"x_train": images[order], "y_train": labels[order]}
        np.savez(tmp_path / name, **train, x_test=images[40:], y_test=labels[40:])
        return {"use": "npz", "path": str(tmp_path / name)}

    return write


def same(a: Dataset, b: Dataset) -> bool:
    pairs = ((a.train, b.train), (a.test, b.test))
    return all(np.array_equal(x.inputs, y.inputs) and np.array_equal(x.targets, y.targets) for x, y in pairs)


def test_copies_in_another_order_give_the_same_dataset(write):
    first, second = write("a.npz"), write("b.npz", np.random.default_rng(1).permutation(40))
    content = content_of(prepare(first, Path()))
    assert not same(prepare(first, Path()), prepare(second, Path()))
    a, b = (prepare(entry | {"content": content}, Path()) for entry in (first, second))
    assert same(a, b)
    raw = prepare(first, Path())
    label_of = {image.tobytes(): label for image, label in zip(raw.train.inputs, raw.train.targets, strict=True)}
    assert [label_of[image.tobytes()] for image in a.train.inputs] == a.train.targets.tolist()
    assert content_of(a) == content


def test_the_digest_of_the_content_is_a_known_one():
    one, two = np.zeros((1, 1, 1, 1), np.uint8), np.full((1, 1, 1, 1), 7, np.uint8)
    zero = np.zeros(1, np.int64)
    known = "sha256:83a82f23d19e3264c3e53139949eb026abbf46580d4db0914ec1810ff41886b4"
    assert content_of(Dataset(Split(one, zero), Split(two, zero), ("a", "b"))) == known
    assert content_of(Dataset(Split(two, zero), Split(one, zero), ("a", "b"))) != known  # the splits are told apart
    assert content_of(Dataset(Split(one, zero + 1), Split(two, zero), ("a", "b"))) != known


def test_other_content_is_refused_with_its_digest(write):
    content = content_of(prepare(write("a.npz"), Path()))
    changed = write("b.npz", change=1)
    found = content_of(prepare(changed, Path()))
    with pytest.raises(DataError, match=rf"b\.npz: its images and labels are not those of `content`; found {found}"):
        prepare(changed | {"content": content}, Path())


def test_validation_images_come_from_the_training_images_by_class(write):
    entry = write("a.npz")
    whole, part = prepare(entry, Path()), prepare(entry | {"validation_fraction": 0.2}, Path())
    assert np.bincount(part.train.targets).tolist() == [16, 16] and np.bincount(part.test.targets).tolist() == [4, 4]
    split = sorted(image.tobytes() for s in (part.train, part.test) for image in s.inputs)
    assert split == sorted(image.tobytes() for image in whole.train.inputs)  # each once, and no test image
    assert same(part, prepare(entry | {"validation_fraction": 0.2}, Path()))


@pytest.mark.parametrize(("fraction", "message"), [(0.01, "test images have shape"), (0.99, "train images have shape")])
def test_a_fraction_that_leaves_a_split_without_images_is_refused(write, fraction, message):
    with pytest.raises(DataError, match=rf"with validation_fraction {fraction}: {message}"):
        prepare(write("a.npz") | {"validation_fraction": fraction}, Path())
