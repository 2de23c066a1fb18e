"""Recognises, by its first bytes, a file that was given as a checkpoint but is of another kind. Torch-free."""

import zipfile
from pathlib import Path

HEAD = 512  # number of bytes that are read
UNPACK = "; unpack it and name the checkpoint that is in it"
SIGNATURES = {  # first bytes of a file: what the file is, and what to do
    b"version https://git-lfs": "a pointer of Git LFS, not the file that it stands for; `git lfs pull` fetches that",
    b"/annex/objects/": "a pointer of git-annex, not the file that it stands for; `git annex get` fetches that",
    b"\x1f\x8b": "compressed with gzip" + UNPACK,
    b"BZh": "compressed with bzip2" + UNPACK,
    b"\xfd7zXZ": "compressed with xz" + UNPACK,
    b"\x28\xb5\x2f\xfd": "compressed with zstd" + UNPACK,
    b"7z\xbc\xaf": "a 7z archive" + UNPACK,
    b"Rar!": "a RAR archive" + UNPACK,
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes; a PyTorch state_dict is needed",
    b"GGUF": "a GGUF file; .safetensors, or a state_dict saved by torch.save, is needed",
    b"\x93NUMPY": "a NumPy array; named tensors are needed, as .safetensors or saved by torch.save",
}
WEB_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")  # first bytes, in lower case
TAR_OFFSET, TAR = 257, b"ustar"  # where a tar archive has its signature, and the signature


def describe_other_kind(path: Path) -> str | None:
    """What the file is, and what to do about it; None if it may be a checkpoint."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file (0 bytes)"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGES):
        return "a web page, as servers send in place of a file; download the file itself"
    if head[TAR_OFFSET:].startswith(TAR):
        return "a tar archive" + UNPACK
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    return next((description for signature, description in SIGNATURES.items() if head.startswith(signature)), None)


def describe_text(path: Path) -> str | None:
    """The words "text that begins '...'" for a file of readable text; None for any other file."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    text = head.decode(errors="replace").strip()
    # the last character may be cut off in the middle, so it may be undecodable
    is_text = head and all(c.isprintable() or c in "\n\r\t" for c in text) and "\ufffd" not in text[:-4]
    return f"text that begins {text[:40]!r}" if is_text else None


def _describe_zip(path: Path) -> str | None:
    """What a zip archive is; None if torch.save wrote it, or if it is damaged, which torch.load reports later."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    file_names = {member.rpartition("/")[2] for member in members}
    if "constants.pkl" in file_names:
        return "a network compiled by torch.jit; save the state_dict() of the network before it is compiled"
    if "data.pkl" in file_names:
        return None
    if members and all(member.endswith(".npy") for member in members):
        return "NumPy arrays (.npz); named tensors are needed, as .safetensors or saved by torch.save"
    if any("/data/weights/" in member for member in members):
        return "a program of torch.export; save the state_dict() of the network before it is exported"
    return "a zip archive that torch.save did not write" + UNPACK
