"""The command line: `commands/` has one file per command, with DESCRIPTION, EXAMPLES and `run`, a function whose
parameters are the options.

`run` returns (exit status, facts for --json, text to print). Only the file of the command in use is imported, and it
imports torch only when the command runs. Exit status:

* 0: the command succeeded; for `explain`, `align`, `merge` and `verify` also: the check passed;
* 1: the check did not pass, or a job failed;
* 2: wrong arguments or input; standard error says why, in one line.
"""

import sys
from collections.abc import Sequence

GROUPS = {  # heading in the help -> {name of the command, and of its file in commands/: its purpose}
    "Studies": {
        "init": "make a folder for studies of your own",
        "plan": "estimate the jobs, hours, disk and memory of a study",
        "run": "run a study by Snakemake, and print its main table",
        "show": "print the main table of a finished study",
        "list": "list the studies, networks, methods and datasets of the config",
    },
    "Checkpoints": {
        "align": "permute the neurons of checkpoint B to match those of A",
        "connect": "learn and measure low-loss curves between checkpoints",
        "export": "write one network of a trained curve as a checkpoint",
        "merge": "make one checkpoint out of several, aligned and repaired",
        "compare": "say whether B is A with its neurons permuted",
        "apply": "apply a permutation to masks, task vectors and the like",
    },
    "Networks": {
        "explain": "say which neurons may be permuted, which may not, and why",
        "trace": "write the permutation symmetry as JSON or CSV",
        "doctor": "measure how much noise alignment survives on a network",
    },
    "Results": {
        "verify": "check results against their notes, the config and the code",
        "publish": "copy finished results to a folder that can be published",
        "restore": "put published results where the workflow looks for them",
    },
}
COMMANDS = {name: purpose for commands in GROUPS.values() for name, purpose in commands.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    from neuralign.cli.interface.application import application

    return application(GROUPS, sys.argv[1:] if argv is None else argv)
