"""Only one run at a time can work in a folder; its lock is released however the run ends."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuralign.common.files import PACKAGE
from neuralign.workflow.running.run_lock import LOCK, Busy, exclusive, has_begun

HOLD = "import sys, time; from pathlib import Path; from neuralign.workflow.running.run_lock import exclusive, share\n"
WAIT = "print('held', flush=True); time.sleep(60)"
EXCLUSIVE = HOLD + f"with exclusive(Path(sys.argv[1])): {WAIT}"
SHARE = HOLD + f"share(Path(sys.argv[1])); {WAIT}"


def holder(code: str, folder: Path, **options) -> subprocess.Popen:
    """A process that holds the lock."""
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("code", [EXCLUSIVE, SHARE])
def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path, code):
    process = holder(code, tmp_path)
    with (
        pytest.raises(Busy, match=rf"another run is at work in {tmp_path} \({LOCK} there is locked\)"),
        exclusive(tmp_path),
    ):
        pass
    kill(process)
    with exclusive(tmp_path):
        pass


def test_a_child_that_inherits_the_lock_holds_it_after_its_parent_has_ended(tmp_path):
    with exclusive(tmp_path) as lock:
        child = holder(HOLD + WAIT, tmp_path, pass_fds=[lock])
    with pytest.raises(Busy), exclusive(tmp_path):
        pass
    kill(child)
    with exclusive(tmp_path):
        pass


def test_the_holder_learns_whether_jobs_have_begun_in_this_run(tmp_path):
    with exclusive(tmp_path):
        assert not has_begun(tmp_path)
        kill(holder(SHARE, tmp_path))
        assert has_begun(tmp_path)
    with exclusive(tmp_path):
        assert not has_begun(tmp_path)


def test_a_process_that_the_holder_started_shares_the_lock(tmp_path):
    with exclusive(tmp_path):
        kill(holder(SHARE, tmp_path))


def test_several_processes_can_share_the_lock(tmp_path):
    first, second = holder(SHARE, tmp_path), holder(SHARE, tmp_path)
    kill(first)
    with pytest.raises(Busy), exclusive(tmp_path):
        pass
    kill(second)


def test_the_makefile_and_the_snakefiles_hold_the_same_lock():
    root = PACKAGE.parents[1]
    assert "\t@$(BIN)/neuralign run $(STUDY)\n" in (root / "Makefile").read_text()
    for snakefile in (root / "Snakefile", PACKAGE / "cli" / "study_folder" / "Snakefile"):
        assert "onstart:\n    share(Path())" in snakefile.read_text()


def test_the_lock_is_a_lock_of_flock(tmp_path):
    with exclusive(tmp_path), (tmp_path / LOCK).open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
