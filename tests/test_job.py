"""The runner of one job: arguments from the recipe, notes of origin, one writer at a time, a rerun in one command."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuralign import job
from neuralign.code import PACKAGE, closure
from neuralign.files import note_path, sha256
from neuralign.job import check_closure, perform

SCRIPT = '''"""A script for tests."""

import os
import time
from pathlib import Path

from neuralign.files import atomic
from neuralign.job import run


def main(data, out, *, word, scratch):
    (scratch / "progress").write_text("some")
    if word == "wait":
        Path("waiting").touch()
        time.sleep(60)
    if word == "fail" and not Path("mended").exists():
        raise RuntimeError("on purpose")
    with atomic(out) as temporary:
        temporary.write_text(f"{Path(data).read_text()} {word} {os.environ.get('OMP_NUM_THREADS')}")


if __name__ == "__main__":
    run(main)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory, with a blank in its name, that has a script and the file it reads."""
    here = tmp_path / "a folder"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "our script.py").write_text(SCRIPT)
    (here / "data").write_text("content")
    return here


def recipe(word="hello", **others):
    """A recipe for that script."""
    return {
        "rule": "test",
        "wildcards": {"n": "1"},
        "key": "k" * 20,
        "settings": {"word": word},
        "inputs": {"data": "data"},
        "outputs": {"out": "results/x/out.txt"},
        "upstream": {"data": "u" * 20},
        "code": {},
    } | others


def start(word="hello", *arguments, code=None, **environment):
    """The script as Snakemake starts it."""
    Path("recipe.json").write_text(json.dumps(recipe(word, code=code or {})))
    command = [sys.executable, "-P", os.path.abspath("our script.py"), "recipe.json", *arguments]
    environ = os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def ended(process, status):
    """Its standard error, once it has ended with this status."""
    _, text = process.communicate(timeout=60)
    assert process.returncode == status, text
    return text


OUT = Path("results/x/out.txt")


def write(data, out, *, word):
    """A main without scratch."""
    Path(out).write_text(word)


# ---- what main gets, and the notes


def test_inputs_outputs_and_settings_are_the_arguments():
    found = {}
    perform(lambda **arguments: found.update(arguments) or OUT.write_text(""), recipe())
    assert found == {"data": "data", "out": str(OUT), "word": "hello"}


def test_a_note_tells_what_the_result_is_and_where_it_comes_from():
    perform(write, recipe())
    note = json.loads(Path(note_path(OUT)).read_text())
    for key in ("rule", "wildcards", "key", "settings", "inputs", "upstream"):
        assert note[key] == recipe()[key]
    assert note["sha256"] == sha256(OUT) and note["seconds"] >= 0 and note["started"].endswith("+00:00")
    assert note["versions"].keys() >= {"python", "numpy"} and {"commit", "modified", "device", "threads"} <= note.keys()


def test_every_output_has_a_note():
    def two(data, out, more, *, word):
        Path(out).write_text("1"), Path(more).write_text("2")

    perform(two, recipe(outputs={"out": "results/1", "more": "results/2"}))
    assert [json.loads(Path(f"results/{i}.json").read_text())["sha256"] for i in (1, 2)] == [
        sha256(f"results/{i}") for i in (1, 2)
    ]


def test_a_failed_job_leaves_no_note_of_the_result_before():
    perform(write, recipe())

    def fail(**arguments):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        perform(fail, recipe())
    assert not Path(note_path(OUT)).exists()


def test_a_script_that_does_not_write_its_output_fails_without_a_note():
    with pytest.raises(FileNotFoundError):
        perform(lambda **arguments: None, recipe())
    assert not Path(note_path(OUT)).exists()


def test_code_outside_the_recipe_is_refused(monkeypatch):
    monkeypatch.setenv("NEURALIGN_CHECK_CLOSURE", "1")
    with pytest.raises(AssertionError, match=r"test ran modules outside its recipe: .*'neuralign\.files'"):
        perform(write, recipe())
    loaded = {name: "" for name in sys.modules if name.split(".")[0] == "neuralign"}
    perform(write, recipe(code=loaded))
    del loaded["neuralign.files"]
    with pytest.raises(AssertionError, match=r"\['neuralign\.files'\]"):
        check_closure(recipe(code=loaded))


def test_a_module_imported_by_an_unseen_way_is_caught():
    """The guard in a real run: a dynamic import that no syntax tree shows."""
    script = Path("our script.py")
    script.write_text(
        SCRIPT.replace(
            "    (scratch", "    __import__('importlib').import_module('neuralign.' + 'options')\n    (scratch"
        )
    )
    text = ended(start("hello", code=closure(script), NEURALIGN_CHECK_CLOSURE="1"), 1)
    assert "ran modules outside its recipe: ['neuralign.options']" in text


# ---- the command line


def test_a_script_runs_from_its_recipe():
    text = ended(start("hello", "--key", "k" * 20, OMP_NUM_THREADS="1"), 0)
    assert OUT.read_text() == "content hello 1" and "test done in" in text


def test_a_recipe_of_another_key_is_refused():
    text = ended(start("hello", "--key", "another"), 1)
    assert "recipe.json: the config or the code has changed since this run was planned; start it again" in text
    assert not OUT.exists()


def test_a_failure_says_how_to_run_the_job_alone_and_that_works():
    text = ended(start("fail", "--key", "k" * 20, OMP_NUM_THREADS="1"), 1)
    assert "RuntimeError: on purpose" in text and not OUT.exists()
    (line,) = [line for line in text.splitlines() if "this job alone" in line]
    where, command = line.split("this job alone, in ")[1].split(": ", 1)
    Path("mended").touch()
    assert shlex.split(command)[0] == "env"
    subprocess.run(command, shell=True, check=True, cwd=where, env={"PATH": os.environ["PATH"]}, capture_output=True)
    assert OUT.read_text() == "content fail 1", "with as many threads as before"
    assert json.loads(Path(note_path(OUT)).read_text())["key"] == "k" * 20


def test_help_names_the_recipe():
    process = start("hello", "--help")
    out, _ = process.communicate()
    assert process.returncode == 0 and "A script for tests." in out and "--key" in out


# ---- scratch


def test_scratch_is_of_this_key_and_outlives_a_failure():
    ended(start("fail"), 1)
    assert (job.SCRATCH / ("k" * 20) / "progress").read_text() == "some"


def test_a_second_writer_is_refused_while_the_first_is_at_work():
    first = start("wait")
    try:
        for _ in range(600):
            if Path("waiting").exists():
                break
            time.sleep(0.05)
        text = ended(start("wait"), 1)
        assert "another process is at work on this job; wait for it to end, or stop it" in text
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    ended(start("hello"), 0)  # the kernel has given the lock back
    assert not list(job.SCRATCH.glob("*.lock"))


def test_main_without_scratch_needs_no_folder():
    perform(write, recipe())
    assert not job.SCRATCH.exists()
