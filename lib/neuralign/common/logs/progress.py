"""How far long loops are, as records of logging that a program may show; nothing is printed here.

The records go to the logger `neuralign.progress`, at level DEBUG, and have the attributes `what`, `done` and `total`.
Without a handler, such as that of `neuralign.cli.interface.progress`, a step costs as little as any debug message.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("neuralign.progress")
Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items, and before each and after the last one a record of how many of `total` are done.

    Args:
        what: is done with the items, in the words of the reader, such as "checking results".
    """
    for done, item in enumerate(items):
        report(what, done, total)
        yield item
    report(what, total, total)


def report(what: str, done: int, total: int) -> None:
    """Send one record: `done` of `total` steps, or bytes, are finished."""
    log.debug("%s: %d of %d", what, done, total, extra={"what": what, "done": done, "total": total})
