"""What a shell asks for when its completion key is pressed, in the words that click understands.

bash makes words of `=` and `:` in a command line, and no shell knows that an option here may take several values.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

ASKED = "_NEURALIGN_COMPLETE"  # the protocol of typer: what is asked for, and the line in one of these
WORDS, CURRENT, LINE = "COMP_WORDS", "COMP_CWORD", "_TYPER_COMPLETE_ARGS"
Repeat = Callable[[list[str]], list[str]]


@contextmanager
def completing(repeat: Repeat) -> Iterator[None]:
    """Answer a shell in the block, if it is a shell that asks; else do nothing.

    `repeat`: writes an option of several values, in the words of a line, once for each of them.
    """
    shell = os.environ.get(ASKED, "").partition("complete_")[2]
    if shell != "bash":
        if shell:
            os.environ[LINE] = " ".join(repeat(os.environ.get(LINE, "").split(" ")))
        yield
        return
    line = os.environ[WORDS]
    words, prefix = _joined(line.split("\n" if "\n" in line else " ")[: int(os.environ[CURRENT]) + 1])
    words = repeat(words)
    os.environ[WORDS], os.environ[CURRENT] = "\n".join(words), str(len(words) - 1)
    with io.StringIO() as answer:
        try:
            with redirect_stdout(answer):
                yield
        finally:
            lines = answer.getvalue().splitlines()
            print(*(line.removeprefix(prefix) for line in lines), sep="\n", end="\n" if lines else "")


def _joined(words: list[str]) -> tuple[list[str], str]:
    """(words up to the one that is completed, as they were typed, and what of the last bash does not want back).

    `--data = x` becomes `--data x`, and `nets.py : Ne` becomes `nets.py:Ne`, of which bash replaces only `Ne`.
    """
    joined: list[str] = []
    prefix = ""
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if word == "=" and before.startswith("--"):
            if i == len(words) - 1:
                joined.append("")
        elif joined and (word in ("=", ":") or (before in ("=", ":") and not joined[-1].startswith("--"))):
            prefix = joined[-1] if word not in ("=", ":") else joined[-1] + word
            joined[-1] += word
        else:
            prefix = ""
            joined.append(word)
    return joined, prefix
