"""Data other than images: the sources text and diabetes, their files, and batches of arrays in memory."""

import __future__

import hashlib
import json
import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.datasets import arrays
from neuralign.datasets.arrays import Arrays, holds_arrays, load
from neuralign.datasets.checks import check
from neuralign.datasets.dataset import ArrayDataset, DataError, Split
from neuralign.datasets.images import as_is
from neuralign.datasets.sources.diabetes import diabetes
from neuralign.datasets.sources.digits import digits
from neuralign.datasets.sources.text import text
from neuralign.datasets.splits import content_of, prepare
from neuralign.datasets.storage import save
from neuralign.workflow.planning.costs import Sizes
from neuralign.workflow.planning.sizes import sizes_by_making, sizes_in_file

CPU = torch.device("cpu")
POEM = "".join(f"{i} göes und {i * i}\n" for i in range(200))


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    """A file in UTF-8 with letters of two bytes."""
    path = tmp_path / "poem.txt"
    path.write_text(POEM, encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> ArrayDataset:
    return text(path.parent, path=str(path), **options)


# the text


def test_windows_of_a_text_lie_end_to_end_and_targets_are_one_byte_later(poem: Path) -> None:
    data, content = read(poem, context=10, test_fraction=0.25), POEM.encode()
    check(data, "poem")
    boundary = len(content) - round(len(content) / 4)
    for split, part in ((data.train, content[:boundary]), (data.test, content[boundary:])):
        count = (len(part) - 1) // 10
        assert split.inputs.dtype == split.targets.dtype == np.uint8
        assert split.inputs.shape == split.targets.shape == (count, 10)
        assert split.inputs.tobytes() == part[: 10 * count]
        assert split.targets.tobytes() == part[1 : 10 * count + 1]
    assert len(data.classes) == 256 and data.classes[10] == "0a"


def test_the_facts_say_which_text_it_is(poem: Path) -> None:
    whole, content = read(poem), POEM.encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert whole.facts == {"text": digest, "bytes": len(content), "files": 1, "source": "poem.txt"}
    part = read(poem, length=1500, context=16)
    assert part.facts["bytes"] == 1500
    assert part.facts["text"] == f"sha256:{hashlib.sha256(content[:1500]).hexdigest()}"


def test_files_of_a_folder_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, content in {"b.txt": "B" * 40, "a/z.txt": "Z" * 40, "a/.hidden": "H", "c.md": "C" * 40}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    data = text(tmp_path, path=str(tmp_path), context=4, test_fraction=0.1)
    joined = b"Z" * 40 + b"B" * 40 + b"C" * 40
    assert data.facts["text"] == f"sha256:{hashlib.sha256(joined).hexdigest()}" and data.facts["files"] == 3


def test_the_default_is_the_source_of_the_standard_library() -> None:
    data = text(Path(), length=100_000)
    check(data, "the standard library")
    assert data.facts["source"] == f"the standard library of Python {platform.python_version()}"
    assert data.facts["files"] > 300 and data.facts["bytes"] == 100_000
    assert data.train.inputs.shape == (703, 128) and data.test.inputs.shape == (78, 128)
    assert data.train.inputs.tobytes().startswith(Path(__future__.__file__).read_bytes()[:1000])
    assert text(Path(), length=100_000).facts == data.facts


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "absent": (lambda folder: read(folder / "absent"), "absent: cannot be read: No such file or directory$"),
    "empty folder": (lambda folder: text(folder, path=str(folder)), "the folder has no files; at least one text"),
    "not UTF-8": (
        lambda folder: read(written(folder / "latin", b"gr\xfcn " * 99)),
        r"latin: found byte 0xfc at position 2, which is not UTF-8; only texts in UTF-8 are allowed$",
    ),
    "too short": (
        lambda folder: read(written(folder / "short", b"a" * 1000)),
        "short: found 100 bytes for one of the splits; at least 129, a window and the token after it, are needed: ",
    ),
    "empty": (lambda folder: read(written(folder / "none", b"")), "none: found 0 bytes for one of the splits"),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", BROKEN)
def test_a_text_that_cannot_be_used_is_refused(case: str, tmp_path: Path) -> None:
    act, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        act(tmp_path)


# the table


def test_the_table_is_standardised_by_its_training_split() -> None:
    data = diabetes(Path())
    check(data, "diabetes")
    assert data.train.inputs.shape == (354, 10) and data.test.targets.shape == (88, 1)
    assert data.train.inputs.dtype == data.train.targets.dtype == np.float32
    for array in (data.train.inputs, data.train.targets):
        assert np.abs(array.mean(0)).max() < 1e-6 and np.abs(array.std(0) - 1).max() < 1e-6
    assert 0.02 < np.abs(data.test.inputs.mean(0)).max() < 0.5
    grades = data.test.targets * data.facts["targets_std"] + data.facts["targets_mean"]
    np.testing.assert_allclose(grades, np.rint(grades), atol=1e-3)
    assert data.classes == ("progression",) and data.facts["columns"][2] == "bmi"
    assert not np.array_equal(data.test.targets, diabetes(Path(), seed=1).test.targets)


def test_a_linear_fit_of_the_table_explains_half_of_the_variance() -> None:
    data = diabetes(Path())
    weights, *_ = np.linalg.lstsq(data.train.inputs, data.train.targets, rcond=None)
    residual = data.train.targets - data.train.inputs @ weights
    assert 1 - residual.var() / data.train.targets.var() == pytest.approx(0.52, abs=0.04)


# the check


def table(**changed: Any) -> ArrayDataset:
    """Four rows to learn from and two to test, three columns, two numbers to predict."""
    train = Split(np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32))
    return replace(ArrayDataset(train, Split(train.inputs[:2], train.targets[:2]), ("a", "b")), **changed)


def split(inputs: Any, targets: Any) -> Split:
    return Split(np.asarray(inputs), np.asarray(targets))


ROWS, VALUES = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32)
TOKENS = np.zeros((4, 3), np.uint8)
NAN = np.where(np.arange(12).reshape(4, 3) == 7, np.float32("nan"), ROWS)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no names": ({"classes": ()}, "d: found no name of a class or of a number to predict; at least 1 is needed"),
    "equal names": ({"classes": ("a", "a")}, "d: class names must differ, but a occurs more than once"),
    "objects": (
        {"train": split(np.array([[None]] * 4), VALUES)},
        "d: train inputs are object; allowed are uint8, int8",
    ),
    "truths": ({"test": split(ROWS > 0, VALUES)}, "d: test inputs are bool; allowed are uint8, int8, int16"),
    "nothing": ({"test": split(ROWS[:0], VALUES[:0])}, r"d: test inputs have shape \(0, 3\): at least one example"),
    "not a number": ({"train": split(NAN, VALUES)}, r"d: train inputs: found nan at index \[2, 1\]; numbers must be f"),
    "infinite": ({"train": split(ROWS, VALUES - np.float32("inf"))}, r"train targets: found -inf at index \[0, 0\]"),
    "too few targets": ({"train": split(ROWS, VALUES[:3])}, "d: train targets: found 3 for 4 inputs; one for each is"),
    "columns": (
        {"train": split(ROWS, VALUES[:, :1])},
        r"train targets have shape \(4, 1\); \(n, 2\), a number for each",
    ),
    "tokens": ({"train": split(ROWS, TOKENS + 2)}, r"d: train targets are in 2 .. 2; only 0 .. 1 are allowed"),
    "negative": ({"train": split(ROWS, TOKENS.astype(int) - 1)}, r"targets are in -1 .. -1; only 0 .. 1 are allowed"),
    "unlike": (
        {"test": split(np.ones((2, 3)), VALUES[:2])},
        r"d: inputs are float32 \(3,\) in train and float64 \(3,\) in test; they must be alike but for their number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_do_not_fit_are_refused(case: str) -> None:
    changed, message = WRONG[case]
    check(table(), "d")
    with pytest.raises(DataError, match=f"^{message}" if message.startswith("d:") else message):
        check(table(**changed), "d")


def test_all_256_bytes_may_be_targets() -> None:
    every_byte = split(np.arange(256, dtype=np.uint8)[:, None], np.arange(256, dtype=np.uint8)[:, None])
    data = ArrayDataset(every_byte, every_byte, tuple(map(str, range(256))))
    check(data, "bytes")
    arrays.check(Arrays(torch.arange(256), torch.arange(256).byte()), 256)


# the file


def test_the_file_holds_arrays_and_facts_and_has_the_same_bytes_again(poem: Path, tmp_path: Path) -> None:
    data = read(poem, context=16)
    for name in ("a", "b"):
        save(data, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", "np") as file:
        assert {*file.keys()} == {f"{s}_{part}" for s in ("train", "test") for part in ("inputs", "targets")}
        assert np.array_equal(file.get_tensor("test_targets"), data.test.targets)
        assert json.loads(file.metadata()["facts"]) == {"classes": [*data.classes], "data": data.facts}
    loaded = load(tmp_path / "a", CPU)
    assert torch.equal(loaded.train.inputs, torch.tensor(data.train.inputs))
    assert (loaded.classes, loaded.facts, loaded.channels) == (data.classes, data.facts, 16)


def test_a_file_says_whether_it_holds_arrays(poem: Path, tmp_path: Path) -> None:
    save(read(poem), tmp_path / "text")
    save(digits(tmp_path, size=8), tmp_path / "digits")
    assert [holds_arrays(tmp_path / n) for n in ("text", "digits", "poem.txt", "none")] == [True, False, False, False]
    with pytest.raises(UserError, match="digits: not a dataset of arrays that `fetch_data` wrote, or damaged: "):
        load(tmp_path / "digits", CPU)
    with pytest.raises(UserError, match="poem.txt: not a dataset of arrays that `fetch_data` wrote, or damaged: "):
        load(poem, CPU)


def test_sizes_for_the_plan_are_those_of_the_arrays(poem: Path, tmp_path: Path) -> None:
    save(read(poem, context=16), tmp_path / "file")
    entry = {"use": "text", "path": str(poem), "context": 16, "length": None, "test_fraction": 0.1}
    with safe_open(tmp_path / "file", "np") as file:
        count = [file.get_slice(f"{s}_inputs").get_shape()[0] for s in ("train", "test")]
    expected = Sizes(*count, 16, 1, 256)
    assert sizes_in_file(tmp_path / "file") == sizes_by_making(entry) == expected


def test_the_key_content_sorts_the_windows_and_refuses_another_text(poem: Path) -> None:
    entry = {"use": "text", "path": str(poem), "context": 16}
    plain = prepare(entry, Path())
    content = content_of(plain)
    ordered = prepare(entry | {"content": content}, Path())
    assert isinstance(ordered, ArrayDataset) and ordered.facts == plain.facts and content_of(ordered) == content
    rows = [{x.tobytes() for x in data.train.inputs} for data in (plain, ordered)]
    assert rows[0] == rows[1] and not np.array_equal(plain.train.inputs, ordered.train.inputs)
    poem.write_text(POEM.replace("7", "8"))
    with pytest.raises(DataError, match="poem.txt: its data are not those of `content`; found sha256:.{64}, needed"):
        prepare(entry | {"content": content}, Path())


def test_a_validation_split_is_drawn_from_the_training_examples(poem: Path) -> None:
    entry = {"use": "diabetes", "test_fraction": 0.2, "seed": 0}
    whole, part = prepare(entry, Path()), prepare(entry | {"validation_fraction": 0.25}, Path())
    assert (len(part.train.targets), len(part.test.targets)) == (266, 88) and part.classes == whole.classes
    together = np.concatenate([part.train.inputs, part.test.inputs])
    assert sorted(map(tuple, together)) == sorted(map(tuple, whole.train.inputs))


# batches


def examples() -> Arrays:
    return Arrays(torch.arange(20, dtype=torch.uint8).view(10, 2), torch.arange(10.0)[:, None])


def test_batches_are_in_file_order_with_whole_numbers_in_int64() -> None:
    batches = list(examples().batches(4))
    assert [len(x) for x, _ in batches] == [4, 4, 2] and len(examples()) == 10
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert inputs.dtype == torch.int64 and torch.equal(inputs, torch.arange(20).view(10, 2))
    assert targets.dtype == torch.float32 and torch.equal(targets[:, 0], torch.arange(10.0))
    assert len(examples().first(3)) == 3 and len(examples().first(None)) == 10
    assert examples().to(CPU).device == CPU


def test_shuffled_batches_have_each_example_once_with_its_target() -> None:
    def unwanted(pixels: Tensor, draws: torch.Generator) -> Tensor:
        raise AssertionError("arrays are not augmented")

    order, draws = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    before = draws.get_state()
    batches = list(examples().shuffled(4, unwanted, order, draws))
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(inputs[:, 0], 2 * targets[:, 0].long()) and targets[:, 0].tolist() != list(range(10))
    assert sorted(targets[:, 0].tolist()) == list(range(10)) and torch.equal(draws.get_state(), before)
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert targets[:, 0].tolist() == expected.tolist()


def test_inputs_may_be_mappings() -> None:
    inputs = {"tokens": torch.arange(6).int().view(3, 2), "mask": torch.ones(3, 2, dtype=torch.bool), "cache": False}
    batch, labels = Arrays(inputs, torch.arange(3)).take(torch.tensor([2, 0]), as_is, torch.Generator())
    assert batch["tokens"].tolist() == [[4, 5], [0, 1]] and batch["tokens"].dtype == torch.int64
    assert batch["mask"].dtype == torch.bool and batch["cache"] is False and labels.tolist() == [2, 0]


MISFITS: dict[str, tuple[Arrays, str]] = {
    "none": (Arrays(torch.zeros(0, 2), torch.zeros(0)), "x: inputs are empty; at least one example is needed"),
    "few": (Arrays(torch.ones(3), torch.zeros(2)), "x: targets have shape (2,); one for each of 3 inputs is needed"),
    "nan": (Arrays(torch.tensor([1.0, torch.nan]), torch.zeros(2)), "x: inputs: 1 numbers are not finite"),
    "large": (Arrays(torch.ones(2), torch.tensor([0, 5])), "x: targets are in 0 .. 5; only 0 .. 4 are allowed"),
    "uneven": (
        Arrays((torch.ones(2), torch.ones(3)), torch.zeros(2)),
        "inputs: found (2,), (3,); the first dimension of every tensor has to count the examples",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_arrays_in_memory_that_do_not_fit_are_refused(case: str) -> None:
    data, message = MISFITS[case]
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        arrays.check(data, 5, "x: ")
