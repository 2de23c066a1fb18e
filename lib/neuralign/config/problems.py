"""The problems of a config as messages: path of the key, what was found, what is allowed. Imports no pydantic."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from neuralign.common.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlist = _SHORT.maxdict = 6


class ConfigError(UserError):
    """All problems of a config."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["the config is refused:", *(f"  {p}" for p in self.problems)]))


class Problems:
    """A list of different messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __len__(self) -> int:
        return len(self.messages)

    def note(self, path: str, text: str | None) -> None:
        """Add the message "path: text", unless the list has it already or `text` is None."""
        if text is not None and (message := f"{path}: {text}") not in self.messages:
            self.messages.append(message)

    def note_not_allowed(self, path: str, problem: str, value: Any, allowed: Iterable[str]) -> None:
        """Add the message "path: problem value; did you mean ...? (allowed: ...)"."""
        names = list(allowed)
        hint = did_you_mean(value, names)
        self.note(path, f"{problem} {short_repr(value)}{hint} (allowed: {', '.join(names) or 'none'})")


def did_you_mean(name: Any, allowed: Iterable[str]) -> str:
    """The words "; did you mean 'x'?", where x is the most similar of the allowed names; "" if none is similar."""
    similar = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def short_repr(value: Any) -> str:
    """The repr of a value, shortened if it is long, for messages."""
    return _SHORT.repr(value)


def printable(name: Any) -> str:
    """A name as part of the path of a key, on one line."""
    text = str(name)[:80]
    return text if text.isprintable() else repr(text)
