"""How long a job has taken over all the processes that worked on it, one after the other.

A process that is killed cannot say how long it ran. So each process writes down when it began, in the scratch folder
of the job, and the next one looks at when the last checkpoint there was written: what came after that is lost.
"""

import json
import logging
import time
from pathlib import Path

from neuralign.common.files import atomic

RECORD = "elapsed.json"

log = logging.getLogger(__name__)


def begin(scratch: Path, sharing: int) -> float:
    """The seconds that earlier processes have spent on a job, up to their last checkpoints; from now a new one counts.

    Args:
        scratch: the scratch folder of the job.
        sharing: how many jobs the new process does at the same time; each counts an equal share of its time.
    """
    record, now = scratch / RECORD, time.time()
    seconds = _spent(record) if record.exists() else 0.0
    with atomic(record) as temporary:
        temporary.write_text(json.dumps({"seconds": seconds, "began": now, "sharing": sharing}))
    return seconds


def _spent(record: Path) -> float:
    """The seconds that the record and the checkpoints beside it tell of; 0, with a warning, if it is damaged."""
    try:
        last = json.loads(record.read_text())
    except json.JSONDecodeError:
        log.warning("%s is damaged: the seconds of earlier processes of this job are not counted", record)
        return 0.0
    written = max((p.stat().st_mtime for p in record.parent.iterdir() if p != record), default=0.0)
    seconds: float = last["seconds"] + max(0.0, written - last["began"]) / last["sharing"]
    return seconds
