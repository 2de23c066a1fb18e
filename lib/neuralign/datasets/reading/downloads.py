"""Archives as files whose checksum has been verified: local ones as they lie, remote ones through a cache folder."""

import hashlib
import logging
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from neuralign.common.files import atomic
from neuralign.config.options import checksum as sound
from neuralign.datasets.dataset import DataError
from neuralign.datasets.reading.locations import local

ATTEMPTS = 5
PAUSE = 2.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**20  # bytes
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may be another one later

log = logging.getLogger(__name__)


def verified(url: str, checksum: str, cache: Path) -> Path:
    """The path of the archive at `url`. Nothing may read an archive that did not pass through here."""
    try:
        expected = sound(checksum).partition(":")[2]
    except ValueError as error:
        raise DataError(f"{url}: checksum {checksum!r}: {error}") from None
    path = local(url)
    if path is not None:
        if not path.is_file():
            raise DataError(f"{url}: no such file")
        _verify(path, url, checksum)
        return path
    kept = cache / f"{expected[:16].lower()}-{Path(unquote(urlsplit(url).path)).name or 'archive'}"
    if kept.is_file():
        try:
            _verify(kept, url, checksum)
            return kept
        except DataError as error:
            log.warning("the archive kept as %s is damaged and is fetched again (%s)", kept.name, error)
    with atomic(kept) as part:
        _receive(url, part, kept)
        _verify(part, url, checksum)
    return kept


def _verify(path: Path, url: str, checksum: str) -> None:
    algorithm = checksum.partition(":")[0]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if f"{algorithm}:{found}" != checksum.lower():
        raise DataError(
            f"{url}: expected {checksum}, found {algorithm}:{found} in the {path.stat().st_size} bytes received"
        )


def _receive(url: str, part: Path, kept: Path) -> None:
    """Fill `part`, which becomes `kept`, from the network.

    What one attempt received is kept for the next, if the server can resume.
    """
    cause: Exception | None = None
    for attempt in range(ATTEMPTS):
        if cause is not None:
            pause = PAUSE * 2 ** (attempt - 1)
            log.warning("%s: %s; trying again in %g s", url, cause, pause)
            time.sleep(pause)
        try:
            return _attempt(url, part)
        except HTTPError as error:
            error.close()
            if error.code not in TRANSIENT:
                raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
            cause = error
        except (OSError, HTTPException) as error:
            cause = error
    failure = f"gave up after {ATTEMPTS} attempts and {part.stat().st_size} bytes, the last: {cause}"
    raise DataError(f"{url}: {failure}; an archive fetched by other means can be put at {kept}")


def _attempt(url: str, part: Path) -> None:
    have = part.stat().st_size
    headers = {"User-Agent": "neuralign"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        with part.open("ab" if response.status == 206 else "wb") as file:
            total = None if response.length is None else file.tell() + response.length
            told = time.monotonic()
            while chunk := response.read(CHUNK):
                file.write(chunk)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    log.info(
                        "%s: %.0f of %s MB", url, file.tell() / 1e6, "?" if total is None else f"{total / 1e6:.0f}"
                    )
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection closed after {file.tell()} of {total} bytes")
            log.info("%s: received, %d bytes", url, file.tell())
