"""A text as tokens for a language model: any file or folder, or the source of Python's standard library."""

import hashlib
import platform
import sysconfig
from pathlib import Path

import numpy as np

from neuralign.config.options import Count, OpenFraction, Text
from neuralign.datasets.dataset import ArrayDataset, DataError, Split
from neuralign.datasets.reading.locations import visible_paths

# folders of a Python installation that are other packages, or that some installations leave out
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def text(
    cache: Path,
    *,
    path: Text | None = None,
    context: Count = 128,
    length: Count | None = None,
    test_fraction: OpenFraction = 0.1,
) -> ArrayDataset:
    """Windows (n, context) of the bytes of a text, uint8, and as targets the byte after each of them.

    The windows are laid end to end; the rest of the text, shorter than a window, is left out. The last part of the text
    is the test split. The files of a folder are read one after another, sorted by path; hidden ones are skipped. The
    facts of the dataset say which text it is: `text`, the SHA-256 digest of its bytes, `bytes`, `files` and `source`.

    Args:
        path: A file or a folder of files, all in UTF-8; null: the source of the standard library of the Python that
            runs this, without tests. The facts have its version.
        context: Tokens in a window.
        length: How many bytes of the text are used, from its beginning; null: all.
        test_fraction: Share of the text, at its end, that is the test split.
    """
    files = _standard_library() if path is None else _files(Path(path))
    content = b"".join(map(_read, files))[:length]
    data = np.frombuffer(content, np.uint8)
    boundary = len(data) - round(test_fraction * len(data))
    facts = {
        "text": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "bytes": len(content),
        "files": len(files),
        "source": f"the standard library of Python {platform.python_version()}" if path is None else Path(path).name,
    }
    source = path or "the standard library"
    train, test = (_windows(part, context, source) for part in (data[:boundary], data[boundary:]))
    return ArrayDataset(train, test, tuple(f"{byte:02x}" for byte in range(256)), facts)


def _standard_library() -> list[Path]:
    """The files of the standard library, sorted by path."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [p for p in visible_paths(folder, "**/*.py") if LEFT_OUT.isdisjoint(p.relative_to(folder).parts)]


def _files(path: Path) -> list[Path]:
    """The file, or all visible files in the folder, sorted by path."""
    files = [p for p in visible_paths(path, "**/*") if p.is_file()] if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: the folder has no files; at least one text is needed")
    return files


def _read(file: Path) -> bytes:
    """The bytes of a file. Raises DataError unless they are UTF-8."""
    try:
        content = file.read_bytes()
        content.decode("utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        wrong = f"byte {error.object[error.start]:#04x} at position {error.start}"
        raise DataError(f"{file}: found {wrong}, which is not UTF-8; only texts in UTF-8 are allowed") from None
    return content


def _windows(data: np.ndarray, context: int, source: str) -> Split:
    """Windows of the tokens (n, context) and, of the same shape, the token after each."""
    count = (len(data) - 1) // context
    if count < 1:
        raise DataError(
            f"{source}: found {len(data)} bytes for one of the splits; at least {context + 1}, a window and the token "
            "after it, are needed: choose a smaller `context`, or another `length` or `test_fraction`"
        )
    used = count * context
    return Split(data[:used].reshape(count, context), data[1 : used + 1].reshape(count, context))
