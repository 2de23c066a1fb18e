"""The command line: `commands/` has one file per command, with EXAMPLES, `add_arguments(parser)` and `run(arguments)`.

`run` returns (exit status, facts for --json, text to print). Only the file of the command in use is imported, and it
imports torch only when the command runs. Exit status:

* 0: the command succeeded; for `explain`, `align`, `merge` and `verify` also: the check passed;
* 1: the check did not pass, or a job failed;
* 2: wrong arguments or input; standard error says why, in one line.
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

COMMANDS = {  # name of the command, and of its file in commands/ -> its purpose
    "init": "make a folder for studies of your own: a commented config, profiles and a Snakefile",
    "run": "run a study by Snakemake in this folder, and print its main table",
    "explain": "say in words which neurons of a network may be permuted, which are frozen and why; with a certificate",
    "align": "align the neurons of checkpoint B to those of checkpoint A",
    "connect": "learn and measure low-loss curves between checkpoints, aligned and unaligned",
    "export": "write one network of a trained curve as an ordinary checkpoint: its best point, its mean, or any other",
    "merge": "make one checkpoint out of several, aligned and repaired, and say whether it is worth having",
    "compare": "say whether two checkpoints are the same up to a permutation, and which share of the neurons match",
    "apply": "apply a permutation of `align` to other tensors with the network's names, such as masks or task vectors",
    "doctor": "permute a network at random and add noise, and measure how much of the permutation alignment recovers",
    "plan": "estimate the jobs, hours, disk and memory that a study takes, without running it",
    "verify": "check that every result agrees with its provenance note, and with its inputs, the config and the code",
    "trace": "write the permutation symmetry of a network as data for other programs, JSON or CSV; not certified",
    "publish": "copy the finished results of a study, with their provenance notes, to a folder that can be published",
    "restore": "put the published results of a study where the workflow looks for them, after checking all of them",
    "show": "print the main table of a finished study, and where its report is",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Print the version. It is read only now, because a copy of lib/ alone has no version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"neuralign {neuralign.__version__}")
        parser.exit()


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """A parser that knows the names of all commands, and the arguments of `command` only."""
    top = _Parser(
        prog="neuralign",
        description="Permutation symmetry of networks, neuron alignment and mode connectivity.",
        epilog="NETWORK is `package.module:name`, `folder/file.py:name` or a network of the config.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            module = _import_command(name)
            module.add_arguments(subparser)
            subparser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
            subparser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
            subparser.add_argument("--verbose", action="store_true", help="report progress on standard error")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv[0] if argv else None).parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("neuralign").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        status, facts, text = _import_command(arguments.command).run(arguments)
    except (UserError, OSError) as error:
        print(f"neuralign {arguments.command}: error: {_on_one_line(error)}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(facts) if arguments.json else text, flush=True)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does; no error at exit for it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(status)


def _import_command(command: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"neuralign.cli.commands.{command}")


def _on_one_line(error: Exception) -> str:
    """The message of an error with its lines joined; the name of its class if it has no message."""
    first, *rest = (part.strip() for part in (str(error) or type(error).__name__).splitlines())
    return f"{first} {'; '.join(rest)}" if first.endswith(":") else "; ".join([first, *rest])
