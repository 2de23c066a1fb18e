"""The report of a failed job: the last lines of its log, and one JSON file with what is needed to find the cause.

The lines of the log name the command that runs this job alone, its log, its settings and that file.
"""

import json
import logging
import os
import platform
import resource
import shlex
import shutil
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from neuralign.common.files import atomic
from neuralign.workflow.running.environment import environment_of_jobs
from neuralign.workflow.running.notes import LIBRARIES, git, versions

log = logging.getLogger("neuralign")
FOLDER = Path("logs", "failures")
LINES = 50  # so many of the last lines of the log are copied into the report
# environment variables that are reported, with those that begin with PREFIX; the others may hold secrets
VARIABLES = {
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH"),
    *("LC_ALL", "LANG", "TMPDIR", "SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT"),
}
PREFIX = "NEURALIGN_"


def report(recipe: Path, gpus: int, error: BaseException) -> None:
    """Log the error, write the JSON file about it, and log the command of the job and the paths of all files."""
    message = error.code if isinstance(error, SystemExit) else None
    log.error("%s", message or "".join(traceback.format_exception(error)).rstrip())
    if _is_out_of_gpu_memory(error):
        slots, together = (os.environ.get(f"NEURALIGN_{name}", "1") for name in ("SLOTS_PER_GPU", "TOGETHER"))
        log.error(
            "the GPU has too little memory: lower NEURALIGN_SLOTS_PER_GPU (now %s), the number of jobs that share it, "
            "NEURALIGN_TOGETHER (now %s), the number of trainings in a job, or the batch_size",
            *(slots, together),
        )
    command, file = command_of(recipe, gpus), report_path(recipe)
    location = str(Path.cwd() / file)
    try:
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(facts(recipe, command, error), indent=1) + "\n")
    except OSError as refusal:
        location = f"not written: {refusal}"
    log.error("this job alone:  %s", command)
    log.error("its log:         %s", log_file() or "as above")
    log.error("its settings:    %s", Path.cwd() / recipe)
    log.error("its environment: %s", location)


def _is_out_of_gpu_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, says that a GPU has no memory left."""
    torch = sys.modules.get("torch")
    while torch and error and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return bool(torch and error)


def forget(recipe: Path) -> None:
    """Remove the report of an earlier attempt, after the job has succeeded."""
    report_path(recipe).unlink(missing_ok=True)


def report_path(recipe: Path) -> Path:
    """The path of the JSON file about a failed job: results/recipes/x/y.csv.json -> logs/failures/x/y.csv.json."""
    parts = recipe.parts
    below = parts[parts.index("recipes") + 1 :] if "recipes" in parts else parts[-1:]
    return FOLDER.joinpath(*below)


def command_of(recipe: Path, gpus: int) -> str:
    """A shell command that runs only this job, from any folder, with as many threads and GPUs and memory as now."""
    from neuralign.common.memory import BUDGET  # here, as not every job has it in its recipe

    environment = environment_of_jobs()
    environment += [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", BUDGET) if os.environ.get(name)]
    job = [*environment, sys.executable, "-P", sys.argv[0], str(recipe), "--gpu", str(gpus)]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(job)}"


def facts(recipe: Path, command: str, error: BaseException) -> dict[str, Any]:
    """The content of the JSON file: error, command, recipe, end of the log, versions, environment and hardware."""
    file = log_file()
    try:
        settings = json.loads(recipe.read_text())
    except (OSError, ValueError) as unreadable:
        settings = f"cannot be read: {unreadable}"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "error": "".join(traceback.format_exception(error)),
        "command": command,
        "recipe": settings,
        "log": str(file) if file else None,
        "log_tail": file.read_text(errors="replace").splitlines()[-LINES:] if file else [],
        "commit": git("rev-parse", "HEAD"),
        "changes": git("diff", "--stat", "HEAD"),
        "versions": versions([*LIBRARIES, "snakemake", "snakemake-executor-plugin-slurm"]),
        "platform": platform.platform(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k in VARIABLES or k.startswith(PREFIX)},
        "devices": _devices(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory(),
        "disk_free_bytes": {str(p): shutil.disk_usage(p).free for p in (Path("results"), Path.cwd()) if p.exists()},
    }


def log_file() -> Path | None:
    """The file that standard error is redirected to; None if it goes to a terminal or a pipe."""
    return next((Path(file.path) for file in psutil.Process().open_files() if file.fd == 2), None)


def _devices() -> list[dict[str, Any]]:
    """Name and memory in bytes of the visible GPUs; empty if torch is not imported, the error if CUDA has failed."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_available():
            return []
        devices = range(torch.cuda.device_count())
        free = [torch.cuda.mem_get_info(i) for i in devices]
        return [
            {"name": torch.cuda.get_device_name(i), "free_bytes": free[i][0], "total_bytes": free[i][1]}
            for i in devices
        ]
    except (RuntimeError, AttributeError) as error:
        return [{"error": str(error)}]


def _memory() -> dict[str, int]:
    """Bytes of memory: total and available on this machine, and the most that this process has used."""
    machine, unit = psutil.virtual_memory(), 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"total": machine.total, "available": machine.available, "peak_of_job": peak}
