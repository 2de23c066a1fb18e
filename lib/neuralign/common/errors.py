"""The error for input that the library cannot use, and helpers that quote names and texts from files in messages."""

NAMES_SHOWN = 4  # in one message


class UserError(ValueError):
    """Input that cannot be used. The message says what was found and what is allowed, and needs no traceback."""


def join_names(names: list[str]) -> str:
    """The first NAMES_SHOWN names, separated by commas, and how many more there are. Escapes unprintable characters."""
    shown = (n if n.isprintable() and len(n) < 80 else f"{ascii(n)[:80]}..." for n in names[:NAMES_SHOWN])
    return ", ".join(shown) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def first_line(text: str) -> str:
    """The first line of the text of another program's error, at most 120 characters. Escapes unprintable ones."""
    line = text.partition("\n")[0][:120]
    return line if line.isprintable() else line.encode("unicode_escape").decode()
