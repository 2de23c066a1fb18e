"""Datasets: every plug-in against known answers, downloads over a real (local) HTTP server, and all that is refused."""

import gzip
import hashlib
import importlib.util
import inspect
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from neuralign.data import DataError, Dataset, Split, archives, downloads, pictures
from neuralign.data.checks import check
from neuralign.data.cifar import cifar
from neuralign.data.digits import digits
from neuralign.data.folder import folder
from neuralign.data.npz import npz
from neuralign.data.pickles import unpickled
from neuralign.data.sources import identity, local
from neuralign.data.storage import CHUNK, moments, save
from neuralign.data.tiny_imagenet import tiny_imagenet

PLUGINS = (cifar, digits, folder, npz, tiny_imagenet)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def sha256(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def toy(n: int = 6, classes: int = 2) -> Dataset:
    labels = np.arange(n) % classes
    names = tuple(f"c{i}" for i in range(classes))
    return Dataset(Split(pixels(n, 3, 4, 4), labels), Split(pixels(2, 3, 4, 4, seed=1), labels[:2]), names)


# --- archives in the official layouts ---


class Python2Pickler(pickle._Pickler):
    """Spells text and bytes as Python 2 did in the official archives: both as raw byte strings."""

    def raw(self: Any, value: str | bytes) -> None:
        blob = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(blob).to_bytes(4, "little") + blob)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: raw, bytes: raw}  # type: ignore[assignment]


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def tar_gz(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    zipped = gzip.GzipFile(fileobj=file, mode="wb", mtime=0)  # the same bytes whenever it is made
    with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def cifar10(pickled=python3) -> bytes:
    """Two images in each of five train batches and a test batch of ten; batch i has labels 2i, 2i + 1."""
    top, rows = "cifar-10-batches-py", pixels(20, 3072)
    folder_entry = tarfile.TarInfo(top)
    folder_entry.type = tarfile.DIRTYPE
    members: dict[str, bytes | tarfile.TarInfo] = {top: folder_entry, f"{top}/readme.html": b"<html>"}
    members[f"{top}/batches.meta"] = pickled({"label_names": [f"name{i}" for i in range(10)], "num_vis": 3072})
    for i in reversed(range(5)):  # the order of members must not matter
        batch = {"data": rows[2 * i : 2 * i + 2], "labels": [2 * i, 2 * i + 1], "batch_label": "x"}
        members[f"{top}/data_batch_{i + 1}"] = pickled(batch)
    members[f"{top}/test_batch"] = pickled({"data": rows[10:], "labels": list(range(10))[::-1]})
    return tar_gz(members)


def cifar100() -> bytes:
    top = "cifar-100-python"
    fine, coarse = list(range(100)), [0] * 100
    part = {"fine_labels": fine, "coarse_labels": coarse, "data": pixels(100, 3072)}
    meta = {"fine_label_names": [f"fine{i}" for i in fine], "coarse_label_names": ["coarse"]}
    return tar_gz({f"{top}/{name}": python2(value) for name, value in dict(meta=meta, test=part, train=part).items()})


def jpeg(seed: int, grey: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(64, 64, seed=seed) if grey else pixels(64, 64, 3, seed=seed)).save(file, "JPEG")
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tiny(**changed: bytes) -> bytes:
    """Two classes of three images, one of them greyscale; two validation images, annotated in reverse class order."""
    members = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tgoldfish\n", "test/images/test_0.JPEG": jpeg(99)}
    for c, wnid in enumerate(("n02", "n01")):
        members[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        for i, number in enumerate((0, 10, 2)):
            members[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(3 * c + i, grey=number == 10)
    members |= {"val/images/val_0.JPEG": jpeg(10), "val/images/val_1.JPEG": jpeg(11)}
    members["val/val_annotations.txt"] = b"val_0.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\n"
    members |= {name.replace("__", "/"): content for name, content in changed.items()}
    return zipped({"tiny-imagenet-200/": b""} | {f"tiny-imagenet-200/{name}": c for name, c in members.items()})


def mirror(tmp_path: Path, blob: bytes) -> dict[str, str]:
    """`url` and `checksum` of a local archive with this content."""
    path = tmp_path / "mirror.bin"
    path.write_bytes(blob)
    return {"url": str(path), "checksum": sha256(blob)}


# --- the plug-ins ---


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.__name__)
def test_a_plugin_takes_the_cache_and_keyword_only_options(plugin):
    cache, *options = inspect.signature(plugin).parameters.values()
    assert (cache.name, cache.annotation) == ("cache", Path)
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_nothing_of_the_data_package_needs_torch():
    names = [p.stem for p in Path(archives.__file__).parent.glob("*.py") if p.stem != "__init__"]
    lines = [f"import neuralign.data.{name}" for name in names] + ["import sys", "assert 'torch' not in sys.modules"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=env)


def test_digits_are_the_originals_enlarged_and_split_by_class(tmp_path):
    data = digits(tmp_path)
    check(data, "digits")
    assert data.train.images.shape[1:] == (1, 16, 16) and len(data.train.labels) + len(data.test.labels) == 1797
    shares = np.bincount(data.test.labels) / (np.bincount(data.test.labels) + np.bincount(data.train.labels))
    assert np.abs(shares - 0.2).max() < 0.005
    again, other = digits(tmp_path), digits(tmp_path, seed=1)
    assert np.array_equal(data.test.images, again.test.images)
    assert not np.array_equal(data.test.labels, other.test.labels)
    plain = digits(tmp_path, size=8, test_fraction=0.5)
    assert plain.train.images.max() == 255 and set(np.unique(plain.train.images)) <= set(
        np.rint(np.arange(17) * 15.9375)
    )


@pytest.mark.parametrize("pickled", [python2, python3])
def test_cifar10_has_the_images_of_its_batches_in_order(tmp_path, pickled):
    data = cifar(tmp_path, classes=10, **mirror(tmp_path, cifar10(pickled)))
    check(data, "cifar")
    expected = pixels(20, 3072).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.images, expected[:10]) and np.array_equal(data.test.images, expected[10:])
    assert data.train.labels.tolist() == list(range(10)) and data.test.labels.tolist() == list(range(10))[::-1]
    assert data.classes[3] == "name3"


def test_cifar100_has_the_fine_labels(tmp_path):
    source = mirror(tmp_path, cifar100())
    data = cifar(tmp_path, classes=100, **source)
    check(data, "cifar")
    assert data.test.labels.tolist() == list(range(100)) and data.classes[42] == "fine42"
    with pytest.raises(DataError, match="no member data_batch_1, .*is this the archive the entry means"):
        cifar(tmp_path, classes=10, **source)


def test_tiny_imagenet_is_sorted_by_class_and_tests_on_the_validation_split(tmp_path):
    data = tiny_imagenet(tmp_path, **mirror(tmp_path, tiny()))
    check(data, "tiny")
    assert data.classes == ("n01", "n02") and data.train.images.shape == (6, 3, 64, 64)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test.labels.tolist() == [0, 1]
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(11)))).transpose(2, 0, 1)  # val_1 is of the first class
    assert np.array_equal(data.test.images[0], decoded)
    grey = data.train.images[1]  # n01_10, between n01_0 and n01_2
    assert (grey == grey[:1]).all() and not (data.train.images[0] == data.train.images[0][:1]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val__val_annotations.txt": b"val_0.JPEG\tn02\n"}, "disagree on val_1.JPEG"),
        (
            {"val__val_annotations.txt": b"val_0.JPEG\tn02\nval_1.JPEG\tn03\n"},
            "class n03, which has no training images",
        ),
        ({"train__n01__images__n01_5.JPEG": b"no jpeg"}, "n01_5.JPEG: not a readable image"),
    ],
)
def test_tiny_imagenet_refuses_what_does_not_fit_together(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        tiny_imagenet(tmp_path, **mirror(tmp_path, tiny(**changed)))


def tree(root: Path, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> dict[str, str]:
    """Classes cat and dog, two train images and one test image each, and the hidden litter of file managers."""
    for i, name in enumerate(("train/dog/a", "train/dog/b", "train/cat/a", "train/cat/b", "test/cat/a", "test/dog/a")):
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size[1], size[0], 3, seed=i)).convert(mode).save(file)
    (root / "train/.DS_Store").touch()
    (root / "train/cat/.DS_Store").touch()
    return {"path": str(root)}


def test_folder_is_sorted_by_class_and_file(tmp_path):
    data = folder(tmp_path, **tree(tmp_path / "pets"))
    check(data, "folder")
    assert data.classes == ("cat", "dog") and data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.train.images.shape == (4, 3, 4, 5)
    assert np.array_equal(data.train.images[2], pixels(4, 5, 3, seed=0).transpose(2, 0, 1))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)])
def test_folder_resolves_palettes_and_opaque_alpha_and_keeps_grey(tmp_path, mode, channels):
    data = folder(tmp_path, **tree(tmp_path / "pets", mode))
    check(data, "folder")
    assert data.train.images.shape == (4, channels, 4, 5)


def test_folder_has_three_channels_if_one_image_is_coloured_and_resizes_on_demand(tmp_path):
    source = tree(tmp_path / "pets", "L")
    Image.fromarray(pixels(4, 5, 3)).save(tmp_path / "pets/test/dog/b.png")
    assert folder(tmp_path, **source).train.images.shape == (4, 3, 4, 5)
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "pets/test/dog/b.png")
    with pytest.raises(DataError, match=r"dog.b\.png: 9x9 pixels, but the first image of the split has 4x5"):
        folder(tmp_path, **source)
    data = folder(tmp_path, size=8, **source)
    assert data.train.images.shape == (4, 3, 8, 8) and data.test.images.shape == (3, 3, 8, 8)


def transparent(path: Path) -> None:
    Image.fromarray(pixels(4, 5, 4)).save(path.with_suffix(".png"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "train/cat/notes.txt").write_text("x"), "notes.txt: only image files are allowed"),
        (lambda p: (p / "train/cat/deep").mkdir(), "deep: only image files are allowed"),
        (lambda p: (p / "train/readme.md").touch(), "readme.md: only class folders are allowed"),
        (lambda p: (p / "train/cat/c.png").write_bytes(b"no image"), "c.png: not a readable image"),
        (
            lambda p: (p / "train/cat/c.png").write_bytes((p / "train/cat/a.png").read_bytes()[:60]),
            "not a readable image",
        ),
        (lambda p: transparent(p / "train/cat/c"), "c.png: has transparent pixels"),
        (lambda p: Image.fromarray(np.zeros((4, 5), np.uint16)).save(p / "train/cat/c.png"), "pixels of mode I;16"),
        (lambda p: (p / "test/dog").rename(p / "test/cow"), "class cow has no folder in train"),
        (lambda p: (p / "train/ant").mkdir(), "no train image of class ant"),
        (lambda p: (p / "test").rename(p / "val"), "test: no such folder"),
    ],
)
def test_folder_refuses(tmp_path, spoil, message):
    source = tree(tmp_path / "pets")
    spoil(tmp_path / "pets")
    with pytest.raises(DataError, match=message):
        check(folder(tmp_path, **source), "pets")


def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 63)
    with pytest.raises(DataError, match="x: 64x64 pixels, at most 63 a side"):
        pictures.picture("x", io.BytesIO(jpeg(0)))


def arrays(**changed: np.ndarray | None) -> dict[str, np.ndarray]:
    plain = {"x_train": pixels(4, 8, 8, 3), "y_train": np.array([0, 1, 0, 1]), "x_test": pixels(2, 8, 8, 3)}
    made = plain | {"y_test": np.array([1, 0], np.uint8)} | changed
    return {name: array for name, array in made.items() if array is not None}


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((8, 9, 3), "auto", (3, 8, 9)),
        ((3, 8, 9), "auto", (3, 8, 9)),
        ((8, 9), "auto", (1, 8, 9)),
        ((3, 8, 3), "nchw", (3, 8, 3)),
        ((3, 8, 3), "nhwc", (3, 3, 8)),
        ((5, 5, 5), "nhwc", (5, 5, 5)),
        ((3, 8, 3), "auto", "ambiguous; say layout"),
        ((5, 5, 5), "auto", "ambiguous; say layout"),
        ((8,), "auto", "three or four axes"),
    ],
)
def test_npz_finds_the_channels_or_asks(tmp_path, shape, layout, expected):
    np.savez(tmp_path / "a.npz", **arrays(x_train=pixels(4, *shape), x_test=pixels(2, *shape)))
    if isinstance(expected, str):
        with pytest.raises(DataError, match=rf"x_train has shape .*{expected}"):
            npz(tmp_path, path=str(tmp_path / "a.npz"), layout=layout)
        return
    data = npz(tmp_path, path=str(tmp_path / "a.npz"), layout=layout)
    check(data, "a.npz")
    assert data.train.images.shape == (4, *expected) and data.classes == ("0", "1")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": pixels(4, 8, 8, 3) / 255}, r"float64 in 0 \.\. 1, 0 of them not finite; only uint8"),
        ({"x_train": np.full((4, 8, 8, 3), np.nan, np.float32)}, "float32, 768 of them not finite"),
        ({"x_train": pixels(4, 8, 8, 3).astype(np.int64)}, "train images are int64; only uint8"),
        ({"x_train": pixels(4, 8, 8, 3).astype(object)}, "Object arrays cannot be loaded"),
        ({"x_test": pixels(2, 9, 9, 3)}, r"train images have shape \(3, 8, 8\), test images \(3, 9, 9\)"),
        ({"x_test": pixels(0, 8, 8, 3), "y_test": np.zeros(0, int)}, "test images .* at least one image"),
        ({"x_train": np.zeros((4, 8, 8, 3), np.uint8)}, "channel 0 of train has one value only"),
        ({"y_train": np.array([0, 1, 0])}, "train labels: 3 for 4 images"),
        ({"y_train": np.array([0, -1, 0, 1])}, r"train labels: -1 at index 1; only 0 \.\. 1 are allowed"),
        ({"y_test": np.array([2**64 - 1, 0], np.uint64)}, "test labels: -1 at index 0"),
        ({"y_train": np.array([0, 1, 0, 3])}, "no train image of class 2;"),
        ({"y_train": np.array([0.0, 1, 0, 1])}, "y_train is float64; only integers"),
        ({"y_train": np.array([[0], [1], [0], [1]])}, r"int64 of shape \(4, 1\); int64 of shape \(n,\)"),
        ({"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "1 class, at least 2"),
        ({"classes": np.array(["a", "a"])}, "but a occurs more than once"),
        ({"classes": np.array(["a", "b", "c"])}, "no train image of class c;"),
        ({"classes": np.array([["a", "b"]])}, "classes has shape"),
        ({"y_test": None}, "no array y_test; found x_train, y_train, x_test"),
    ],
)
def test_unsound_arrays_are_refused(tmp_path, changed, message):
    np.savez(tmp_path / "a.npz", **arrays(**changed))
    with pytest.raises(DataError, match=message) as caught:
        check(npz(tmp_path, path=str(tmp_path / "a.npz")), str(tmp_path / "a.npz"))
    assert "a.npz: " in str(caught.value)


def test_npz_refuses_other_and_damaged_files(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("cut.npz", "text.npz", "absent.npz", "one.npy"):
        with pytest.raises(DataError, match=f"{name}: "):
            npz(tmp_path, path=str(tmp_path / name))


# --- downloads ---


class Server(ThreadingHTTPServer):
    """Serves `content`; each request is answered by the next of `actions`: a status, "cut" (half the body), "whole"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.actions, self.resumes = b"", list[object](), True
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/pub/data.tar.gz?x=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        action = self.server.actions.pop(0) if self.server.actions else "whole"
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        if isinstance(action, int):
            return self.send_error(action)
        resume = wanted is not None and self.server.resumes
        body = self.server.content[int(wanted[6:-1]) :] if resume else self.server.content
        self.send_response(206 if resume else 200)
        self.send_header("Content-Length", str(len(body)))
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


def fetched(server: Server, cache: Path) -> Dataset:
    return cifar(cache, classes=10, url=server.url, checksum=sha256(cifar10()))


def test_an_archive_is_downloaded_once_and_again_if_its_copy_is_damaged(server, tmp_path):
    server.content = cifar10()
    assert len(fetched(server, tmp_path).train.labels) == len(fetched(server, tmp_path).train.labels) == 10
    (kept,) = tmp_path.iterdir()
    assert kept.name == f"{sha256(server.content)[7:23]}-data.tar.gz" and len(server.ranges) == 1
    kept.write_bytes(kept.read_bytes()[:-1])
    fetched(server, tmp_path)
    assert len(server.ranges) == 2 and kept.read_bytes() == server.content


@pytest.mark.parametrize("resumes", [True, False])
def test_a_cut_connection_and_a_busy_server_are_tried_again(server, tmp_path, resumes):
    server.actions, server.resumes = ["cut", 503, "cut", "whole"], resumes
    assert len(fetched(server, tmp_path).train.labels) == 10
    half = len(server.content) // 2
    assert server.ranges[:3] == [None, f"bytes={half}-", f"bytes={half}-"] and len(server.ranges) == 4


def test_a_connection_that_is_always_cut_leaves_nothing_and_the_next_run_recovers(server, tmp_path):
    server.actions, server.resumes = ["cut"] * downloads.ATTEMPTS, False
    half, whole = len(server.content) // 2, len(server.content)
    with pytest.raises(
        DataError, match=f"gave up after 5 attempts and {half} bytes, .* closed after {half} of {whole}"
    ):
        fetched(server, tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(fetched(server, tmp_path).train.labels) == 10


def test_an_answer_that_will_not_change_is_not_asked_for_again(server, tmp_path):
    server.actions = [404]
    with pytest.raises(DataError, match=r"/pub/data.tar.gz\?x=1: the server answers 404 Not Found"):
        fetched(server, tmp_path)
    assert len(server.ranges) == 1 and not list(tmp_path.iterdir())


def test_a_wrong_checksum_is_named_with_both_sums_and_nothing_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr("neuralign.data.cifar.tar_members", None)  # nothing may be read before the checksum is verified
    expected, server.content = sha256(server.content), b"an error page"
    with pytest.raises(DataError) as caught:
        fetched(server, tmp_path)
    found = f"expected {expected}, found {sha256(b'an error page')} in the 13 bytes received"
    assert str(caught.value) == f"{server.url}: {found}"
    assert not list(tmp_path.iterdir())


def test_an_endless_body_and_an_absent_server_end_in_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        fetched(server, tmp_path)
    with pytest.raises(DataError, match="gave up after 5 attempts and 0 bytes"):
        cifar(tmp_path, classes=10, url="http://127.0.0.1:9/x", checksum=sha256(b""))
    assert not list(tmp_path.iterdir())


def test_sources_may_be_local(tmp_path):
    path = tmp_path / "an archive.tar.gz"
    path.write_bytes(cifar10())
    md5 = f"md5:{hashlib.md5(path.read_bytes()).hexdigest().upper()}"
    assert local("https://example.org/a.zip") is None and local("a.zip") == Path("a.zip")
    for url in (str(path), path.as_uri()):
        assert downloads.verified(url, md5, tmp_path / "cache") == path
    with pytest.raises(DataError, match="expected md5:0{32}, found md5:"):
        downloads.verified(str(path), "md5:" + "0" * 32, tmp_path)
    assert path.exists() and not (tmp_path / "cache").exists()
    for url, message in (("ftp://x/y", "http://, https://"), ("absent.zip", "no such file")):
        with pytest.raises(DataError, match=f"{url}.*{message}"):
            downloads.verified(url, md5, tmp_path)
    for wrong in ("md5:xyz", "c58f30108f718f92721af3b95e74349a", "sha1:" + "0" * 40, "md5:" + "g" * 32):
        with pytest.raises(DataError, match="neither sha256:<64 hex digits> nor md5:<32 hex digits>"):
            downloads.verified(str(path), wrong, tmp_path)


# --- hostile archives, each with the correct checksum ---


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (tar_gz({"../evil": b"x"}), "member ../evil points outside"),
        (tar_gz({"/etc/evil": b"x"}), "member /etc/evil points outside"),
        (tar_gz({"a": special("train", tarfile.SYMTYPE, "/etc/passwd")}), "member train is a link"),
        (tar_gz({"a": special("train", tarfile.LNKTYPE, "meta")}), "member train is a link"),
        (tar_gz({"a": special("train", tarfile.FIFOTYPE)}), "member train is a link or another special file"),
        (tar_gz({"a/train": b"x", "b/train": b"y"}), "two members are called train"),
        (cifar10()[:-2000], "damaged or of another kind"),
        (b"no archive at all", "damaged or of another kind"),
    ],
    ids=["parent", "absolute", "symbolic link", "hard link", "pipe", "two of a name", "cut off", "no archive"],
)
def test_unsafe_and_damaged_tars_are_refused(tmp_path, blob, message):
    with pytest.raises(DataError, match=message):
        cifar(tmp_path, classes=100, **mirror(tmp_path, blob))


def test_bombs_are_refused_by_claim_and_by_what_they_unpack_to(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(tar_gz({"a": bytes(300_000)}))
    with pytest.raises(DataError, match="member a claims 300000 bytes, more than 200000"):
        archives.tar_members(path, ["a"], limit=200_000)
    path.write_bytes(tar_gz({str(i): bytes(90_000) for i in range(3)}))
    with pytest.raises(DataError, match="unpacks to more than 200000 bytes"):
        archives.tar_members(path, ["0"], limit=200_000)
    path.write_bytes(zipped({"a": bytes(150_000), "b": bytes(150_000)}))
    with pytest.raises(DataError, match="claim more than 200000"), archives.zip_members(path, limit=200_000):
        pass
    lie = zipped({"a": bytes(150_000)}).replace((150_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(lie)
    with pytest.raises(DataError, match="Bad CRC-32"), archives.zip_members(path, limit=200_000) as archive:
        archives.zip_member(archive, "a")


def test_unsafe_and_damaged_zips_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name, message in ((link, "link is a link"), ("../evil", "outside"), ("a\\..\\b", "outside"), ("/a", "outside")):
        with pytest.raises(DataError, match=message):
            tiny_imagenet(tmp_path, **mirror(tmp_path, zipped({name: b"x"})))
    for blob in (tiny()[:-500], b"no archive at all"):
        with pytest.raises(DataError, match="damaged or of another kind"):
            tiny_imagenet(tmp_path, **mirror(tmp_path, blob))


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_calls_nothing(tmp_path, protocol):
    marker = tmp_path / "marker"
    blob = tar_gz({n: pickle.dumps({"data": Malicious(marker)}, protocol) for n in ("train", "test", "meta")})
    with pytest.raises(DataError, match=r"train: .*posix\.mkdir is not allowed"):
        cifar(tmp_path, classes=100, **mirror(tmp_path, blob))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (pickle.dumps({"a": 1})[:-3], "not a pickle"),
        (pickle.dumps([1]), "pickles a list, only a dict"),
        (b"\x80\x02c_codecs\nencode\n(U\x01aU\x03zip" + b"tR.", "bytes in zip"),
        (b"", "not a pickle"),
    ],
)
def test_other_pickles_are_refused(blob, message):
    with pytest.raises(DataError, match=f"x: .*{message}"):
        unpickled(blob, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": pixels(2, 3071)}, r"'data' is no uint8 array of shape \(n, 3072\)"),
        ({"data": [[0] * 3072]}, "'data' is no uint8 array"),
        ({"fine_labels": [0.5, 1.0]}, "'fine_labels' is no list of integers"),
        ({"fine_label_names": ["a"]}, "no list of 100 names"),
    ],
)
def test_cifar_refuses_batches_of_another_form(tmp_path, change, message):
    value = {"data": pixels(2, 3072), "fine_labels": [0, 1], "fine_label_names": [""] * 100} | change
    blob = tar_gz({name: python3(value) for name in ("train", "test", "meta")})
    with pytest.raises(DataError, match=message):
        cifar(tmp_path, classes=100, **mirror(tmp_path, blob))


# --- the file that training reads ---


def test_the_file_holds_the_dataset_and_can_be_memory_mapped(tmp_path):
    data = toy(CHUNK + 5)
    save(data, tmp_path / "new/data.safetensors")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data.safetensors"]
    with safe_open(tmp_path / "new/data.safetensors", "np") as file:
        for name, split in (("train", data.train), ("test", data.test)):
            assert np.array_equal(file.get_tensor(f"{name}_images"), split.images)
            assert np.array_equal(file.get_tensor(f"{name}_labels"), split.labels)
            assert file.get_tensor(f"{name}_labels").dtype == np.int64
        assert np.array_equal(file.get_slice("train_images")[3:5], data.train.images[3:5])
        facts = file.metadata()
    assert facts["format"] == "neuralign.dataset/1" and json.loads(facts["classes"]) == ["c0", "c1"]
    unit = data.train.images / 255
    assert json.loads(facts["mean"]) == pytest.approx(unit.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert json.loads(facts["std"]) == pytest.approx(unit.std((0, 2, 3)).tolist(), rel=1e-12)


def test_the_same_dataset_gives_the_same_bytes_whatever_its_memory_layout(tmp_path):
    data = toy()
    strided = Split(data.train.images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), data.train.labels)
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


def test_moments_of_known_pixels():
    images = np.zeros((2, 2, 1, 2), np.uint8)
    images[1, 0], images[:, 1, :, 0] = 255, 51
    assert moments(images) == (pytest.approx([0.5, 0.1]), pytest.approx([0.5, 0.1]))


def test_fetch_data_fetches_checks_and_writes(tmp_path, monkeypatch, server):
    monkeypatch.setitem(sys.modules, "neuralign.job", SimpleNamespace(run=None))
    script = Path(__file__).parents[1] / "scripts/fetch_data.py"
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


# --- identity: what makes a prepared dataset stale ---


def test_the_identity_follows_the_content_of_local_sources(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    entry, tree_entry = {"use": "npz", "path": str(tmp_path / "a.npz")}, tree(tmp_path / "pets")
    before, before_tree = identity(entry), identity(tree_entry)
    os.utime(tmp_path / "a.npz", (1, 1))
    (tmp_path / "pets/train/cat/.hidden").touch()
    assert (identity(entry), identity(tree_entry)) == (before, before_tree)
    np.savez(tmp_path / "a.npz", **arrays(y_train=np.array([1, 0, 0, 1])))
    assert identity(entry) != before
    assert identity({"use": "cifar", "url": str(tmp_path / "a.npz"), "checksum": "md5:1"}) == identity(entry)
    (tmp_path / "pets/train/cat/a.png").rename(tmp_path / "pets/train/dog/c.png")
    assert identity(tree_entry) != before_tree
    assert identity({"use": "cifar", "url": "https://example.org/a", "checksum": "md5:1"}) == "md5:1"
    assert identity({"use": "digits"}) == ""
    with pytest.raises(DataError, match="absent: no such file or folder"):
        identity({"use": "npz", "path": "absent"})


def test_the_memo_is_believed_until_a_file_changes_and_not_of_fresh_files(tmp_path):
    path, memo = tmp_path / "a.bin", tmp_path / "memo.json"
    entry = {"use": "npz", "path": str(path)}
    path.write_bytes(b"one")
    fresh = identity(entry, memo)
    assert not memo.exists()  # it may still change within the same tick of the clock
    os.utime(path, (1000, 1000))
    assert identity(entry, memo) == fresh
    (key,) = kept = json.loads(memo.read_text())
    memo.write_text(json.dumps({key: [kept[key][0], "remembered"]}))
    assert identity(entry, memo) == "remembered"
    path.write_bytes(b"two")
    assert identity(entry, memo) not in ("remembered", fresh)
    memo.write_text("{damaged")
    os.utime(path, (time.time() - 60,) * 2)
    assert identity(entry, memo) == identity(entry) and len(json.loads(memo.read_text())) == 1
