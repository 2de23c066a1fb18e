"""The rules for names of entries of the config, and for pairs of networks."""

import re
from collections.abc import Collection
from typing import Any

from neuralign.config.problems import short_repr

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # allowed in names of folders, which names become
END = re.compile(r"0|[1-9][0-9]*|[A-Za-z][A-Za-z0-9_.]*")  # one network of a pair: a seed or a checkpoint
LONGEST = 64  # characters; file names may have 255, and some file systems allow 1,000 for a path of several names
# follows the name of an entry in the file name of a job's second output
SECOND_OUTPUTS = (".barrier", ".layers", ".marks")
MERGES = ("first", "second", "ends", "ensemble", "mean")  # networks that the tables of merges have without any repair
INCOMPLETE = "_incomplete"  # follows the name of a study in a report made while some of its results are missing


def name_problem(section: str, name: Any, names: Collection[Any], rules: Collection[str]) -> str | None:
    """Why an entry cannot have this name; None if it can.

    `names`: all names of its section; `rules`: names of the rules of the workflow.
    """
    if not isinstance(name, str):
        return f"the name is not a text; YAML reads no, off, 010 and 1.0 as other types, so quote it: '{name}'"
    if not NAME.fullmatch(name):
        return "a name has letters, digits, '_', '-' and '.', and starts with a letter or digit"
    if len(name) > LONGEST:
        return f"a name has at most {LONGEST} characters, found {len(name)}"
    if section == "checkpoints" and (name.isdecimal() or not END.fullmatch(name)):
        return "a checkpoint's name has letters, digits, '_' and '.', and starts with a letter, as pairs are a-b"
    if section == "studies" and name in rules:
        return "the workflow has a rule of this name; a study needs another"
    if section == "studies" and name.endswith(INCOMPLETE):
        return f"names that end in {INCOMPLETE!r} are reserved by the workflow; a study needs another"
    if section == "methods" and name == "endpoints":
        return "the tables have rows of this name for the networks themselves; a method needs another"
    if section == "repairs" and name in MERGES:
        return "the tables have a network of this name without any repair; a repair needs another"
    for other in names:
        if name in [f"{other}{part}" for part in SECOND_OUTPUTS]:
            return f"{other!r} and {name!r} would write the same files; one of them needs another name"
    return None


def pair_problem(pair: str) -> str | None:
    """Why this is no pair of networks (two different seeds or checkpoints, written 1-2 or a-b); None if it is one."""
    ends = pair.split("-")
    if len(ends) != 2 or ends[0] == ends[1] or not all(map(END.fullmatch, ends)):
        return f"found {short_repr(pair)}: a pair is two different seeds or checkpoints, such as 1-2 or mine_a-mine_b"
    return _seed_problem(pair, ends)


def members_problem(members: str) -> str | None:
    """Why these are no networks to merge (two or more different seeds or checkpoints, 1-2-3); None if they are."""
    ends = members.split("-")
    if len(ends) < 2 or len(set(ends)) < len(ends) or not all(map(END.fullmatch, ends)):
        return f"found {short_repr(members)}: members are two or more different seeds or checkpoints, such as 1-2-3-4"
    return _seed_problem(members, ends)


def _seed_problem(found: str, ends: list[str]) -> str | None:
    if any(end.isdecimal() and int(end) >= 2**31 for end in ends):
        return f"found {short_repr(found)}: a seed is less than {2**31}"
    return None


def reversed_pair(pair: str) -> str:
    """The same two networks in the other order."""
    return "-".join(reversed(pair.split("-")))
