"""The command `neuralign` as an application of typer: finds the command, reads its options, prints what it returns.

This is all that the commands share: each option of the groups in `options`, --json and --verbose, lists of values after
one option, errors of one line, and the help.
"""

import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import neuralign
from neuralign.cli.interface.help import write_help
from neuralign.cli.interface.options import Json, Verbose
from neuralign.cli.interface.progress import StandardError, bars
from neuralign.cli.interface.shells import completing
from neuralign.common.errors import UserError
from neuralign.config.problems import did_you_mean

PROGRAM = "neuralign"
Groups = Mapping[str, Mapping[str, str]]  # heading in the help -> {name of a command: its purpose}
DESCRIPTION = """Permutation symmetry of networks, neuron alignment and mode connectivity.

NETWORK is `package.module:name`, `folder/file.py:name`, a name of a hub such as `timm/<model>`, or a network of the
config."""


class Command(TyperCommand):
    """A command whose options may take several values, and which names everything that is missing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, after a look at all arguments at once."""
        if not ctx.resilient_parsing:
            _check_values(self, ctx, args)
        args = _repeat_options(self, args)
        try:
            given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        except typer.TyperException as error:
            error.ctx = ctx  # type: ignore[attr-defined]  # click leaves it out where a value is missing
            raise
        if not ctx.resilient_parsing and not given.get("help"):
            if missing := [_name(p) for p in self.params if p.required and not given.get(p.name)]:
                ctx.fail(f"the following arguments are required: {', '.join(missing)}")
            if rest:
                ctx.fail(f"unrecognized arguments: {' '.join(rest)}")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, made for reading at any width and for grep."""
        formatter.write(write_help(self, ctx))


class Commands(TyperGroup):
    """All commands by name; the file of one is imported when it is used."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """The command that the first argument names, and the arguments after it."""
        name, *rest = args
        if name in self.commands:
            return name, load_command(name), rest
        if not ctx.resilient_parsing:
            ctx.fail(
                f"COMMAND: found {name!r}{did_you_mean(name, self.commands)} (allowed: {', '.join(self.commands)})"
            )
        return name, None, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands by their groups."""
        formatter.write(write_help(self, ctx))


def application(groups: Groups, arguments: Sequence[str]) -> int:
    """Run the command that the arguments name and return the exit status; without arguments, print the help."""
    commands = get_command(_commands(groups))
    assert isinstance(commands, TyperGroup)
    try:
        with completing(partial(_repeated_in_line, commands.commands)):
            status = commands(list(arguments) or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:  # arguments that the command does not take
        ctx = getattr(error, "ctx", None)
        program = ctx.command_path if ctx else PROGRAM
        _print_error(program, f"{_problem(error)} (see {program} --help)")
        return 2
    return int(status)


def load_command(name: str) -> TyperCommand:
    """A command with its options. Imports its file."""
    module = import_module(f"{PROGRAM}.cli.commands.{name}")
    app = typer.Typer(add_completion=False)
    declare = app.command(name, cls=Command, help=module.DESCRIPTION.strip(), epilog="\n".join(module.EXAMPLES))
    declare(_printing(name, module.run))
    command = get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _commands(groups: Groups) -> typer.Typer:
    """The application with the names and purposes of all commands, which the help and the completion list."""
    app = typer.Typer(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})

    @app.callback(help=DESCRIPTION)
    def options(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_print_version, help="print the version")
        ] = False,
    ) -> None: ...

    for group, commands in groups.items():
        for name, purpose in commands.items():
            app.command(name, help=purpose, rich_help_panel=group)(lambda: None)
    return app


def _print_version(wanted: bool) -> None:
    """Print the version. It is read only now, because a copy of lib/ alone has no version."""
    if wanted:
        print(f"{PROGRAM} {neuralign.__version__}")
        raise typer.Exit


def _printing(name: str, run: Callable[..., tuple[int, Any, str]]) -> Callable[..., int]:
    """`run` as a function that prints what it returns, and returns the exit status.

    Its parameters are those of `run`, with the fields of dataclasses in their place, and --json and --verbose.
    """

    def command(**values: Any) -> int:
        as_json, verbose = values.pop("as_json"), values["verbose"]
        if "verbose" not in inspect.signature(run).parameters:
            del values["verbose"]
        logging.basicConfig(format="%(message)s", handlers=[StandardError()])
        logging.getLogger(PROGRAM).setLevel(logging.INFO if verbose else logging.WARNING)
        try:
            # what code of the user prints, such as that of NETWORK, is none of the JSON
            with redirect_stdout(sys.stderr) if as_json else nullcontext(), bars() if not verbose else nullcontext():
                status, facts, text = run(**_grouped(run, values))
        except (UserError, OSError) as error:
            _print_error(f"{PROGRAM} {name}", _on_one_line(error))
            return 2
        try:
            print(json.dumps(facts) if as_json else text, flush=True)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again at exit
            if not isinstance(error, BrokenPipeError):  # the reader has closed the pipe, as `head` does: no error
                _print_error(f"{PROGRAM} {name}", f"standard output: {_on_one_line(error)}")
                return 2
        return int(status)

    options = [p for p in _flat_parameters(run) if p.name != "verbose"]
    shared = [_parameter("as_json", Json, False), _parameter("verbose", Verbose, False)]
    command.__signature__ = inspect.Signature([*options, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def _flat_parameters(run: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The parameters of a function, with the fields of a dataclass in place of a parameter that is one."""
    hints = get_type_hints(run, include_extras=True)
    for parameter in inspect.signature(run).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            types = get_type_hints(hint, include_extras=True)
            for field in fields(hint):
                yield _parameter(
                    field.name, types[field.name], parameter.empty if field.default is MISSING else field.default
                )
        else:
            yield _parameter(parameter.name, hint, parameter.default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _grouped(run: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a function: `values`, those of fields of a dataclass as one."""
    arguments = {}
    for name, hint in get_type_hints(run).items():
        if is_dataclass(hint) and isinstance(hint, type):
            arguments[name] = hint(**{field.name: values[field.name] for field in fields(hint)})
        elif name in values:
            arguments[name] = values[name]
    return arguments


def _repeat_options(command: TyperCommand, arguments: list[str]) -> list[str]:
    """`--noise 0 0.1` as `--noise 0 --noise 0.1`: click takes one value after each name of an option."""
    several = {name for p in command.params for name in p.opts if p.multiple and (p.metavar or "").endswith("...")}
    repeated: list[str] = []
    current = ""  # the option whose values go on
    for i, argument in enumerate(arguments):
        if argument == "--":
            return [*repeated, *arguments[i:]]
        if re.match(r"-(?![0-9.])", argument):
            current = argument if argument in several else ""
        elif current and repeated[-1] != current:
            repeated.append(current)
        repeated.append(argument)
    return repeated


def _repeated_in_line(commands: Container[str], words: list[str]) -> list[str]:
    """`_repeat_options` of the command that the words of a line begin with, after the name of the program."""
    if len(words) < 3 or words[1] not in commands:
        return words
    return [*words[:2], *_repeat_options(load_command(words[1]), words[2:])]


def _check_values(command: TyperCommand, ctx: Any, arguments: list[str]) -> None:
    """Refuse an option in the place of a value: click would take the second one of `--out --dry-run` for a folder."""
    options: dict[str, Any] = {name: p for p in command.get_params(ctx) for name in p.opts if name.startswith("-")}
    for name, value in pairwise(arguments):
        if name == "--":
            return
        if name in options and not options[name].is_flag and (value == "--" or value.partition("=")[0] in options):
            ctx.fail(f"{name}: a value is needed; found {value}")


def _problem(error: typer.TyperException) -> str:
    """What is wrong with the arguments, in the words of this program: option, what was found, what is allowed."""
    if isinstance(error, typer.BadParameter):
        return f"{_name(error.param)}: {error.message}" if error.param else error.message
    ctx, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if not ctx or not option:
        return error.format_message()
    options = {name: p for p in ctx.command.get_params(ctx) for name in p.opts if name.startswith("-")}
    if option in options:
        return f"{option}: {'takes no value' if options[option].is_flag else 'a value is needed'}"
    longer = [name for name in options if name.startswith(option)]  # this one is meant, however much is left out
    return f"no such option as {option}{did_you_mean(option, longer) or did_you_mean(option, options)}"


def _name(parameter: Any) -> str:
    """How the user knows a parameter: `-o/--output`, or NETWORK."""
    return "/".join(parameter.opts) if parameter.param_type_name == "option" else parameter.metavar


def _print_error(program: str, message: str) -> None:
    print(f"{program}: error: {message}", file=sys.stderr)


def _on_one_line(error: Exception) -> str:
    """The message of an error with its lines joined; the name of its class if it has no message."""
    first, *rest = (part.strip() for part in (str(error) or type(error).__name__).splitlines())
    return f"{first} {'; '.join(rest)}" if first.endswith(":") else "; ".join([first, *rest])
