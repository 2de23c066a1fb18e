"""`neuralign restore`: the published results of a study, checked and put where the workflow looks for them."""

import argparse
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.workflow.provenance.bundle import restore
from neuralign.workflow.running.run_lock import exclusive

EXAMPLES = ["neuralign restore results/published/cifar10"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("bundle", type=Path, metavar="FOLDER", help="a folder that `neuralign publish` made")
    shared.add_results(parser)
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Check the bundle and copy those of its results that the config asks for."""
    catalogue = shared.load_catalogue(arguments)
    is_of_workflow = arguments.results.name == "results"  # no run is at work in any other folder
    with exclusive(arguments.results.parent) if is_of_workflow else nullcontext():
        outcome = restore(catalogue, arguments.bundle, arguments.results)
    lines = [f"{arguments.results}: {len(outcome.copied)} results restored, {len(outcome.kept)} were there already"]
    if outcome.as_older:
        lines.append(
            f"made by older code or versions: {len(outcome.as_older)} of them. Their settings are those of the config, "
            "so they stand for results of the present code, and their notes say so; to compute them anew, delete them"
        )
    reasons = Counter(outcome.left_out.values())
    lines += [f"left out: {count} results: {reason}" for reason, count in reasons.most_common()]
    return 0, outcome._asdict(), "\n".join(lines)
