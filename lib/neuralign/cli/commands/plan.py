"""`neuralign plan`: an estimate of the jobs, hours, disk and memory of a study, rule by rule, before it runs."""

import argparse
from typing import Any

from neuralign.cli import shared
from neuralign.workflow.planning.costs import table
from neuralign.workflow.planning.plan import Plan
from neuralign.workflow.running.gpus import lease

EXAMPLES = [
    "neuralign plan paper",
    "neuralign plan paper --calibrate   # times a few steps of every network before: under a minute",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("study", metavar="STUDY", nargs="?", help="a study of the config (default: its default_study)")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="before the estimate, time a few training steps of every network",
    )
    shared.add_results(parser)
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Estimate the cost of the jobs of the study that are not finished."""
    catalogue = shared.load_catalogue(arguments)
    study = arguments.study or catalogue.default_study
    shared.check_study(catalogue, study)
    plan = Plan(catalogue, study, arguments.results)
    if arguments.calibrate:
        with lease(1):
            plan.calibrate()
    rows = list(plan.rows())
    devices = sorted({str(note.get("device")) for note in plan.estimator.notes.values()})
    calibration = plan.estimator.calibration.get("device")
    lines = [
        table(rows),
        "",
        f"finished jobs ran on: {', '.join(devices) or 'none'}; calibration: {calibration or 'none'}",
        "hours: if one job runs at a time. disk: prepared data (without downloaded archives), networks, curves.",
        "peak memory: an upper estimate, of the device's memory.",
    ]
    if any(None in (row["hours"], row["disk"]) for row in rows):
        lines.append("?: unknown, because no such job is finished and the network is not calibrated; add --calibrate")
    return 0, {"study": study, "rows": rows, "devices": devices, "calibration": calibration}, "\n".join(lines)
