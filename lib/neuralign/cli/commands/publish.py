"""`neuralign publish`: the finished results of a study in a folder of their own, for others to restore."""

import argparse
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.workflow.provenance.bundle import publish

EXAMPLES = [
    "neuralign publish cifar10                # to results/published/cifar10",
    "neuralign publish cifar10 --unfinished   # what is finished so far",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = parser.add_argument
    add("study", metavar="STUDY", help="a study of the config")
    where = "the folder, which is replaced if it is there (default: results/published/STUDY)"
    add("--to", type=Path, metavar="FOLDER", help=where)
    add("--unfinished", action="store_true", help="also if some jobs of the study are not finished")
    shared.add_results(parser)
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Check the results of the study and copy them."""
    catalogue, study = shared.load_catalogue(arguments), arguments.study
    shared.check_study(catalogue, study)
    bundle = arguments.to or Path("results", "published", study)
    published, missing = publish(catalogue, study, arguments.results, bundle, unfinished=arguments.unfinished)
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    lines = [f"{bundle}: {len(published)} results, {size / 1e6:.1f} MB with their notes"]
    if missing:
        lines.append(f"not finished, so not in it: {len(missing)} jobs, such as {missing[0]}")
    facts = {"bundle": str(bundle), "bytes": size, "published": published, "missing": missing}
    return 0, facts, "\n".join(lines)
