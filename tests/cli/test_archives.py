"""Where commands keep the archives that they download: each is downloaded once."""

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from toy_data import cifar10, sha256

from neuralign.cli import main
from neuralign.cli.archives import archive_folder
from neuralign.common.files import PACKAGE

NET = """from torch import nn

def Net(num_classes=10, in_channels=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""
ALIGN = ["align", "nets.py:Net", "a.pt", "b.pt", "--data", "toy", "--configfile", "toy.yaml"]
LANDSCAPE = ["landscape", "nets.py:Net", "a.pt", "--points", "3", "--data", "toy", "--configfile", "toy.yaml"]
NAME = f"{sha256(cifar10())[7:23]}-toy.tar.gz"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and notes the paths that are asked for."""

    requests: list[str]

    def log_request(self, code="-", size="-"):
        self.requests.append(self.path)


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch):
    """The paths that were downloaded; the working directory has a network, two checkpoints and a config of data."""
    served, cwd = tmp_path / "served", tmp_path / "cwd"
    served.mkdir()
    cwd.mkdir()
    (served / "toy.tar.gz").write_bytes(cifar10())
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("nets.py").write_text(NET)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "4.weight": (10, 4), "4.bias": (10,)}
    for seed, name in enumerate(("a.pt", "b.pt")):
        draws = torch.Generator().manual_seed(seed)
        torch.save({n: torch.randn(s, generator=draws) for n, s in shapes.items()}, name)
    handler = type("Counting", (Handler,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(served))) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/toy.tar.gz"
        toy = {"use": "cifar", "classes": 10, "url": url, "checksum": sha256(cifar10())}
        Path("toy.yaml").write_text(yaml.safe_dump({"datasets": {"toy": toy}}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler.requests
        server.shutdown()
        thread.join()


def test_commands_download_an_archive_once_and_again_if_it_is_damaged(downloads, tmp_path):
    assert main([*ALIGN, "-o", "aligned.pt"]) == 0
    assert main(LANDSCAPE) == main([*ALIGN, "-o", "aligned.pt"]) == 0
    archive = tmp_path / "cache" / "neuralign" / "archives" / NAME
    assert downloads == ["/toy.tar.gz"] and archive.read_bytes() == cifar10()
    archive.write_bytes(cifar10()[:-1])
    assert main(LANDSCAPE) == 0
    assert len(downloads) == 2 and archive.read_bytes() == cifar10()
    assert [p.name for p in archive.parent.iterdir()] == [NAME] and not (tmp_path / "home" / ".cache").exists()


def test_two_commands_can_download_an_archive_at_once(tmp_path):
    command = [sys.executable, "-m", "neuralign", *LANDSCAPE]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    both = [subprocess.Popen([*command, "-o", f"{i}.csv"], env=environment, stdout=subprocess.DEVNULL) for i in (1, 2)]
    assert [process.wait() for process in both] == [0, 0]
    assert Path("1.csv").read_bytes() == Path("2.csv").read_bytes()
    (archive,) = (tmp_path / "cache" / "neuralign" / "archives").iterdir()
    assert archive.name == NAME and archive.read_bytes() == cifar10()


def test_an_archive_that_the_workflow_has_downloaded_is_used(downloads, tmp_path):
    archives = Path("results", "data", "archives")
    archives.mkdir(parents=True)
    (archives / f"{'0' * 16}-other.tar.gz").touch()
    assert main(LANDSCAPE) == 0
    assert len(downloads) == 1, "there is only another archive"
    (tmp_path / "cache" / "neuralign" / "archives" / NAME).rename(archives / NAME)
    assert main(LANDSCAPE) == 0
    assert len(downloads) == 1 and not any((tmp_path / "cache" / "neuralign" / "archives").iterdir())


def test_without_a_cache_folder_commands_work_and_say_that_nothing_is_kept(downloads, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("nets.py").absolute()))
    assert main(LANDSCAPE) == 0
    assert len(downloads) == 1
    assert "what is downloaded is not kept, because there is no cache folder: " in caplog.text


@pytest.mark.parametrize("xdg", ["relative", "", None])
def test_the_cache_of_the_user_is_in_the_home_unless_another_is_named(tmp_path, monkeypatch, xdg):
    monkeypatch.delenv("XDG_CACHE_HOME")
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    toy = yaml.safe_load(Path("toy.yaml").read_text())["datasets"]["toy"]
    assert archive_folder(toy) == tmp_path / "home" / ".cache" / "neuralign" / "archives"
    assert os.environ["HOME"] == str(tmp_path / "home")


@pytest.mark.parametrize("entry", [{"use": "npz", "path": "my.npz"}, {"use": "cifar", "url": "file:///a.tar.gz"}])
def test_data_without_a_download_need_no_cache_folder(tmp_path, entry):
    assert archive_folder(entry) is None
    assert not (tmp_path / "cache").exists()
