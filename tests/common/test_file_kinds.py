"""A file that was given as a checkpoint but is something else is refused, in one line that says what it is."""

import bz2
import gzip
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import tiny
import torch
from tiny import randomised
from torch import nn

from neuralign.common.file_kinds import describe_other_kind, describe_text
from neuralign.networks.foreign_checkpoints import CheckpointError, read

MODEL = tiny.perceptron(side=2)


def saved(path):
    torch.save(randomised(MODEL.network), path)
    return path


def archived(mode):
    def make(path):
        with tarfile.open(path, mode) as tar:
            tar.add(saved(path.with_name("inner.pt")), "inner.pt")

    return make


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(saved(path.with_name("inner.pt")), "inner.pt")


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path.with_name("a.pt2"))
    path.with_name("a.pt2").rename(path)  # torch.export.save demands the suffix .pt2


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
KINDS = {
    "pointer": (lambda p: p.write_bytes(LFS), "a pointer of Git LFS, not the file that it stands for; `git lfs pull`"),
    "annex": (lambda p: p.write_text("/annex/objects/SHA256E-s3--ab.pt\n"), "a pointer of git-annex"),
    "page": (lambda p: p.write_text("\n <!DOCTYPE html><html>Not found"), "a web page, as servers send in place of"),
    "page without a type": (lambda p: p.write_text("<html lang=en>"), "a web page"),
    "answer": (lambda p: p.write_text("\ufeff<?xml version='1.0'?><Error>AccessDenied</Error>"), "a web page"),
    "text": (lambda p: p.write_text("Entry not found"), "or damaged (text that begins 'Entry not found')"),
    "json": (lambda p: p.write_text('{"error": "no access"}'), 'text that begins \'{"error": "no access"}\''),
    "empty": (lambda p: p.write_bytes(b""), "is an empty file (0 bytes)"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "compressed with gzip; unpack it and name the checkpoint"),
    "bzip2": (lambda p: p.write_bytes(bz2.compress(b"x")), "compressed with bzip2; unpack it"),
    "xz": (lambda p: p.write_bytes(lzma.compress(b"x")), "compressed with xz; unpack it"),
    "tar": (archived("w"), "a tar archive; unpack it and name the checkpoint that is in it"),
    "tar.gz": (archived("w:gz"), "compressed with gzip; unpack it"),
    "zip": (zipped, "a zip archive that torch.save did not write; unpack it"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)), "an HDF5 file, as Keras writes"),
    "gguf": (lambda p: p.write_bytes(b"GGUF\x03" + bytes(99)), "a GGUF file; .safetensors, or a state_dict saved by"),
    "array": (lambda p: np.save(p.open("wb"), np.ones(3)), "a NumPy array; named tensors are needed"),
    "arrays": (lambda p: np.savez(p.open("wb"), a=np.ones(3)), "NumPy arrays (.npz); named tensors are needed"),
    "exported": (exported, "a program of torch.export; save the state_dict() of the network before it is exported"),
}


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.pth.tar"])
@pytest.mark.parametrize("what", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_another_kind_is_refused_with_its_kind(tmp_path, what, name):
    make, message = KINDS[what]
    make(tmp_path / name)
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / name, MODEL)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / name}: ") and str(error.value).isprintable()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_is_refused_with_what_to_do(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(
        CheckpointError, match=r"a network compiled by torch.jit; save the state_dict\(\) of the network"
    ):
        read(tmp_path / "a.pt", MODEL)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.pth.tar", "a.bin", "a", "a.safetensors"])
def test_the_kind_of_a_file_does_not_depend_on_its_name(tmp_path, name, archive):
    """For example, files that are called `best.pth.tar` are usually no tar archives but written by torch.save."""
    state = randomised(MODEL.network)
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=archive)
    assert describe_other_kind(tmp_path / name) is None and describe_text(tmp_path / name) is None
    tiny.assert_same(read(tmp_path / name, MODEL).state, state)


def test_safetensors_files_may_have_any_name(tmp_path):
    from safetensors.torch import save_file

    state = randomised(MODEL.network)
    save_file(state, tmp_path / "a.bin")
    tiny.assert_same(read(tmp_path / "a.bin", MODEL).state, state)
