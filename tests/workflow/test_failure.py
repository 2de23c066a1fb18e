"""A failed job says how to run it alone, and leaves behind what is needed to find the cause."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from lone_job import OUT, RECIPE, command, ended, environ, recipe, settle, start

from neuralign.common.files import atomic, leftovers, note_path
from neuralign.workflow.running import failure

BUNDLE = Path("logs/failures/x/out.txt.json")
LOG = Path("a log.log")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a blank in its name."""
    return settle(tmp_path, monkeypatch)


def logged(word, *arguments, limit=None, **environment):
    """The script run as Snakemake does, with all its output in a log: (exit status, the log)."""

    def limits():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with LOG.open("w") as log:
        line = command(word, *arguments)
        before = limits if limit else None
        status = subprocess.call(line, stdout=log, stderr=log, env=environ(**environment), preexec_fn=before)
    return status, LOG.read_text()


def told(text):
    """{what: where} of the last lines of a log."""
    return {what: where.strip() for what, _, where in (line[10:].partition(": ") for line in text.splitlines()[-4:])}


def test_the_last_lines_say_where_everything_is(folder):
    status, text = logged("fail", OMP_NUM_THREADS="1")
    assert status == 1 and "RuntimeError: on purpose" in text and not OUT.exists()
    found = told(text)
    assert list(found) == ["this job alone", "its log", "its settings", "its environment"]
    assert found["its log"] == str(folder / LOG) and found["its settings"] == str(folder / RECIPE)
    assert found["its environment"] == str(folder / BUNDLE) and BUNDLE.exists()


def test_the_command_works_when_it_is_pasted_anywhere(folder):
    _, text = logged("fail", "--key", "k" * 20, "--gpu", "0", OMP_NUM_THREADS="3")
    line = told(text)["this job alone"]
    Path("mended").touch()
    subprocess.run(line, shell=True, check=True, cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert OUT.read_text() == "content fail 3", "with as many threads as before"
    assert line.endswith("--gpu 0") and json.loads(Path(note_path(OUT)).read_text())["key"] == "k" * 20
    assert not BUNDLE.exists(), "it has been made, so it has not failed"


def test_the_file_about_it_holds_what_someone_else_needs():
    logged("fail", CUDA_VISIBLE_DEVICES="", NEURALIGN_SLOTS_PER_GPU="2", SECRET_TOKEN="hidden")
    bundle = json.loads(BUNDLE.read_text())
    assert bundle["recipe"] == recipe("fail")
    assert "RuntimeError: on purpose" in bundle["error"] and "Traceback" in bundle["error"]
    assert any("RuntimeError: on purpose" in line for line in bundle["log_tail"])
    assert {"python", "torch", "numpy", "snakemake"} <= bundle["versions"].keys()
    assert (
        bundle["environment"]["NEURALIGN_SLOTS_PER_GPU"] == "2" and bundle["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    )
    assert "hidden" not in BUNDLE.read_text() and "PATH" not in bundle["environment"]
    assert bundle["disk_free_bytes"]["results"] > 0 and bundle["memory_bytes"]["peak_of_job"] > 1e6
    assert bundle["devices"] == [], "torch was not in use"
    assert {"commit", "changes", "platform", "cpus", "when", "log", "command"} <= bundle.keys()


def test_only_the_end_of_a_long_log_is_kept():
    Path("our script.py").write_text(
        Path("our script.py")
        .read_text()
        .replace("    (scratch", "    print('line\\n' * 1000, flush=True)\n    (scratch")
    )
    logged("fail")
    tail = json.loads(BUNDLE.read_text())["log_tail"]
    assert len(tail) == failure.LINES and "on purpose" in tail[-1]


def test_on_a_terminal_or_a_pipe_there_is_no_log_file_to_name():
    text = ended(start("fail"), 1)
    assert told(text)["its log"] == "as above" and json.loads(BUNDLE.read_text())["log_tail"] == []


def test_a_recipe_that_is_no_json_is_a_failure_like_any_other():
    line = command("hello")
    RECIPE.write_text("{")
    found = subprocess.run(line, capture_output=True, text=True, env=environ())
    assert found.returncode == 1 and "JSONDecodeError" in found.stderr
    assert json.loads(BUNDLE.read_text())["recipe"].startswith("cannot be read")


def test_where_the_file_cannot_be_written_the_error_is_told_all_the_same():
    Path("logs").write_text("not a folder")
    status, text = logged("fail")
    assert status == 1 and "RuntimeError: on purpose" in text
    assert told(text)["its environment"].startswith("not written: ") and "logs" in told(text)["its environment"]


# ---- a disk that takes no more


def test_a_full_disk_is_told_with_the_name_of_the_file_and_leaves_nothing_half_written():
    """A limit on the size of files stands for the full disk: the same kind of error, needing no rights."""
    status, text = logged("fill", limit=1_000_000)
    assert status == 1 and f"OSError: [Errno {errno.EFBIG}] File too large: '{OUT}'" in text
    assert not OUT.exists() and not Path(note_path(OUT)).exists() and not leftovers(OUT)
    assert logged("fill")[0] == 0 and OUT.stat().st_size == 8_000_000, "the same command completes"


@pytest.mark.parametrize("library", ["safetensors", "pandas", "numpy"])
def test_whatever_library_writes_the_file_is_named(library):
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
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ())
    assert found.stderr.splitlines()[-1] == f"OSError: [Errno {errno.EFBIG}] File too large: 'out.file'"
    assert not list(Path().glob("*out.file*")) and not list(Path().glob(".out.file*"))


def test_an_error_about_another_file_is_left_as_it_is():
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


def test_a_really_full_disk(small_disk):
    status, text = logged("fill")
    assert status == 1 and f"OSError: [Errno {errno.ENOSPC}] No space left on device: '{OUT}'" in text
    assert not OUT.exists() and not leftovers(OUT) and json.loads(BUNDLE.read_text())["disk_free_bytes"]["results"] > 0
    subprocess.run(["mount", "-o", "remount,size=20m", "results"], check=True)
    assert logged("fill")[0] == 0 and OUT.stat().st_size == 8_000_000


def test_a_read_only_disk(small_disk):
    line = command("hello")
    subprocess.run(["mount", "-o", "remount,ro", "results"], check=True)
    found = subprocess.run(line, capture_output=True, text=True, env=environ())
    assert found.returncode == 1 and f"[Errno {errno.EROFS}] Read-only file system: 'results/.scratch'" in found.stderr
