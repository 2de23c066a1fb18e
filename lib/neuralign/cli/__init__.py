"""The command line: one file per command, with `EXAMPLES`, `arguments(parser)` and `run(arguments)`.

`run` returns (exit status, facts for --json, text to print). Only the file of the command that is asked for is
imported, and that imports torch only once the command runs. Exit status 0: done, and what was asked for holds; 1: it
ran, but that does not hold or a job failed; 2: it cannot be used like that, said in one line.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

import neuralign
from neuralign.common.errors import UserError

COMMANDS = {  # name, which is also that of its file: what it does
    "explain": "say in words which neurons of a network may be permuted, what is frozen and why; with a certificate",
    "align": "align the neurons of checkpoint B to those of checkpoint A",
    "connect": "learn and measure low-loss curves between checkpoints, aligned and unaligned",
    "doctor": "plant hidden permutations and noise in a network, and measure what is recovered",
    "plan": "count the jobs, hours, disk and memory that a study will take; nothing of it is run",
    "verify": "check that every result is what its note of origin says, and made from what is here",
    "trace": "write the permutation symmetry of a network as data for other programs, JSON or CSV; not certified",
    "show": "print the main table of a finished study, and where its report is",
}


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Print the version, which is read only then: a copy of lib/ alone has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"neuralign {neuralign.__version__}")
        parser.exit()


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The names of all commands, and the arguments of one of them."""
    top = _Parser(
        prog="neuralign",
        description="Permutation symmetry of networks, neuron alignment and mode connectivity.",
        epilog="NETWORK is `package.module:name`, `folder/file.py:name` or a network of the config.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            module = _module(name)
            module.arguments(one)
            one.epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
            one.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
            one.add_argument("--verbose", action="store_true", help="say on standard error what is being done")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv[0] if argv else None).parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("neuralign").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        status, facts, text = _module(arguments.command).run(arguments)
    except (UserError, OSError) as error:
        print(f"neuralign {arguments.command}: error: {_line(error)}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(facts) if arguments.json else text, flush=True)
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(status)


def _module(command: str) -> ModuleType:
    return import_module(f"neuralign.cli.{command}")


def _line(error: Exception) -> str:
    first, *rest = (part.strip() for part in str(error).splitlines())
    return f"{first} {'; '.join(rest)}" if first.endswith(":") else "; ".join([first, *rest])
