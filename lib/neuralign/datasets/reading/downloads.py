"""Archives whose checksum has been verified: local files in their place, remote ones downloaded to a cache folder."""

import hashlib
import logging
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from neuralign.common.files import atomic
from neuralign.config.options import checksum as checked_checksum
from neuralign.datasets.dataset import DataError
from neuralign.datasets.reading.locations import archive_prefix, local_path

ATTEMPTS = 5
PAUSE = 2.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**20  # bytes
NOTHING_LEFT = 416  # HTTP status code: the requested range begins at or after the end
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes after which another attempt may succeed

log = logging.getLogger(__name__)


def fetch_verified(url: str, checksum: str, cache: Path) -> Path:
    """The path of the archive at `url`, downloaded to `cache` if it is remote and not there yet.

    Raises DataError unless its checksum is right. Plug-ins must read archives only by this path: unpickling CIFAR, for
    example, could execute code of another file.
    """
    try:
        prefix = archive_prefix(checked_checksum(checksum))
    except ValueError as error:
        raise DataError(f"{url}: checksum {checksum!r}: {error}") from None
    local = local_path(url)
    if local is not None:
        if not local.is_file():
            raise DataError(f"{url}: no such file")
        _verify(local, url, checksum)
        return local
    cached = cache / (prefix + (Path(unquote(urlsplit(url).path)).name or "archive"))
    if cached.is_file():
        try:
            _verify(cached, url, checksum)
            return cached
        except DataError as error:
            log.warning("%s in the cache is damaged and is downloaded again (%s)", cached.name, error)
    with atomic(cached) as part:
        _download(url, part, cached)
        _verify(part, url, checksum)
    return cached


def _verify(path: Path, url: str, checksum: str) -> None:
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if f"{algorithm}:{digest}" != checksum.lower():
        raise DataError(f"{url}: expected {checksum}, found {algorithm}:{digest} ({path.stat().st_size} bytes)")


def _download(url: str, part: Path, cached: Path) -> None:
    """Download `url` to `part`, in several attempts. Raises DataError.

    An attempt continues where the last one stopped, if the server supports that. `cached` is named in the error, as the
    path at which the user can put the archive.
    """
    cause: Exception | None = None
    for attempt in range(ATTEMPTS):
        if cause is not None:
            pause = PAUSE * 2 ** (attempt - 1)
            log.warning("%s: %s; trying again in %g s", url, cause, pause)
            time.sleep(pause)
        try:
            return _continue_download(url, part)
        except HTTPError as error:
            error.close()
            if error.code == NOTHING_LEFT and part.stat().st_size:
                return None  # the connection broke after the last byte; the checksum shows whether the file is complete
            if error.code not in TRANSIENT:
                raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
            cause = error
        except (OSError, HTTPException) as error:
            cause = error
    failure = f"gave up after {ATTEMPTS} attempts and {part.stat().st_size} bytes; last error: {cause}"
    raise DataError(f"{url}: {failure}; you can download the archive by other means and put it at {cached}")


def _continue_download(url: str, part: Path) -> None:
    """Complete the file `part`; begin it again if the server cannot resume the download. Logs the progress."""
    received = part.stat().st_size
    headers = {"User-Agent": "neuralign"} | ({"Range": f"bytes={received}-"} if received else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        with part.open("ab" if response.status == 206 else "wb") as file:
            total = None if response.length is None else file.tell() + response.length
            last_logged = time.monotonic()
            while chunk := response.read(CHUNK):
                file.write(chunk)
                if time.monotonic() - last_logged > 5:
                    last_logged = time.monotonic()
                    log.info(
                        "%s: %.0f of %s MB", url, file.tell() / 1e6, "?" if total is None else f"{total / 1e6:.0f}"
                    )
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection closed after {file.tell()} of {total} bytes")
            log.info("%s: complete, %d bytes", url, file.tell())
