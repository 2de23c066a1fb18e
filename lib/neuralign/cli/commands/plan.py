"""`neuralign plan`: an estimate of the jobs, hours, disk and memory of a study, rule by rule, before it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import load_study
from neuralign.cli.interface.options import ConfigFiles, Results, StudyOrDefault
from neuralign.workflow.planning.costs import table
from neuralign.workflow.planning.plan import Plan
from neuralign.workflow.running.gpus import lease

DESCRIPTION = "Estimate the jobs, hours, disk and memory that a study takes, without running it."
EXAMPLES = [
    "neuralign plan paper",
    "neuralign plan paper --calibrate   # times a few steps of every network before: under a minute",
]


def run(
    study: StudyOrDefault = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="before the estimate, time a few training steps of every network")
    ] = False,
    results: Results = Path("results"),
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Estimate the cost of the jobs of the study that are not finished."""
    catalogue, study = load_study(study, configfile)
    plan = Plan(catalogue, study, results)
    if calibrate:
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
