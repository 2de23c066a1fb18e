"""Checkpoints of several files: an index with its shards, or a folder, is read or refused in one line."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from tiny import assert_same, randomised

from neuralign.common.shards import CheckpointError, checkpoint_files, is_shard
from neuralign.datasets.dataset import DataError
from neuralign.datasets.reading.locations import content_digest
from neuralign.networks.foreign_checkpoints import read

FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
INDEX = "model.safetensors.index.json"


@pytest.fixture
def state(tinyten):
    """Weights in float32, as people save them."""
    return {n: t.float() if t.is_floating_point() else t for n, t in randomised(tinyten.network).items()}


@pytest.fixture
def folder(state, tmp_path):
    """A checkpoint of two shards and its index."""
    return written(tmp_path / "sharded", state)


def written(folder: Path, state, suffix: str = "safetensors") -> Path:
    folder.mkdir()
    names, save = list(state), save_file if suffix == "safetensors" else torch.save
    parts = {FIRST: names[: len(names) // 2], SECOND: names[len(names) // 2 :]}
    parts = {shard.replace("safetensors", suffix): tensors for shard, tensors in parts.items()}
    for shard, tensors in parts.items():
        save({n: state[n] for n in tensors}, folder / shard)
    write_index(
        folder, {n: shard for shard, tensors in parts.items() for n in tensors}, INDEX.replace("safetensors", suffix)
    )
    return folder


def write_index(folder: Path, shard_of, name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of}))


def read_index(folder: Path):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def refused(path: Path, model) -> str:
    with pytest.raises(CheckpointError) as error:
        read(path, model)
    text = str(error.value)
    assert text.isprintable() and str(path) in text
    return text


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_and_its_folder_are_one_checkpoint(tinyten, state, tmp_path, suffix):
    folder = written(tmp_path / "sharded", state, suffix)
    (folder / "config.json").write_text("{}")
    (folder / ".gitattributes").write_text("*.bin filter=lfs")
    expected = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    for path in (folder, folder / INDEX.replace("safetensors", suffix)):
        checkpoint = read(path, tinyten)
        assert_same(checkpoint.state, expected)
        assert_same(checkpoint.renamed(checkpoint.state), state)
        assert checkpoint.inside == "" and checkpoint.unused == []


def test_wrapped_names_in_shards_are_read(tinyten, state, tmp_path):
    folder = written(tmp_path / "sharded", {f"module.{n}": t for n, t in state.items()})
    assert read(folder, tinyten).inside == "module"


def test_a_folder_with_one_file_is_that_file(tinyten, state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("mine")
    assert_same(read(tmp_path, tinyten).stored, state)
    assert checkpoint_files(tmp_path).files == (tmp_path / "model.safetensors",)


def test_a_cache_of_links_is_read(tinyten, state, folder, tmp_path):
    """The cache of the Hugging Face hub has files named by digest, and symbolic links to them with the usual names."""
    links = tmp_path / "snapshot"
    links.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(tmp_path / f"blob{i}")
        (links / file.name).symlink_to(Path("..", f"blob{i}"))
    assert_same(read(links, tinyten).stored, state)


def test_the_message_about_one_shard_says_that_there_are_others(tinyten, folder):
    text = refused(folder / FIRST, tinyten)
    assert "missing: " in text and "the file is one of several shards: name their index.json, or the folder" in text
    assert not is_shard("model-00001-of-00001.safetensors") and not is_shard("a-5-of-mine.pt")


def test_a_folder_without_a_checkpoint_or_with_several_is_refused(tinyten, state, folder, tmp_path):
    assert f"{tmp_path}: a folder without a checkpoint; found nothing" in refused(tmp_path, tinyten)
    (tmp_path / "a.txt").write_text("a")
    assert "a folder without a checkpoint; found a.txt" in refused(tmp_path, tinyten)
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pth.tar")
    assert "contains 2 checkpoints; name one of a.pt, b.pth.tar" in refused(tmp_path, tinyten)
    torch.save({"step": 1}, folder / "optimizer.pt")
    assert f"contains 2 checkpoints; name one of {INDEX}, optimizer.pt" in refused(folder, tinyten)
    assert_same(read(folder / INDEX, tinyten).stored, state)
    (folder / INDEX).unlink()
    (folder / "optimizer.pt").unlink()
    assert f"shards without their index.json: {FIRST}, {SECOND}" in refused(folder, tinyten)
    (folder / SECOND).unlink()
    assert f"shards without their index.json: {FIRST}" in refused(folder, tinyten)


def test_a_distributed_checkpoint_is_refused_with_what_to_do(tinyten, tmp_path):
    (tmp_path / ".metadata").write_bytes(b"\x80")
    (tmp_path / "__0_0.distcp").write_bytes(b"\x80")
    assert "torch.distributed.checkpoint.format_utils dcp_to_torch" in refused(tmp_path, tinyten)


def without_shard(folder):
    (folder / SECOND).unlink()


def without_tensor(folder):
    (folder / SECOND).unlink()
    save_file({"fc.weight": torch.ones(5, 16)}, folder / SECOND)


def with_tensor_twice(folder):
    tensors = {n: torch.ones(1) for n, shard in read_index(folder).items() if shard == SECOND}
    save_file(tensors | {"features.conv1.weight": torch.ones(1)}, folder / SECOND)


def with_tensor_unnamed(folder):
    write_index(folder, {n: shard for n, shard in read_index(folder).items() if n != "fc.bias"})


def mapped(shard):
    return lambda folder: write_index(folder, read_index(folder) | {"fc.bias": shard})


def index(text):
    return lambda folder: (folder / INDEX).write_text(text)


@pytest.mark.parametrize(
    "damage, message",
    [
        (without_shard, f"{INDEX}: shards that it names are not in its folder: {SECOND}"),
        (without_tensor, f"{SECOND}: lacks tensors that {INDEX} assigns to it: fc.bias, features"),
        (with_tensor_twice, f"{SECOND}: holds features.conv1.weight, which {INDEX} assigns to {FIRST}"),
        (with_tensor_unnamed, f"{SECOND}: holds tensors that {INDEX} does not name: fc.bias"),
        (mapped(FIRST), f"{FIRST}: lacks tensors that {INDEX} assigns to it: fc.bias"),
        (mapped("../sharded/" + SECOND), "fc.bias is in '../sharded/"),
        (mapped("/etc/passwd"), "fc.bias is in '/etc/passwd'; only the name of a file in the folder of the index is"),
        (mapped("a\\b.safetensors"), "only the name of a file in the folder of the index"),
        (mapped(".."), "fc.bias is in '..'; only the name of a file in"),
        (mapped(""), "fc.bias is in ''; only the name of a file in"),
        (mapped("a\nb"), r"fc.bias is in 'a\nb'; only the name of a file in"),
        (mapped(3), "fc.bias is in 3; only the name of a file in"),
        (mapped(None), "fc.bias is in None; only the name of a file in"),
        (index("{}"), f"{INDEX}: not an index of shards: needs `weight_map`, a mapping of tensors to files"),
        (index('{"weight_map": {}}'), "needs `weight_map`, a mapping of tensors to files"),
        (index('{"weight_map": ["a"]}'), "needs `weight_map`, a mapping of tensors to files"),
        (index("[1]"), "needs `weight_map`, a mapping of tensors to files"),
        (index("{'weight_map'"), "not an index of shards: Expecting property name"),
        (index("[" * 100_000), "not an index of shards: maximum recursion depth"),
        (
            index(f'{{"weight_map": {{"fc.bias": "{FIRST}", "fc.bias": "{SECOND}"}}}}'),
            f"not an index of shards: fc.bias occurs twice, with '{FIRST}' and '{SECOND}'",
        ),
        (index("version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS, not the file"),
        (lambda folder: (folder / SECOND).write_text("version https://git-lfs.github.com/spec/v1"), SECOND),
        (
            lambda folder: (folder / SECOND).write_bytes(bytes(100)),
            "neither a safetensors file nor one of torch.save, or damaged",
        ),
    ],
)
def test_an_index_that_is_wrong_is_refused_in_one_line(tinyten, folder, damage, message):
    damage(folder)
    for path in (folder, folder / INDEX):
        with pytest.raises(CheckpointError) as error:
            read(path, tinyten)
        assert message in str(error.value) and str(error.value).isprintable()


def test_shards_that_hold_mappings_are_refused(tinyten, state, tmp_path):
    folder = written(tmp_path / "sharded", state, "bin")
    shard = folder / FIRST.replace("safetensors", "bin")
    torch.save({"model": torch.load(shard, weights_only=True)}, shard)
    index = INDEX.replace("safetensors", "bin")
    assert f"its tensors lie inside model; {index} needs them at the top of the file" in refused(folder, tinyten)


# ---- the digest that decides whether the workflow runs a job again


def test_every_shard_is_part_of_the_digest(folder, tmp_path):
    def digest(path):
        return content_digest({"checkpoint": str(path)}, tmp_path / "memo.json")

    before = digest(folder)
    assert digest(folder / INDEX) == before
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1] + b"\x01")
    assert digest(folder) != before
    (folder / SECOND).unlink()
    with pytest.raises(DataError, match=f"shards that it names are not in its folder: {SECOND}"):
        digest(folder)


def test_a_folder_has_the_digest_of_the_checkpoint_in_it(tmp_path):
    model = tiny.perceptron(side=2)
    torch.save(randomised(model.network), tmp_path / "a.pt")
    digests = {content_digest({"checkpoint": str(path)}) for path in (tmp_path, tmp_path / "a.pt")}
    assert len(digests) == 1
    with pytest.raises(DataError, match=r"b\.pt: no such file"):
        content_digest({"checkpoint": str(tmp_path / "b.pt")})
