"""The runner of one job: arguments from the recipe, notes of origin, one writer at a time, a rerun in one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lone_job import OUT, SCRIPT, ended, recipe, settle, start, until

from neuralign.common.files import atomic, leftovers, note_path, sha256
from neuralign.workflow.provenance.code_digests import closure
from neuralign.workflow.running import run
from neuralign.workflow.running.notes import digest
from neuralign.workflow.running.run import check_closure, perform


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory, with a blank in its name, that has a script and the file it reads."""
    return settle(tmp_path, monkeypatch)


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
    for key in ("rule", "wildcards", "key", "settings", "code", "software", "upstream"):
        assert note[key] == recipe()[key]
    assert note["inputs"] == {"data": {"path": "data", "sha256": sha256("data")}}
    assert note["artefact"] == str(OUT) and note["sha256"] == sha256(OUT) and note["digest"] == digest(note)
    assert note["seconds"] >= 0 and note["started"].endswith("+00:00")
    assert note["versions"].keys() >= {"python", "numpy"}
    assert {"commit", "modified", "device", "platform", "threads", "seeds"} <= note.keys()


def test_a_note_has_the_inputs_as_they_were_when_the_job_began():
    before = sha256("data")

    def careless(data, out, *, word):
        Path(out).write_text(Path(data).read_text())
        Path(data).write_text("other")

    perform(careless, recipe())
    assert json.loads(Path(note_path(OUT)).read_text())["inputs"]["data"]["sha256"] == before != sha256("data")


def test_a_script_that_changes_its_settings_does_not_change_the_note():
    def greedy(data, out, *, word):
        Path(out).write_text(word.pop("use"))

    perform(greedy, recipe({"use": "it"}))
    assert json.loads(Path(note_path(OUT)).read_text())["settings"] == {"word": {"use": "it"}}


def test_what_is_read_from_the_future_is_dated_back_so_that_no_output_looks_older():
    """Snakemake would delete it."""
    later = Path("data").stat().st_mtime + 1e6
    os.utime("data", (later, later))
    perform(write, recipe())
    assert Path("data").stat().st_mtime <= time.time() and Path("data").read_text() == "content"


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
    with pytest.raises(AssertionError, match=r"test ran modules outside its recipe: .*'neuralign\.common\.files'"):
        perform(write, recipe())
    loaded = {name: "" for name in sys.modules if name.split(".")[0] == "neuralign"}
    perform(write, recipe(code=loaded))
    del loaded["neuralign.common.files"]
    with pytest.raises(AssertionError, match=r"\['neuralign\.common\.files'\]"):
        check_closure(recipe(code=loaded))


def test_a_module_imported_by_an_unseen_way_is_caught():
    """The guard in a real run: a dynamic import that no syntax tree shows."""
    script = Path("our script.py")
    script.write_text(
        SCRIPT.replace(
            "    (scratch", "    __import__('importlib').import_module('neuralign.config.' + 'options')\n    (scratch"
        )
    )
    text = ended(start("hello", code=closure(script), NEURALIGN_CHECK_CLOSURE="1"), 1)
    assert "ran modules outside its recipe: ['neuralign.config', 'neuralign.config.options']" in text


# ---- the command line


def test_a_script_runs_from_its_recipe():
    text = ended(start("hello", "--key", "k" * 20, OMP_NUM_THREADS="1"), 0)
    assert OUT.read_text() == "content hello 1" and "test done in" in text


def test_a_recipe_of_another_key_is_refused():
    text = ended(start("hello", "--key", "another"), 1)
    assert (
        "results/recipes/x/out.txt.json: the config or the code has changed since this run was planned; start it again"
        in text
    )
    assert not OUT.exists()


def test_help_names_the_recipe():
    process = start("hello", "--help")
    out, _ = process.communicate()
    assert process.returncode == 0 and "A script for tests." in out and "--key" in out


# ---- scratch


def test_scratch_is_of_this_key_and_outlives_a_failure():
    ended(start("fail"), 1)
    assert (run.SCRATCH / ("k" * 20) / "progress").read_text() == "some"


def test_a_second_writer_is_refused_while_the_first_is_at_work_whatever_its_key():
    first = start("wait")
    try:
        until(Path("waiting").exists)
        text = ended(start("hello"), 1)
        assert f"{OUT}: another process is at work on this job; wait for it to end, or stop it" in text
        perform(write, recipe(outputs={"out": "results/x/other.txt"}))
        assert len(leftovers(OUT)) == 1, "the first one's half-written file is left alone"
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    ended(start("hello"), 0)  # the kernel has given the lock back
    assert not list(run.SCRATCH.glob("*.lock"))


def test_a_second_writer_goes_on_when_the_first_ends_soon():
    first = start("wait")
    until(Path("waiting").exists)
    second = start("hello")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)
    first.kill()
    first.communicate()
    ended(second, 0)
    assert OUT.read_text().startswith("content hello")


def test_what_a_killed_job_left_half_written_goes_with_the_next_one():
    first = start("wait")
    until(Path("waiting").exists)
    first.kill()
    first.communicate()
    with atomic(OUT.with_name("out.txt.other.txt")) as temporary:  # another job at work beside it
        temporary.write_text("")
        assert len(leftovers(OUT)) == 1
        ended(start("hello"), 0)
        assert not leftovers(OUT) and temporary.exists()


def test_main_without_scratch_gets_no_folder():
    perform(write, recipe())
    assert not list(run.SCRATCH.iterdir())
