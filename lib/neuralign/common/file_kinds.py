"""What a file is by its first bytes, where it lies in the place of a checkpoint but is none. Torch-free."""

import zipfile
from pathlib import Path

HEAD = 512  # bytes that are looked at
UNPACK = "; unpack it and name the checkpoint that is in it"
STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file that it stands for; `git lfs pull` fetches that",
    b"/annex/objects/": "a pointer of git-annex, not the file that it stands for; `git annex get` fetches that",
    b"\x1f\x8b": "compressed with gzip" + UNPACK,
    b"BZh": "compressed with bzip2" + UNPACK,
    b"\xfd7zXZ": "compressed with xz" + UNPACK,
    b"\x28\xb5\x2f\xfd": "compressed with zstd" + UNPACK,
    b"7z\xbc\xaf": "a 7z archive" + UNPACK,
    b"Rar!": "a RAR archive" + UNPACK,
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes; the state_dict of a network of torch is wanted",
    b"GGUF": "a GGUF file; .safetensors, or a state_dict saved by torch.save, is wanted",
    b"\x93NUMPY": "an array of NumPy; named tensors are wanted, as .safetensors or by torch.save",
}
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")  # in lower case
TAR = (257, b"ustar")


def kind(path: Path) -> str | None:
    """What the file is and what to do about it; None where it may be a checkpoint."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "empty, or damaged: it has no bytes"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return "a web page, as servers send in place of a file; download the file itself"
    if head[TAR[0] :].startswith(TAR[1]):
        return "a tar archive" + UNPACK
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    return next((told for start, told in STARTS.items() if head.startswith(start)), None)


def text(path: Path) -> str | None:
    """How a file of text begins; None for any other."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    found = head.decode(errors="replace").strip()
    plain = head and all(c.isprintable() or c in "\n\r\t" for c in found) and "\ufffd" not in found[:-4]
    return f"text that begins {found[:40]!r}" if plain else None


def _archive(path: Path) -> str | None:
    """What a zip archive is, unless torch.save wrote it or it is damaged, which torch says."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return "a compiled network of torch.jit; save the state_dict() of the network that it was made of"
    if "data.pkl" in ends:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of NumPy (.npz); named tensors are wanted, as .safetensors or by torch.save"
    if any("/data/weights/" in name for name in names):
        return "a program of torch.export; save the state_dict() of the network that it was made of"
    return "a zip archive, but none of torch.save" + UNPACK
