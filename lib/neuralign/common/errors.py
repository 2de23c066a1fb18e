"""What a user gave and the library cannot use, and how messages show names and texts of files."""

SHOWN = 4  # names in a message


class UserError(ValueError):
    """Names what was found and what is allowed, in a message that needs no traceback."""


def some(names: list[str]) -> str:
    """The first of the names as a message may have them, and how many more there are."""
    shown = (n if n.isprintable() and len(n) < 80 else f"{ascii(n)[:80]}..." for n in names[:SHOWN])
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def first_line(text: str) -> str:
    """The first line of an error's text, as a message may have it."""
    line = text.partition("\n")[0][:120]
    return line if line.isprintable() else line.encode("unicode_escape").decode()
