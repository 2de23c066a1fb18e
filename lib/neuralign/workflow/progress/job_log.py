"""How far a job is, from the last line that says so in its log; and the end of a log, for failures."""

import re
from pathlib import Path
from typing import NamedTuple

TAIL = 8192  # so many of the last bytes of a log are read
STAMP = re.compile(r"^\d\d:\d\d:\d\d  ")
EPOCH = re.compile(r"epoch (\d+(?:\.\d+)?)/(\d+)\b")
SPEED = re.compile(r"  (\d+) (\w+)/s  (\d+) s left$")
COUNT = re.compile(r"^(\d+) of (\d+)  ")  # points of a plane
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # would act on the terminal
RESUMED = "resumed after epoch"
INTERRUPTED = ("ended by SIGINT", "KeyboardInterrupt")  # by Ctrl-C (running/termination.py)
REPORT = "this job alone:"  # with this begin the lines that a failed job writes about itself (running/failure.py)


class Step(NamedTuple):
    """How far a job is."""

    text: str  # such as "epoch 12/40  2,140 images/s"
    seconds_left: float | None  # as the job itself estimates them; None if it says nothing about it


def last_step(log: Path, since: float, now: float) -> Step | None:
    """How far the job with this log is; None if it has not said so since it was started.

    Args:
        log: the path of its log.
        since: when the job was started. An older file is the log of an earlier attempt.
        now: the present, both in seconds since 1970.
    """
    try:
        written = log.stat().st_mtime
    except OSError:  # it has not begun, or the file system is not this machine's
        return None
    if written < since - 1:
        return None
    for line in reversed(last_lines(log)):
        text = STAMP.sub("", line)
        if match := EPOCH.search(text):
            speed = SPEED.search(text)
            rate = f"  {int(speed[1]):,} {speed[2]}/s" if speed else ""
            left = max(0.0, float(speed[3]) - (now - written)) if speed else None
            return Step(f"epoch {match[1]}/{match[2]}{rate}", left)
        if match := COUNT.search(text):
            return Step(f"{match[1]} of {match[2]}", None)
    return None


def has_resumed(log: Path) -> bool:
    """Whether a training went on from a checkpoint, so that the time it took says nothing about other trainings."""
    try:
        with log.open("rb") as file:
            return RESUMED in file.read(TAIL).decode(errors="replace")
    except OSError:
        return False


def was_interrupted(log: Path) -> bool:
    """Whether a job has ended because of Ctrl-C."""
    return any(STAMP.sub("", line).startswith(INTERRUPTED) for line in last_lines(log)[-1:])


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without codes for terminals; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [CONTROLS.sub("", line) for line in (lines[1:] if size > TAIL else lines)]


def cause(log: Path, count: int) -> list[str]:
    """The last lines of the log of a failed job, up to the lines in which it tells where to find what."""
    lines = [line for line in last_lines(log) if line.strip()]
    end = next((i for i, line in enumerate(lines) if REPORT in line), len(lines))
    return lines[max(0, end - count) : end]
