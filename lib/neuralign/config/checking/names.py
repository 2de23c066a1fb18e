"""How entries of the config and pairs of networks may be called."""

import re
from collections.abc import Collection
from typing import Any

from neuralign.config.problems import shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names become folders of results
END = re.compile(r"0|[1-9][0-9]*|[A-Za-z][A-Za-z0-9_.]*")  # one network of a pair: a seed or a checkpoint
LONGEST = 64  # letters; a file name may have 255, and some file systems allow 1,000 for a path
SECOND_OUTPUTS = (".layers", ".marks")  # what follows the name of an entry in the second output of a job
INCOMPLETE = "_incomplete"  # what follows the name of a study while some of its results are missing


def name_problem(section: str, name: Any, names: Collection[Any], rules: Collection[str]) -> str | None:
    """Why an entry cannot have this name, if so. `names`: all of its section; `rules`: those of the workflow."""
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
    for other in names:
        if name in [f"{other}{part}" for part in SECOND_OUTPUTS]:
            return f"{other!r} and {name!r} would write the same files; one of them needs another name"
    return None


def pair_problem(pair: str) -> str | None:
    """Why this is no pair of networks, if so: two different seeds or checkpoints, written 1-2 or mine_a-mine_b."""
    ends = pair.split("-")
    if len(ends) != 2 or ends[0] == ends[1] or not all(map(END.fullmatch, ends)):
        return f"found {shown(pair)}: a pair is two different seeds or checkpoints, such as 1-2 or mine_a-mine_b"
    if any(end.isdecimal() and int(end) >= 2**31 for end in ends):
        return f"found {shown(pair)}: a seed is less than {2**31}"
    return None


def reversed_pair(pair: str) -> str:
    """The same two networks in the other order."""
    return "-".join(reversed(pair.split("-")))
