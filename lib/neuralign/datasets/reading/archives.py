"""Members of tar and zip archives as bytes, read without extracting anything to disk. Unsafe archives are refused."""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from neuralign.datasets.dataset import DataError

UNPACKED = 2**30  # bytes; the largest archive used, Tiny ImageNet, has about half of it
MEMBERS = 1_000_000  # of which it has about 120,000
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, UnicodeError)


def tar_members(path: Path, wanted: Collection[str], limit: int = UNPACKED) -> dict[str, bytes]:
    """{file name: content} of the wanted files of a tar.gz, in whatever folder of it they lie. All must be there."""
    found: dict[str, bytes] = {}
    with _readable(path), _Bounded(path, limit) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for count, member in enumerate(tar, start=1):
            _refuse_many(path, count)
            name = PurePosixPath(member.name).name
            _refuse_unsafe(path, member.name, link=not (member.isreg() or member.isdir()) or member.issparse())
            if member.size > limit:
                raise DataError(f"{path}: member {_shown(member.name)} claims {member.size} bytes, more than {limit}")
            if name in wanted and member.isreg():
                if name in found:
                    raise DataError(f"{path}: two members are called {name}")
                content = tar.extractfile(member)
                found[name] = content.read() if content else b""
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{path}: no member {', '.join(missing)}; is this the archive the entry means?")
    return found


@contextmanager
def zip_members(path: Path, limit: int = UNPACKED) -> Iterator[zipfile.ZipFile]:
    """A zip archive all of whose members are safe to read with `zip_member`."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        total, names = 0, set()
        _refuse_many(path, len(archive.infolist()))
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _refuse_unsafe(path, member.filename, link=kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise DataError(f"{path}: member {member.filename} is encrypted or neither stored nor deflated")
            if member.filename in names:
                raise DataError(f"{path}: two members are called {member.filename}")
            names.add(member.filename)
            total += member.file_size
            if total > limit:
                raise DataError(f"{path}: the members claim more than {limit} bytes")
        yield archive


def zip_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of one member, never more than it claims: one that unpacks to more fails its CRC instead."""
    with archive.open(name) as file:
        return file.read(archive.getinfo(name).file_size)


def _refuse_unsafe(path: Path, name: str, link: bool) -> None:
    if link:
        raise DataError(
            f"{path}: member {_shown(name)} is a link or another special file; only plain files are allowed"
        )
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        raise DataError(f"{path}: member {_shown(name)} points outside the archive")


def _refuse_many(path: Path, count: int) -> None:
    if count > MEMBERS:
        raise DataError(f"{path}: more than {MEMBERS} members")


def _shown(name: str) -> str:
    """A name as a log may have it: no escape sequences for the terminal, no new lines."""
    return name if name.isprintable() else repr(name)


class _Bounded(gzip.GzipFile):
    """An unpacked stream that ends in an error after `limit` bytes, whatever the headers in it claim."""

    def __init__(self, path: Path, limit: int):
        super().__init__(path, "rb")
        self.path, self.limit = path, limit

    def read(self, size: int | None = -1) -> bytes:
        blob = super().read(size)
        if self.tell() > self.limit:
            raise DataError(f"{self.path}: unpacks to more than {self.limit} bytes")
        return blob


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise DataError(f"{path}: the archive is damaged or of another kind: {error}") from error
