"""Checks of the config that no type of one value can make: names, and values that must fit each other. Torch-free."""

import re
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names become folders of results
END = re.compile(r"0|[1-9][0-9]*|[A-Za-z][A-Za-z0-9_.]*")  # of a pair, written 1-2 or mine_a-mine_b
LONGEST = 64  # letters; a file name may have 255, and some file systems a path of 1,000
PARTS = (".layers", ".marks")  # what the second output of a job has between its name and .csv
INCOMPLETE = "_incomplete"  # what the name of a study has at its end while some of it is missing

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100
_short.maxlist = _short.maxdict = 6


def shown(value: Any) -> str:
    """The value as a message may have it, cut where it is long."""
    return _short.repr(value)


def printable(name: Any) -> str:
    """The name as part of a path of keys, on one line."""
    text = str(name)[:80]
    return text if text.isprintable() else repr(text)


def name_problem(section: str, name: Any, names: Collection[Any], rules: Collection[str]) -> str | None:
    """Why an entry of a section cannot be called so, beside the other names of the section and those of rules."""
    if not isinstance(name, str):
        return f"the name is no text; YAML reads no, off, 010 and 1.0 as something else, so quote it: '{name}'"
    if not NAME.fullmatch(name):
        return "a name has letters, digits, '_', '-' and '.', and starts with a letter or digit"
    if len(name) > LONGEST:
        return f"a name has at most {LONGEST} letters, found {len(name)}"
    if section == "checkpoints" and (name.isdecimal() or not END.fullmatch(name)):
        return "a checkpoint's name has letters, digits, '_' and '.', and starts with a letter: pairs are a-b"
    if section == "studies" and name in rules:
        return "the workflow has a rule of this name; a study needs another"
    if section == "studies" and name.endswith(INCOMPLETE):
        return f"the workflow keeps names that end in {INCOMPLETE!r}; a study needs another"
    if section == "methods" and name == "endpoints":
        return "the tables have rows of this name for the networks themselves; a method needs another"
    if clash := [other for other in names for part in PARTS if isinstance(other, str) and name == f"{other}{part}"]:
        return f"{clash[0]!r} and {name!r} would write the same files; one of them needs another name"
    return None


def attack_problem(entry: Mapping[str, Any]) -> str | None:
    """Steps may be longer than eps (1.25 eps is usual for a single one), but 2 eps lead from any point to a corner."""
    eps, step = entry.get("eps"), entry.get("step")
    if eps is None or step is None or step <= 2 * eps:
        return None
    return f"found step {step:g} and eps {eps:g}: a step of more than twice eps leaves the ball from anywhere in it"


def normalisation_problem(mean: list[float] | None, std: list[float] | None) -> str | None:
    """Mean and deviation are of the same channels."""
    if (mean is None) == (std is None) and (mean is None or std is None or len(mean) == len(std) > 0):
        return None
    found = " and ".join("none" if values is None else f"{len(values)}" for values in (mean, std))
    return f"`mean` and `std` go together, one number for each channel, found {found}"


def full_passes_problem(entry: Mapping[str, Any]) -> str | None:
    """Of an evaluation or a plane: full passes correct those over `images`, at points there are."""
    found = entry["full_passes"]
    if found is not None and entry["images"] is None:
        return f"found {found}: needs `images`; without it every point is a full pass"
    if found is not None and found > entry["points"]:
        return f"found {found}: must be at most points, {entry['points']}"
    return None


def pair_problem(pair: str) -> str | None:
    """Why this is no pair of networks: seeds, or names of checkpoints."""
    ends = pair.split("-")
    if len(ends) != 2 or ends[0] == ends[1] or not all(map(END.fullmatch, ends)):
        return f"found {shown(pair)}: a pair is two different seeds or checkpoints, such as 1-2 or mine_a-mine_b"
    if any(end.isdecimal() and int(end) >= 2**31 for end in ends):
        return f"found {shown(pair)}: a seed is less than {2**31}"
    return None


def turned(pair: str) -> str:
    """The pair the other way round: the same two networks."""
    return "-".join(reversed(pair.split("-")))


def same_networks(pairs: list[str]) -> str | None:
    """Two spellings of one pair, whose paths would count as independent."""
    for i, pair in enumerate(pairs):
        if (other := turned(pair)) in pairs[:i]:
            return f"{other} and {pair} are the same two networks"
    return None
