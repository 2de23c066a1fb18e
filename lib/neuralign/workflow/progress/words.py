"""Durations and rules in words."""

UNITS = (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3600), ("min", 60))


def duration(seconds: float) -> str:
    """A time span in one unit, of which there are at least two: 45 s, 12 min, 3.5 hours, 90 days."""
    for unit, length in UNITS:
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:,.1f} {unit}" if unit in ("hours", "years") and count < 10 else f"{count:,.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """A time span as on a stopwatch: 0:07, 12:40, 3:05:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def stage(rule: str) -> str:
    """A rule as words: train_curve -> train curve."""
    return rule.replace("_", " ")


def count(number: int, noun: str) -> str:
    """1 job, 2 jobs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
