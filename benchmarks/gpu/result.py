"""The JSON file of one section: numbers, checks and errors, written anew whenever one of them is added."""

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing import spread
from neuralign.common.files import atomic


class Result:
    """What a section has measured so far.

    The file has `section`, `status` ("running", "done" or "failed"), `header`, `seconds` since the section began,
    `numbers` (what, median, unit, n, spread: quartiles, of fewer than four values the smallest and the largest, note),
    `checks` (what, passed, found, allowed) and `errors` (of the section, or of parts that it could do without).
    """

    def __init__(self, section: str, folder: Path, header: dict[str, Any]):
        self.path, self.began = folder / f"{section}.json", time.monotonic()
        self.content: dict[str, Any] = {"section": section, "status": "running", "seconds": 0.0, "header": header}
        self.content |= {"numbers": [], "checks": [], "errors": []}
        self._write()

    @classmethod
    def reopen(cls, section: str, folder: Path) -> "Result":
        """The result of a process that has ended, as far as its file says."""
        path = folder / f"{section}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        result = cls(section, folder, before.get("header", {}))
        result.content |= before
        result.began -= result.content["seconds"]
        result._write()
        return result

    @property
    def status(self) -> str:
        """ "failed" if there is an error or a check that did not pass; "running" or "done"."""
        return str(self.content["status"])

    def number(self, what: str, values: Sequence[float], unit: str, note: str = "") -> float:
        """Add the median of `values`, one from each repetition, and return it."""
        middle = median(values)
        entry = {"what": what, "median": middle, "unit": unit, "n": len(values), "spread": spread(values), "note": note}
        return self._add("numbers", entry, f"{what}: {middle:.4g} {unit}", middle)

    def check(self, what: str, passed: bool, *, found: Any, allowed: Any) -> None:
        """Add a check. If it has not passed, the section goes on, and has failed."""
        entry = {"what": what, "passed": passed, "found": found, "allowed": allowed}
        self.content["status"] = "running" if passed and self.status == "running" else "failed"
        self._add("checks", entry, f"{what}: {found} ({'' if passed else 'NOT '}allowed: {allowed})", None)

    def fail(self, error: Exception | str, what: str = "") -> None:
        """Add an error; the section has failed. `what` was being measured."""
        lines = [error] if isinstance(error, str) else traceback.format_exception(error)
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        entry = {"what": what, "error": text, "traceback": "".join(lines)}
        self.content["status"] = "failed"
        self._add("errors", entry, f"FAILED {what}: {text}", None)

    @contextmanager
    def part(self, what: str = "") -> Iterator[None]:
        """A block whose error is recorded as one of `what`; the section goes on after it, as other parts may work."""
        try:
            yield
        except Exception as error:
            self.fail(error, what)

    def finish(self, clocks: dict[str, str]) -> None:
        """Complete the file. `clocks`: of the GPU at the end, while it is still warm."""
        self.content["clocks_at_the_end"] = clocks
        self.content["status"] = "done" if self.status == "running" else "failed"
        self._write()
        print(f"{self.content['section']}: {self.status} after {self.content['seconds']} s, {self.path}", flush=True)

    def _add(self, kind: str, entry: dict[str, Any], line: str, value: Any) -> Any:
        """Add an entry, write the file, print a line, and return `value`."""
        self.content[kind].append(entry)
        self._write()
        print(f"[{self.content['seconds']:6.1f} s] {line}", flush=True)
        return value

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.began, 1)
        with atomic(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n")
