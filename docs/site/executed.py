"""A page of Markdown with what its blocks of Python print and draw, below each of them.

python docs/site/executed.py PAGE TARGET    # run in a folder that the blocks may write into

The blocks run in order, in one namespace. Figures of matplotlib that are open after a block are saved as PNG beside the
target. An error or a warning in a block ends the program.
"""

import io
import re
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

BLOCK = re.compile(r"(```python\n.*?^```\n)", re.DOTALL | re.MULTILINE)
OUTPUT = "```{{code-block}} text\n:class: output\n\n{}\n```\n"


def executed(text: str, page: str, target: Path) -> str:
    """The page `text`, named `page` in tracebacks, with its outputs; figures are written beside `target`."""
    names: dict[str, object] = {"__name__": "__main__"}
    parts: list[str] = []
    lines = figures = 0
    for part in BLOCK.split(text):
        parts.append(part)
        if part.startswith("```python\n"):
            code = part.removeprefix("```python\n").removesuffix("```\n")
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile("\n" * (lines + 1) + code, page, "exec"), names)  # tracebacks have the lines of the page
            if printed.getvalue():
                parts.append("\n" + OUTPUT.format(printed.getvalue().rstrip()))
            for image in _figures(target, figures):
                parts.append(f"\n![Drawn by the block above]({image})\n")
                figures += 1
        lines += part.count("\n")
    return "".join(parts)


def _figures(target: Path, count: int) -> list[str]:
    """The names of the files to which the open figures were saved; `count` are there already."""
    if "matplotlib" not in sys.modules:
        return []
    from matplotlib import pyplot

    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    files = [f"{target.stem}-{count + i + 1}.png" for i in range(len(figures))]
    for figure, file in zip(figures, files, strict=True):
        figure.savefig(target.with_name(file), dpi=150)
    pyplot.close("all")
    return files


def main(page: str, target: str) -> None:
    """The command line."""
    warnings.simplefilter("error")
    Path(target).write_text(executed(Path(page).read_text(encoding="utf-8"), page, Path(target)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
