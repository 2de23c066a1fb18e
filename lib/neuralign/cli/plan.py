"""`neuralign plan`: what a study will cost, rule by rule, before anything starts."""

import argparse
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.planning.costs import table
from neuralign.workflow.planning.plan import Plan

EXAMPLES = [
    "neuralign plan paper",
    "neuralign plan paper --calibrate   # first times a few steps of every network: under a minute",
]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("study", metavar="STUDY", nargs="?", help="a study of the config (default: the default one)")
    parser.add_argument(
        "--calibrate", action="store_true", help="first time a few steps of every network on this machine"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where finished jobs are (default: %(default)s)"
    )
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Count the jobs of the study and what they take."""
    catalogue = Catalogue(shared.config(arguments))
    study = arguments.study or catalogue.default_study
    if study not in catalogue.studies:
        raise shared.UsageError(f"no study {study!r} in the config (allowed: {', '.join(catalogue.studies)})")
    plan = Plan(catalogue, study, arguments.results)
    if arguments.calibrate:
        plan.calibrate()
    rows = list(plan.rows())
    devices = sorted({str(note.get("device")) for note in plan.notes.values()})
    calibration = plan.calibration.get("device")
    lines = [
        table(rows),
        "",
        f"finished jobs ran on: {', '.join(devices) or 'none'}; calibration: {calibration or 'none'}",
        "hours: of one job at a time. disk: data (not the downloaded archives), networks, curves.",
        "peak memory: an estimate from above, on the device.",
    ]
    if any(None in (row["hours"], row["disk"]) for row in rows):
        lines.append("?: no such job is done and the network is not calibrated; add --calibrate")
    return 0, {"study": study, "rows": rows, "devices": devices, "calibration": calibration}, "\n".join(lines)
