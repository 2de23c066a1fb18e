"""Fair comparisons on a busy machine: actions in alternation, several rounds, the median of the rounds' ratios."""

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch

Row = dict[str, Any]
Action = Callable[[], Any]

listeners: list[Callable[[Row], Any]] = []  # called with every row as soon as it is measured


def interleaved(*actions: Action, repeats: int, device: str = "cpu", warm_up: int = 1) -> list[list[float]]:
    """Wall seconds of each action in each of `repeats` rounds, after `warm_up` rounds that do not count.

    One round runs every action once, every other round in reverse order, so that a change of the machine's speed
    affects all alike.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for i in range(-warm_up, repeats):
        numbered = list(enumerate(actions))
        for k, action in numbered if i % 2 == 0 else reversed(numbered):
            elapsed = seconds_of(action, device)
            if i >= 0:
                seconds[k].append(elapsed)
    return seconds


def seconds_of(action: Action, device: str = "cpu") -> float:
    """Wall seconds of one call, until the device has finished it."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def row(what: str, *, baseline: Sequence[float], ours: Sequence[float], target: str = "", note: str = "") -> Row:
    """A comparison of the seconds of `ours` with those of `baseline` in the same rounds.

    `target` is "<= x" for a cost, whose ratio is ours / baseline; ">= x" for a speed-up, whose ratio is baseline /
    ours; "" for a cost without a target, where `met` is None. The ratio is the median over the rounds of each round's
    ratio, its spread the quartiles of these. Seconds are medians.
    """
    return _announce(_compared(what, baseline, ours, target, note))


def _compared(what: str, baseline: Sequence[float], ours: Sequence[float], target: str, note: str) -> Row:
    pairs = list(zip(baseline, ours, strict=True))
    speed_up = target.startswith(">=")
    ratios = [b / o if speed_up else o / b for b, o in pairs]
    return {
        "what": what,
        "baseline_seconds": median(baseline),
        "ours_seconds": median(ours),
        "ratio": median(ratios),
        "target": target,
        "met": met(median(ratios), target),
        "n": len(pairs),
        "spread": spread(ratios),
        "note": note,
    }


def limit(what: str, *, ours: Sequence[float], target: str, note: str = "") -> Row:
    """Seconds against an absolute limit, "<= x" seconds; the ratio is seconds / x."""
    bound = float(target.split()[1])
    facts = _compared(what, [bound] * len(ours), ours, "", note)
    return _announce(facts | {"baseline_seconds": None, "target": target, "met": met(median(ours), target)})


def count(what: str, number: float, *, target: str, note: str = "") -> Row:
    """A count, in the column of the ratio, against an absolute limit."""
    facts = {"ratio": number, "target": target, "met": met(number, target), "n": 1, "spread": (number, number)}
    return _announce({"what": what, "baseline_seconds": None, "ours_seconds": None, **facts, "note": note})


def _announce(row: Row) -> Row:
    """Call all listeners with the row, and return it."""
    for listener in listeners:
        listener(row)
    return row


def met(value: float, target: str) -> bool | None:
    """Whether `value` is within "<= x" or ">= x"; None without a target."""
    if not target:
        return None
    sign, bound = target.split()
    if sign not in ("<=", ">="):
        raise ValueError(f"target: found {target!r}, allowed are '<= x' and '>= x'")
    return value <= float(bound) if sign == "<=" else value >= float(bound)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The lower and upper quartile; for fewer than four values, the smallest and the largest."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
