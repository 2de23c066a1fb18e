"""Bars on standard error for commands that take longer than two seconds, from the records of `common.logs.progress`."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from neuralign.common.logs.progress import log

SECONDS = 2.0  # before the first bar appears
HOUR = 3600.0  # the time left is estimated from so many seconds


class StandardError(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at the time of a record, so that messages come out above the bars."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Standard error."""
        return sys.stderr


class _Bars(logging.Handler):
    """Has a bar for all that records tell the progress of; it moves on when one comes with a larger number."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self.progress = progress
        self.tasks: dict[str, Any] = {}
        self.is_due = False

    def appear(self) -> None:
        """Show the bars from now on, if there are any: a command that draws something itself has none."""
        self.is_due = True
        if self.tasks:
            self.progress.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show what the record tells; a `total` of 0 means that nobody knows how much there is to do."""
        what, done, total = (record.__dict__[name] for name in ("what", "done", "total"))
        if what not in self.tasks:
            for task in self.tasks.values():  # what came before is over
                self.progress.update(task, visible=False)
            self.tasks[what] = self.progress.add_task(what, total=total or None, count="")
        count = f"{done} of {total}, time left" if total else ""
        self.progress.update(self.tasks[what], completed=done, total=total or None, count=count)
        if self.is_due:
            self.progress.start()


@contextmanager
def bars(console: Any = None, seconds: float = SECONDS) -> Iterator[None]:
    """Show the progress of the block from `seconds` after its beginning on, with the time that is left.

    Nothing is shown where the console, by default that of standard error, is no terminal. At the end the bars go away.
    """
    if console is None and not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    left = [TextColumn("{task.fields[count]}"), TimeRemainingColumn()]
    console = console or Console(stderr=True)
    progress = Progress(*columns, *left, console=console, transient=True, speed_estimate_period=HOUR)
    handler = _Bars(progress)
    timer = Timer(seconds, handler.appear)
    timer.daemon = True
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        progress.stop()
        log.removeHandler(handler)
        log.level, log.propagate = before
