"""The text of the help: headings and two columns, in colour on a terminal only, and without frames, for grep."""

import shutil
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

WIDEST_NAME = 30  # columns; the text of an option with a longer name begins on the line below it
MARGIN = 4  # columns before the texts, where all names are longer
WIDEST_TEXT = 120  # columns: longer lines are hard to read
TEXTS = {  # of options that click and typer add
    "help": "show this help",
    "install_completion": "let this shell complete commands, options and names of the config",
    "show_completion": "print what --install-completion would install",
}
HEADING, NAME = "bold yellow", "cyan"


def write_help(command: Any, ctx: Any) -> str:
    """The help of a command of click, or of the group of all commands, as wide as the terminal (80 columns in a pipe).

    Colours are left out where standard output is no terminal, or NO_COLOR is set.
    """
    console = Console(highlight=False, width=min(shutil.get_terminal_size().columns, WIDEST_TEXT))
    with console.capture() as capture:
        _print_text(console, Text.assemble(("Usage: ", HEADING), f"{ctx.command_path} {_usage(command, ctx)}"))
        for paragraph in command.help.split("\n\n"):
            console.print()
            _print_text(console, _styled(" ".join(paragraph.split())))
        for title, rows in _sections(command, ctx):
            console.print(Text(f"\n{title}", HEADING))
            widest = min(WIDEST_NAME, console.width // 2 - 4)
            width = max((len(name) for name, _ in rows if len(name) <= widest), default=MARGIN)
            for name, text in rows:
                _print_row(console, name, text, width)
        if command.epilog:
            console.print(Text("\nExamples", HEADING))
            for line in command.epilog.splitlines():
                example, sign, remark = line.partition("#")
                console.print(Text.assemble("  ", example, (sign + remark, "dim")), soft_wrap=True)  # to be copied
    return capture.get()


def _sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, its rows of name and text): arguments, commands and options by their panels, those without one last."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    for subcommand in getattr(command, "commands", {}).values():
        sections.setdefault(subcommand.rich_help_panel, []).append((subcommand.name, subcommand.help))
    others = []
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument":
            sections["Arguments"].append((parameter.metavar, parameter.help))
        elif panel := parameter.rich_help_panel:
            sections.setdefault(panel, []).append(_option_row(parameter))
        else:
            others.append(_option_row(parameter))
    yield from ((title, rows) for title, rows in {**sections, "Options": others}.items() if rows)


def _option_row(option: Any) -> tuple[str, str]:
    """(names and metavar, the text with the default) of an option."""
    names = ", ".join(sorted(option.opts, key=len))
    default = option.default if not isinstance(option.default, list) else " ".join(map(str, option.default))
    has_default = default is not None and default is not False and default != "" and "(default" not in option.help
    shown = f" (default: {default})" if has_default else ""
    required = " (required)" if option.required else ""
    text = TEXTS.get(option.name, option.help)
    return f"{names} {'' if option.is_flag else option.metavar}".strip(), f"{text}{shown}{required}"


def _usage(command: Any, ctx: Any) -> str:
    """The arguments of a command, as on the command line: optional ones in brackets, "..." after repeated ones."""
    if hasattr(command, "commands"):
        return "COMMAND ..."
    pieces = ["[OPTIONS]"]
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument":
            name = f"{parameter.metavar}{'...' if parameter.nargs == -1 else ''}"
            pieces.append(name if parameter.required else f"[{name}]")
        elif parameter.required:
            pieces.append(f"{max(parameter.opts, key=len)} {parameter.metavar}")
    return " ".join(pieces)


def _print_text(console: Console, text: Text) -> None:
    """A paragraph."""
    for line in _wrapped(console, text, console.width):
        console.print(line)


def _print_row(console: Console, name: str, text: str, width: int) -> None:
    """The name in a column of this width, and the text beside it, or below a longer name."""
    first, *rest = _wrapped(console, _styled(text), console.width - width - 4)
    name = name.ljust(width)
    beside = len(name) == width
    console.print(Text.assemble("  ", (name, NAME), *(("  ", first) if beside else ())))
    for line in rest if beside else [first, *rest]:
        console.print(Text.assemble(" " * (width + 4), line))


def _wrapped(console: Console, text: Text, width: int) -> list[Text]:
    """The lines of a text, without blanks at their ends."""
    lines = list(text.wrap(console, width))
    for line in lines:
        line.rstrip()
    return lines


def _styled(text: str) -> Text:
    """Text whose code in backticks is in colour."""
    styled = Text(text)
    styled.highlight_regex(r"`[^`]+`", NAME)
    return styled
