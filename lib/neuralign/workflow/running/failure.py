"""What a failed job leaves behind: the last lines of its log say how to run it alone and where to look, and one file
holds what someone else needs to find the cause.
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

from neuralign.common.files import PACKAGE, atomic
from neuralign.workflow.running.notes import LIBRARIES, git, versions

log = logging.getLogger("neuralign")
FOLDER = Path("logs", "failures")
LINES = 50  # of the log
# never the whole environment: it may hold secrets
VARIABLES = {
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONPATH"),
    *("LC_ALL", "LANG", "TMPDIR", "SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT"),
}
PREFIX = "NEURALIGN_"
# Every step of a training frees its activations and asks for as much again in the next. glibc gives large pieces back
# to the system, which has to clear them anew: 6 % of a TinyTen step, 20 % of an alignment of ResNet32
# (docs/measurements.md). So a job keeps what it frees, up to 2 GB and in pieces of up to 32 MB; other C libraries
# ignore this.
KEPT_MEMORY = (f"MALLOC_MMAP_THRESHOLD_={1 << 25}", f"MALLOC_TRIM_THRESHOLD_={(1 << 31) - 1}")


def report(recipe: Path, gpus: int, error: BaseException) -> None:
    """Log the error, write the file about it, and end the log with the command and where everything is."""
    told = error.code if isinstance(error, SystemExit) else None
    log.error("%s", told or "".join(traceback.format_exception(error)).rstrip())
    command, written = alone(recipe, gpus), path(recipe)
    try:
        with atomic(written) as temporary:
            temporary.write_text(json.dumps(bundle(recipe, command, error), indent=1) + "\n")
    except OSError as refused:
        written = Path(f"not written: {refused}")
    log.error("this job alone:  %s", command)
    log.error("its log:         %s", log_file() or "as above")
    log.error("its settings:    %s", Path.cwd() / recipe)
    log.error("its environment: %s", Path.cwd() / written if written.suffix == ".json" else written)


def forget(recipe: Path) -> None:
    """Remove what an earlier attempt has left; the job has succeeded."""
    path(recipe).unlink(missing_ok=True)


def path(recipe: Path) -> Path:
    """Where the file about a failure lies: results/recipes/x/y.csv.json -> logs/failures/x/y.csv.json."""
    parts = recipe.parts
    below = parts[parts.index("recipes") + 1 :] if "recipes" in parts else parts[-1:]
    return FOLDER.joinpath(*below)


def alone(recipe: Path, gpus: int) -> str:
    """The command that runs just this job, from any folder, with as many threads and GPUs as it had."""
    threads = [f"OMP_NUM_THREADS={n}" for n in filter(None, [os.environ.get("OMP_NUM_THREADS")])]
    environment = ["env", f"PYTHONPATH={PACKAGE.parent}", *KEPT_MEMORY, *threads]
    job = [*environment, sys.executable, "-P", sys.argv[0], str(recipe), "--gpu", str(gpus)]
    return f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(job)}"


def bundle(recipe: Path, command: str, error: BaseException) -> dict[str, Any]:
    """Everything about a failure that is worth sending to someone else."""
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
    """The file that standard error goes to, where it goes to one."""
    return next((Path(file.path) for file in psutil.Process().open_files() if file.fd == 2), None)


def _devices() -> list[dict[str, Any]]:
    """Name and memory of the GPUs this process sees; none where torch is not in use, or is what has failed."""
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
    except (RuntimeError, AttributeError) as broken:
        return [{"error": str(broken)}]


def _memory() -> dict[str, int]:
    """Bytes: of the machine, and the most this process has held."""
    machine, unit = psutil.virtual_memory(), 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"total": machine.total, "available": machine.available, "peak_of_job": peak}
