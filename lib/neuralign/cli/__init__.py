"""The command line: one file per command, with `HELP`, `EXAMPLES`, `arguments(parser)` and `run(arguments) -> status`.

A command imports torch only once it runs. 0: done, and what was asked for holds; 1: it ran, but that does not hold or a
job failed; 2: it cannot be used like that, said in one line.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from neuralign.cli import align, connect, doctor, explain
from neuralign.common.errors import Refused
from neuralign.datasets.dataset import DataError

COMMANDS = {"explain": explain, "align": align, "connect": connect, "doctor": doctor}


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    whole = argparse.ArgumentParser(
        prog="neuralign",
        description="Permutation symmetry of networks, neuron alignment and mode connectivity.",
        epilog="NETWORK is `package.module:name`, `folder/file.py:name` or a network of the config.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in command.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(one)
        one.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        one.add_argument("--verbose", action="store_true", help="say on standard error what is being done")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("neuralign").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        status, facts, text = COMMANDS[arguments.command].run(arguments)
    except (Refused, DataError, OSError) as error:
        print(f"neuralign {arguments.command}: error: {_line(error)}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(facts) if arguments.json else text, flush=True)
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _line(error: Exception) -> str:
    first, *rest = (part.strip() for part in str(error).splitlines())
    return f"{first} {'; '.join(rest)}" if first.endswith(":") else "; ".join([first, *rest])
