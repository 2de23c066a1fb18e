"""A failed job logs the command that runs it alone and writes a report with what is needed to find the cause."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lone_job import OUT, RECIPE, change_into, command, job_environment, recipe, start_job, wait_for_exit

from neuralign.common.errors import UserError
from neuralign.common.files import atomic, leftovers, note_path
from neuralign.workflow.running import failure

REPORT = Path("logs/failures/x/out.txt.json")
LOG = Path("a log.log")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a blank in its name."""
    return change_into(tmp_path, monkeypatch)


def run_logged(word, *arguments, limit=None, **environment):
    """Run the job with its output in a log file, as Snakemake does; (exit status, content of the log)."""

    def limits():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with LOG.open("w") as log:
        line = command(word, *arguments)
        before = limits if limit else None
        status = subprocess.call(line, stdout=log, stderr=log, env=job_environment(**environment), preexec_fn=before)
    return status, LOG.read_text()


def places_in(text):
    """{what: its command or path} from the last four lines of a log."""
    return {what: where.strip() for what, _, where in (line[10:].partition(": ") for line in text.splitlines()[-4:])}


def test_the_log_of_a_failed_job_ends_with_its_command_and_the_paths_of_its_files(folder):
    status, text = run_logged("fail", OMP_NUM_THREADS="1")
    assert status == 1 and "RuntimeError: on purpose" in text and not OUT.exists()
    places = places_in(text)
    assert list(places) == ["this job alone", "its log", "its settings", "its environment"]
    assert places["its log"] == str(folder / LOG) and places["its settings"] == str(folder / RECIPE)
    assert places["its environment"] == str(folder / REPORT) and REPORT.exists()


@pytest.mark.parametrize("is_cause", [False, True])
def test_a_job_without_enough_memory_on_the_gpu_is_told_to_share_it_with_fewer(monkeypatch, caplog, is_cause):
    monkeypatch.setenv("NEURALIGN_SLOTS_PER_GPU", "4")
    monkeypatch.delenv("NEURALIGN_TOGETHER", raising=False)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if is_cause:
        error, error.__cause__ = UserError("the network does not train"), error
    hint = (
        "the GPU has too little memory: lower NEURALIGN_SLOTS_PER_GPU (now 4), the number of jobs that share it, NEUR"
    )
    failure.report(RECIPE, 1, error)
    assert [hint in line for line in caplog.messages[:3]] == [False, True, False]
    caplog.clear()
    failure.report(RECIPE, 1, RuntimeError("another"))
    assert "too little memory" not in caplog.text


def test_the_logged_command_runs_the_job_from_any_folder(folder):
    _, text = run_logged("fail", "--key", "k" * 20, "--gpu", "0", OMP_NUM_THREADS="3")
    line = places_in(text)["this job alone"]
    Path("mended").touch()
    subprocess.run(line, shell=True, check=True, cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert OUT.read_text() == "content fail 3", "with as many threads as the job that failed"
    assert line.endswith("--gpu 0") and json.loads(Path(note_path(OUT)).read_text())["key"] == "k" * 20
    assert not REPORT.exists(), "the report is deleted after a success"


def test_the_report_holds_error_recipe_log_versions_and_hardware_but_no_secrets():
    run_logged("fail", CUDA_VISIBLE_DEVICES="", NEURALIGN_SLOTS_PER_GPU="2", SECRET_TOKEN="hidden")
    report = json.loads(REPORT.read_text())
    assert report["recipe"] == recipe("fail")
    assert "RuntimeError: on purpose" in report["error"] and "Traceback" in report["error"]
    assert any("RuntimeError: on purpose" in line for line in report["log_tail"])
    assert {"python", "torch", "numpy", "snakemake"} <= report["versions"].keys()
    assert (
        report["environment"]["NEURALIGN_SLOTS_PER_GPU"] == "2" and report["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    )
    assert "hidden" not in REPORT.read_text() and "PATH" not in report["environment"]
    assert report["disk_free_bytes"]["results"] > 0 and report["memory_bytes"]["peak_of_job"] > 1e6
    assert report["devices"] == [], "torch was not imported"
    assert {"commit", "changes", "platform", "cpus", "when", "log", "command"} <= report.keys()


def test_the_report_has_only_the_last_lines_of_a_long_log():
    Path("our script.py").write_text(
        Path("our script.py")
        .read_text()
        .replace("    (scratch", "    print('line\\n' * 1000, flush=True)\n    (scratch")
    )
    run_logged("fail")
    tail = json.loads(REPORT.read_text())["log_tail"]
    assert len(tail) == failure.LINES and "on purpose" in tail[-1]


def test_without_a_log_file_none_is_named():
    text = wait_for_exit(start_job("fail"), 1)
    assert places_in(text)["its log"] == "as above" and json.loads(REPORT.read_text())["log_tail"] == []


def test_a_recipe_that_is_not_json_is_reported_like_any_failure():
    line = command("hello")
    RECIPE.write_text("{")
    job = subprocess.run(line, capture_output=True, text=True, env=job_environment())
    assert job.returncode == 1 and "JSONDecodeError" in job.stderr
    assert json.loads(REPORT.read_text())["recipe"].startswith("cannot be read")


def test_the_error_is_logged_even_if_the_report_cannot_be_written():
    Path("logs").write_text("not a folder")
    status, text = run_logged("fail")
    assert status == 1 and "RuntimeError: on purpose" in text
    assert (
        places_in(text)["its environment"].startswith("not written: ") and "logs" in places_in(text)["its environment"]
    )


# ---- full and read-only disks


def test_the_error_of_a_full_disk_names_the_file_and_no_half_written_file_is_left():
    """A limit on the size of files raises the same kind of error as a full disk and needs no special rights."""
    status, text = run_logged("fill", limit=1_000_000)
    assert status == 1 and f"OSError: [Errno {errno.EFBIG}] File too large: '{OUT}'" in text
    assert not OUT.exists() and not Path(note_path(OUT)).exists() and not leftovers(OUT)
    assert run_logged("fill")[0] == 0 and OUT.stat().st_size == 8_000_000, "the same command completes"


@pytest.mark.parametrize("library", ["safetensors", "pandas", "numpy"])
def test_the_error_of_a_full_disk_names_the_file_whichever_library_writes_it(library):
    program = f"""
import numpy as np, resource
from neuralign.common.files import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
data = np.zeros(100_000)
with atomic("out.file") as temporary:
    if {library!r} == "safetensors":
        from safetensors.numpy import save_file
        save_file({{"data": data}}, temporary)
    elif {library!r} == "pandas":
        import pandas as pd
        pd.DataFrame({{"data": data}}).to_csv(temporary)
    else:
        with open(temporary, "wb") as file:
            file.write(data.tobytes())
"""
    job = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=job_environment())
    assert job.stderr.splitlines()[-1] == f"OSError: [Errno {errno.EFBIG}] File too large: 'out.file'"
    assert not list(Path().glob("*out.file*")) and not list(Path().glob(".out.file*"))


def test_errors_about_other_files_are_not_changed():
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic("x"):
        Path("nowhere").read_text()
    with pytest.raises(PermissionError, match="elsewhere"), atomic("x"):
        raise PermissionError(errno.EACCES, "no", "elsewhere")


@pytest.fixture
def small_disk(folder):
    """A disk of 2 MB at results/; skipped where mounting is not allowed."""
    Path("results").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "results"], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield
    subprocess.run(["umount", "--lazy", "results"], check=True)


def test_a_job_on_a_full_file_system_fails_and_completes_once_there_is_space(small_disk):
    status, text = run_logged("fill")
    assert status == 1 and f"OSError: [Errno {errno.ENOSPC}] No space left on device: '{OUT}'" in text
    assert not OUT.exists() and not leftovers(OUT) and json.loads(REPORT.read_text())["disk_free_bytes"]["results"] > 0
    subprocess.run(["mount", "-o", "remount,size=20m", "results"], check=True)
    assert run_logged("fill")[0] == 0 and OUT.stat().st_size == 8_000_000


def test_a_job_on_a_read_only_file_system_fails_with_the_name_of_the_folder(small_disk):
    line = command("hello")
    subprocess.run(["mount", "-o", "remount,ro", "results"], check=True)
    job = subprocess.run(line, capture_output=True, text=True, env=job_environment())
    assert job.returncode == 1 and f"[Errno {errno.EROFS}] Read-only file system: 'results/.scratch'" in job.stderr
