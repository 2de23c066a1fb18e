"""`run` and `perform` run one job from its recipe: arguments, notes of origin, one process at a time, command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lone_job import OUT, SCRIPT, change_into, command, job_environment, recipe, start_job, until, wait_for_exit

from neuralign.common.files import atomic, leftovers, note_path, sha256
from neuralign.workflow.provenance.code_digests import closure, external_code
from neuralign.workflow.running import elapsed, run
from neuralign.workflow.running.notes import digest
from neuralign.workflow.running.run import check_closure, perform


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory, with a blank in its name, that has a script and the file it reads."""
    return change_into(tmp_path, monkeypatch)


def write_word(data, out, *, word):
    """The `main` of a script, without a scratch folder."""
    Path(out).write_text(word)


# ---- arguments, notes and the check of the closure


def test_inputs_outputs_and_settings_are_the_arguments_of_main():
    received = {}
    perform(lambda **arguments: received.update(arguments) or OUT.write_text(""), recipe())
    assert received == {"data": "data", "out": str(OUT), "word": "hello"}


def test_a_note_holds_the_recipe_the_checksums_and_the_circumstances_of_a_job():
    perform(write_word, recipe())
    note = json.loads(Path(note_path(OUT)).read_text())
    for key in ("rule", "wildcards", "key", "settings", "code", "software", "upstream"):
        assert note[key] == recipe()[key]
    assert note["inputs"] == {"data": {"path": "data", "sha256": sha256("data")}}
    assert note["artefact"] == str(OUT) and note["sha256"] == sha256(OUT) and note["digest"] == digest(note)
    assert note["seconds"] >= 0 and note["started"].endswith("+00:00")
    assert 0 < note["cpu_use"] <= os.cpu_count() and note["processor"]
    assert note["versions"].keys() >= {"python", "numpy"}
    assert {"commit", "modified", "device", "tf32", "platform", "threads", "seeds"} <= note.keys()


def test_a_note_has_the_checksums_of_inputs_at_the_start_of_the_job():
    before = sha256("data")

    def overwrite_input(data, out, *, word):
        Path(out).write_text(Path(data).read_text())
        Path(data).write_text("other")

    perform(overwrite_input, recipe())
    assert json.loads(Path(note_path(OUT)).read_text())["inputs"]["data"]["sha256"] == before != sha256("data")


def test_a_script_that_changes_its_settings_does_not_change_the_note():
    def empty_setting(data, out, *, word):
        Path(out).write_text(word.pop("use"))

    perform(empty_setting, recipe({"use": "it"}))
    assert json.loads(Path(note_path(OUT)).read_text())["settings"] == {"word": {"use": "it"}}


def test_what_a_script_returns_is_in_the_note_without_what_is_empty():
    def main(data, out, *, word):
        Path(out).write_text(word)
        return {"checkpoint": {"revision": "1"}, "warnings": []}

    perform(main, recipe())
    note = json.loads(Path(note_path(OUT)).read_text())
    assert note["reported"] == {"checkpoint": {"revision": "1"}}
    perform(write_word, recipe())
    assert "reported" not in json.loads(Path(note_path(OUT)).read_text())


def test_an_input_dated_in_the_future_is_dated_back_so_that_outputs_are_newer():
    """Snakemake deletes outputs that are older than an input."""
    later = Path("data").stat().st_mtime + 1e6
    os.utime("data", (later, later))
    perform(write_word, recipe())
    assert Path("data").stat().st_mtime <= time.time() and Path("data").read_text() == "content"


def test_every_output_has_a_note():
    def write_both(data, out, more, *, word):
        Path(out).write_text("1"), Path(more).write_text("2")

    perform(write_both, recipe(outputs={"out": "results/1", "more": "results/2"}))
    assert [json.loads(Path(f"results/{i}.json").read_text())["sha256"] for i in (1, 2)] == [
        sha256(f"results/{i}") for i in (1, 2)
    ]


def test_a_failed_job_deletes_the_note_of_the_previous_result():
    perform(write_word, recipe())

    def fail(**arguments):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        perform(fail, recipe())
    assert not Path(note_path(OUT)).exists()


def test_a_job_that_does_not_write_its_output_fails_without_a_note():
    with pytest.raises(FileNotFoundError, match=str(OUT)):
        perform(lambda **arguments: None, recipe())
    assert not Path(note_path(OUT)).exists()


def test_the_check_of_the_closure_refuses_modules_that_the_recipe_lacks(monkeypatch):
    monkeypatch.setenv("NEURALIGN_CHECK_CLOSURE", "1")
    with pytest.raises(AssertionError, match=r"test ran modules outside its recipe: .*'neuralign\.common\.files'"):
        perform(write_word, recipe())
    loaded = {name: "" for name in sys.modules if name.split(".")[0] == "neuralign"}
    perform(write_word, recipe(code=loaded))
    del loaded["neuralign.common.files"]
    with pytest.raises(AssertionError, match=r"\['neuralign\.common\.files'\]"):
        check_closure(recipe(code=loaded))


def test_the_check_of_the_closure_sees_dynamic_imports():
    """No syntax tree shows this import, so only the check in the process of the job can see it."""
    script = Path("our script.py")
    script.write_text(
        SCRIPT.replace(
            "    (scratch", "    __import__('importlib').import_module('neuralign.config.' + 'options')\n    (scratch"
        )
    )
    text = wait_for_exit(start_job("hello", code=closure(script), NEURALIGN_CHECK_CLOSURE="1"), 1)
    assert "ran modules outside its recipe: ['neuralign.config', 'neuralign.config.options']" in text


# ---- the command line


def test_a_script_runs_from_its_recipe():
    text = wait_for_exit(start_job("hello", "--key", "k" * 20, OMP_NUM_THREADS="1"), 0)
    assert OUT.read_text() == "content hello 1" and "test done in" in text


def test_a_recipe_of_another_key_is_refused():
    text = wait_for_exit(start_job("hello", "--key", "another"), 1)
    assert (
        "results/recipes/x/out.txt.json: the config or the code has changed since this run was planned; start it again"
        in text
    )
    assert not OUT.exists()


@pytest.mark.parametrize("edited", ["mine.py", "helper.py"])
def test_code_of_the_user_that_was_edited_after_the_planning_is_refused(edited):
    Path("mine.py").write_text("import helper\ndef hop(data): return helper.n\n")
    Path("helper.py").write_text("n = 1\n")
    code = external_code("./mine.py:hop")
    settings = {"word": {"steps": [{"inner": {"use": "./mine.py:hop"}}]}}
    line = command("hello", settings=settings, code=code)
    subprocess.run(line, env=job_environment(), check=True)
    OUT.unlink()
    Path(edited).write_text(Path(edited).read_text() + "more = 2\n")
    done = subprocess.run(line, env=job_environment(), capture_output=True, text=True)
    message = "./mine.py:hop: its code has been edited since this run was planned; start it again"
    assert done.returncode == 1 and message in done.stderr and not OUT.exists()


def test_help_describes_the_script_and_its_options():
    process = start_job("hello", "--help")
    out, _ = process.communicate()
    assert process.returncode == 0 and "A script for tests." in out and "--key" in out


# ---- scratch


def test_the_scratch_folder_of_a_key_is_kept_after_a_failure():
    wait_for_exit(start_job("fail"), 1)
    assert (run.SCRATCH / ("k" * 20) / "progress").read_text() == "some"


def test_a_second_process_of_a_job_is_refused_while_the_first_runs():
    first = start_job("wait")
    try:
        until(Path("waiting").exists)
        text = wait_for_exit(start_job("hello"), 1)
        assert f"{OUT}: another process is at work on this job; wait for it to end, or stop it" in text
        perform(write_word, recipe(outputs={"out": "results/x/other.txt"}))
        assert len(leftovers(OUT)) == 1, "another job leaves the half-written file of the first alone"
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    wait_for_exit(start_job("hello"), 0)  # the kernel has given the lock back
    assert not list(run.SCRATCH.glob("*.lock"))


def test_a_second_process_of_a_job_starts_if_the_first_ends_soon():
    first = start_job("wait")
    until(Path("waiting").exists)
    second = start_job("hello")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)
    first.kill()
    first.communicate()
    wait_for_exit(second, 0)
    assert OUT.read_text().startswith("content hello")


def test_a_job_deletes_the_half_written_files_of_a_killed_one():
    first = start_job("wait")
    until(Path("waiting").exists)
    first.kill()
    first.communicate()
    with atomic(OUT.with_name("out.txt.other.txt")) as temporary:  # another job at work beside it
        temporary.write_text("")
        assert len(leftovers(OUT)) == 1
        wait_for_exit(start_job("hello"), 0)
        assert not leftovers(OUT) and temporary.exists()


def test_the_seconds_of_a_job_count_killed_processes_up_to_their_last_checkpoint():
    def die(data, out, *, word, scratch):
        checkpoint = scratch / "progress"
        checkpoint.write_text("half")
        os.utime(checkpoint, (time.time() + 100,) * 2)
        raise KeyboardInterrupt

    def die_at_once(data, out, *, word, scratch):
        raise KeyboardInterrupt

    def finish(data, out, *, word, scratch):
        Path(out).write_text(word)

    for main in (die, die_at_once):
        with pytest.raises(KeyboardInterrupt):
            perform(main, recipe())
    record = run.SCRATCH / recipe()["key"] / elapsed.RECORD
    began = json.loads(record.read_text()) | {"began": time.time() + 75, "sharing": 2}  # 25 s more, of two jobs
    record.write_text(json.dumps(began))
    perform(finish, recipe())
    assert json.loads(Path(note_path(OUT)).read_text())["seconds"] == pytest.approx(100 + 12.5, abs=3)


def test_a_job_goes_on_although_the_record_of_its_seconds_is_empty(tmp_path, caplog):
    elapsed.begin(tmp_path, 1)
    (tmp_path / elapsed.RECORD).write_text("")
    assert elapsed.begin(tmp_path, 1) == 0
    assert "elapsed.json is damaged: the seconds of earlier processes of this job are not counted" in caplog.text


def test_a_main_without_a_scratch_argument_gets_no_scratch_folder():
    perform(write_word, recipe())
    assert not list(run.SCRATCH.iterdir())
