"""The view of a run and its lines, from recorded events of Snakemake; and what is said before a long run."""

import json
import logging
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from rich.text import Text
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
from workflow_project import REPOSITORY, environ

from neuralign.cli.workflow_runs import workflow_command
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.graph import job as describe
from neuralign.workflow.planning.announcement import announce, in_words
from neuralign.workflow.planning.costs import network_key
from neuralign.workflow.planning.estimator import START_UP, Estimator
from neuralign.workflow.progress import job_log
from neuralign.workflow.progress.display import Block, Display
from neuralign.workflow.progress.run_state import Estimate, RunState
from neuralign.workflow.progress.view import draw, lines_of
from neuralign.workflow.progress.words import clock, count, duration

TRAINING = "12:00:00  epoch 10/40  lr 0.1000  loss 0.5000  accuracy 80.00 %  2140 images/s  30 s left\n"
PLACE = {"dataset": "digits", "network": "tinyten"}


class Clock:
    """A clock that tests set."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds


def record(level=logging.INFO, msg="", **facts):
    return logging.makeLogRecord({"msg": msg, "levelno": level, **facts})


def started(number, rule, sentence=None, log=()):
    facts = {"jobid": number, "rule_name": rule, "rule_msg": sentence, "log": [str(path) for path in log]}
    return record(event="job_info", **facts)


def estimates(is_measured=True):
    """Two trainings, an alignment that needs both, and a report that needs that."""
    training = Estimate("train_endpoint", PLACE, 100.0, is_measured, ())
    align = Estimate("align", PLACE, 10.0, is_measured, (1, 2))
    return {1: training, 2: training, 3: align, 4: Estimate("report", {"study": "demo"}, 3.0, True, (3,))}


def plan(is_measured=True):
    """The records before the first job."""
    stats = {"align": 1, "demo": 1, "report": 1, "train_endpoint": 2, "total": 5}
    yield record(event="run_info", stats=stats)
    yield record(estimates=estimates(is_measured), targets=["demo"])


@pytest.fixture
def display(now):
    """A display on no terminal; `text` is what it has written."""
    display = Display(Console(file=StringIO(), width=200), now)
    display.text = lambda: re.sub(r"\d\d:\d\d:\d\d  ", "", display.console.file.getvalue())
    return display


@pytest.fixture
def now():
    return Clock()


@pytest.fixture
def state(now):
    state = RunState(began=now())
    run_info, of_jobs = plan()
    state.plan(run_info.stats)
    state.estimate(of_jobs.estimates, of_jobs.targets)
    return state


def feed(display, now, *records, after=0.0):
    now.seconds += after
    for one in records:
        display.handle(one)


# lines


def test_lines_say_what_starts_and_ends_how_long_it_took_and_what_is_left(display, now):
    feed(display, now, *plan(), started(1, "train_endpoint", "Train seed 1"), started(2, "train_endpoint"))
    feed(display, now, record(event="job_finished", job_id=1), after=50)
    feed(display, now, record(event="job_finished", job_id=2), started(3, "align", "Align the pair 1-2"))
    feed(display, now, record(event="job_finished", job_id=3), started(4, "report"), after=5)
    feed(
        display, now, record(event="job_finished", job_id=4), started(0, "demo"), record(event="job_finished", job_id=0)
    )
    display.close()
    display.close()
    assert display.text().splitlines() == [
        "4 jobs to do: 2 train endpoint, 1 align, 1 report",
        "start   Train seed 1",
        "start   train endpoint",
        "done    Train seed 1  (50 s)  1 of 4  about 4 s left",  # half as long as estimated
        "done    train endpoint  (50 s)  2 of 4  about 4 s left",
        "start   Align the pair 1-2",
        "done    Align the pair 1-2  (5 s)  3 of 4  about 2 s left",
        "start   report",
        "done    report  (0 s)  4 of 4  nearly done",
        "4 jobs done in 55 s",
    ]


def test_a_failure_shows_its_log_up_to_the_lines_about_files_and_what_it_blocks(display, now, tmp_path):
    log = tmp_path / "align.log"
    log.write_text("".join(f"line {i}\n" for i in range(20)) + "12:00:00  this job alone:  env python\nits log: x\n")
    feed(display, now, *plan(), started(1, "train_endpoint"), started(3, "align", "Align the pair 1-2", [log]))
    feed(display, now, record(logging.ERROR, event="job_error", jobid=3), after=180)
    feed(display, now, record(logging.ERROR, event="job_error", jobid=3))  # Snakemake may say it twice
    feed(display, now, record(event="job_finished", job_id=1))
    feed(display, now, record(logging.ERROR, "Exiting because a job execution failed. Look above"))
    display.close()
    failure = ["FAILED  Align the pair 1-2  (3 min)  0 of 4  about 50 s left"]
    failure += [f"        line {i}" for i in range(12, 20)] + [f"        log: {log}"]
    lines = display.text().splitlines()
    assert lines[3 : 3 + len(failure)] == failure
    assert lines[-2:] == [
        "1 of 4 jobs done in 3 min; 1 failed, which kept 1 from running",
        f"  failed: Align the pair 1-2: {log}",
    ]


def test_a_job_that_is_tried_again_is_no_failure_any_more(display, now):
    feed(display, now, *plan(), started(3, "align"))
    feed(display, now, record(logging.ERROR, event="job_error", jobid=3), after=1)
    assert display.state.stages["align"].failed == 1 and display.state.blocked() == {4}
    feed(display, now, started(3, "align"))
    assert display.state.stages["align"].failed == 0 and display.state.blocked() == set()
    feed(display, now, record(event="job_finished", job_id=3), after=1)
    assert vars(display.state.stages["align"]) == {"total": 1, "done": 1, "running": 0, "failed": 0}


def test_a_group_that_fails_is_the_failure_of_each_of_its_jobs(display, now):
    feed(display, now, *plan(), started(1, "train_endpoint"), started(2, "train_endpoint"))
    feed(display, now, record(event="group_error", job_error_info=[{"jobid": 1}, {"jobid": 2}]))
    assert display.state.failed.keys() == {1, 2} and display.state.blocked() == {3, 4}


def test_a_run_that_is_ended_says_that_it_can_go_on(display, now):
    feed(display, now, *plan(), started(1, "train_endpoint"), started(2, "train_endpoint"))
    feed(display, now, record(event="job_finished", job_id=1), after=7200)
    display.close()
    message = "1 of 4 jobs done in 2.0 hours; the run was ended before the others. What is done is kept: the next run"
    assert display.text().splitlines()[-1] == f"{message} continues"


def test_jobs_that_ctrl_c_has_ended_have_not_failed(display, now, tmp_path):
    for number, line in ((1, "12:00:00  ended by SIGINT; no half-written result is left"), (2, "KeyboardInterrupt")):
        (tmp_path / f"{number}.log").write_text(f"word\n{line}\n")
    logs = [[tmp_path / "1.log"], [tmp_path / "2.log"]]
    feed(display, now, *plan(), *(started(i + 1, "train_endpoint", None, log) for i, log in enumerate(logs)))
    feed(display, now, *(record(logging.ERROR, event="job_error", jobid=number) for number in (1, 2)), after=30)
    display.close()
    *before, last = display.text().splitlines()
    assert len(before) == 3 and last.startswith("0 of 4 jobs done in 30 s; the run was ended before the others")


def test_messages_are_shown_unless_they_say_what_is_seen_anyway(display, now):
    shown = ["Nothing to be done (all requested files are present and up to date).", "Creating conda environment x..."]
    hidden = ["Building DAG of jobs...", "None", "WorkflowError:\nAt least one job did not complete successfully."]
    feed(display, now, *(record(msg=text) for text in [*hidden[:2], *shown]))
    feed(display, now, record(logging.ERROR, hidden[2], event="error"))
    command = "RuleException:\nCalledProcessError in file \"{}\", line 17:\nCommand 'set -euo pipefail; ...'"
    feed(display, now, record(logging.ERROR, command.format("/x/neuralign/rules/job.smk"), event="error"))
    feed(display, now, record(logging.ERROR, command.format("/x/Snakefile"), event="error"))
    feed(display, now, record(logging.ERROR, "SyntaxError in file Snakefile", event="error"))
    feed(display, now, record(event="resources_info", msg="Provided cores: 2"))
    display.close()
    shown += command.format("/x/Snakefile").splitlines()  # of a rule of the user, which may have no log
    assert display.text().splitlines() == [*shown, "SyntaxError in file Snakefile"]  # and no summary: nothing ran


# the time that is left


def test_without_measured_times_it_is_unknown_until_a_job_is_timed(state, now, tmp_path):
    state.estimate(estimates(is_measured=False), ["demo"])
    log = tmp_path / "1.log"
    state.start(1, "train_endpoint", None, log, now())
    now.seconds += 10
    assert state.seconds_left(now()) is None
    log.write_text(TRAINING)
    os.utime(log, (now(), now()))
    state.read_logs(now())
    # 40 seconds for this one, of an estimated 100: 30 left, 40 for the other training, 4 to align, 3 for the report
    assert state.seconds_left(now()) == pytest.approx(30 + 40 + 4 + 3)


def test_without_estimates_it_stays_unknown(now):
    state = RunState(began=now())
    state.plan({"align": 1, "total": 1})
    state.start(1, "align", None, None, now())
    assert state.seconds_left(now() + 5) is None and list(state.stages) == ["align"]


def test_a_resumed_training_says_nothing_about_others(state, now, tmp_path):
    log = tmp_path / "1.log"
    log.write_text(f"12:00:00  {job_log.RESUMED} 30 of 40, step 0\n{TRAINING}")
    os.utime(log, (now() + 10, now() + 10))
    state.start(1, "train_endpoint", None, log, now())
    now.seconds += 10
    state.read_logs(now())
    assert state.running[1].has_resumed
    assert state.seconds_left(now()) == pytest.approx(30 + 100 + 10 + 3)
    state.finish(1, now())
    assert state.done[1].has_resumed and state.seconds_left(now()) == pytest.approx(100 + 10 + 3)


def test_jobs_at_the_same_time_shorten_it_but_not_below_the_longest(state, now):
    for number in (1, 2):
        state.start(number, "train_endpoint", None, None, now())
    now.seconds += 20
    assert state.seconds_left(now()) == pytest.approx((80 + 80 + 10 + 3) / 2)
    state.finish(2, now())  # five times as fast as estimated: also for the other, which is late, and the alignment
    assert state.seconds_left(now()) == pytest.approx((0 + 2 + 3) / 2)


def test_jobs_behind_a_failed_one_do_not_count(state, now):
    state.start(1, "train_endpoint", None, None, now())
    state.start(2, "train_endpoint", None, None, now())
    state.fail(1, now())
    assert state.blocked() == {3, 4} and state.seconds_left(now()) == pytest.approx(100)


def test_stages_come_in_the_order_of_the_graph(state):
    assert list(state.stages) == ["train_endpoint", "align", "report"]


# logs of jobs


@pytest.mark.parametrize(
    ("line", "text", "left"),
    [
        (TRAINING, "epoch 10/40  2,140 images/s", 25.0),
        ("12:00:00  epoch 3.27/40  81 texts/s  3 s left\n", "epoch 3.27/40  81 texts/s", 0.0),
        ("12:00:00  resumed after epoch 7 of 40, step 3\n", None, None),
        ("12:00:00  epoch 40/40  lr 0.1  loss 0.5\n12:00:01  a word at the end\n", "epoch 40/40", None),
        ("12:00:00  12 of 289  accuracy 0.312\n", "12 of 289", None),
        ("", None, None),
    ],
)
def test_the_last_line_that_says_so_tells_how_far_a_job_is(tmp_path, line, text, left):
    log = tmp_path / "x.log"
    log.write_text("word\n" * 5000 + line)
    os.utime(log, (1000, 1000))
    step = job_log.last_step(log, since=990, now=1005)
    assert (step and step.text, step and step.seconds_left) == (text, left)
    assert job_log.last_step(log, since=1010, now=1011) is None, "the log of an earlier attempt"


def test_codes_for_terminals_and_bytes_of_a_log_do_not_reach_the_terminal(tmp_path):
    log = tmp_path / "job.log"
    log.write_bytes(b"\x1b[31mno space\x1b[0m left\n\xff\x00\x1b[2J\x9bbinary\n12:00:00  epoch 1/2\x07  loss 0.5\n")
    assert job_log.last_lines(log) == ["no space left", "\ufffd\ufffdbinary", "12:00:00  epoch 1/2  loss 0.5"]


def test_a_log_that_is_not_there_says_nothing(tmp_path):
    log = tmp_path / "x.log"
    assert job_log.last_step(log, 0, 1) is None and job_log.cause(log, 8) == [] and not job_log.has_resumed(log)


# the view


def view(state, now, width, height=30):
    console = Console(file=StringIO(), force_terminal=True, width=width, height=height)
    return [
        Text.from_ansi(line).plain for line in lines_of(console, draw(state, now, width - 1, height - 1), width - 1)
    ]


@pytest.fixture
def busy_state(state, now, tmp_path):
    """Of two trainings one is done and one runs; the alignment has failed."""
    log = tmp_path / "2.log"
    log.write_text(TRAINING)
    os.utime(log, (now() + 75, now() + 75))
    state.start(1, "train_endpoint", None, None, now())
    state.start(2, "train_endpoint", "Train tinyten on digits (demo), seed 2", log, now())
    state.start(3, "align", "Align the pair 1-2", tmp_path / "align.log", now())
    state.finish(1, now() + 75)
    state.fail(3, now() + 75)
    now.seconds += 75
    state.read_logs(now())
    return state


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_view_fits_into_the_terminal(busy_state, now, width):
    *headlines, trainings, alignments, reports, between, running = view(busy_state, now(), width)
    assert max(map(len, [*headlines, trainings, alignments, reports, running])) <= width - 1
    headline = ["demo  1 of 4 jobs done  1 failed", "1:15  about 30 s left"]
    assert headlines == (headline if width == 40 else ["  ".join(headline)])
    assert trainings.split()[:2] == ["train", "endpoint"] and "1/2" in trainings
    assert ("━" in trainings) == (width >= 60)
    assert alignments.split()[0] == "align" and alignments.endswith("0/1 1 failed")
    assert reports.split()[0] == "report" and "0/1" in reports and between == ""
    assert running.startswith("> Train tiny") and "epoch 10/40" in running and running.endswith("1:15")
    if width == 120:
        assert "Train tinyten on digits (demo), seed 2 " in running and "2,140 images/s" in running


def test_numbers_are_not_cut_in_a_very_narrow_terminal(busy_state, now):
    _, _, trainings, alignments, reports, *_ = view(busy_state, now(), 24)
    assert trainings.split()[-2:] == ["e…", "1/2"] and "0/1" in reports
    assert alignments.split()[-3:] == ["0/1", "1", "failed"]


def test_a_low_terminal_shows_what_is_at_work(now):
    state = RunState(began=now())
    state.plan({f"rule_{i:02}": 1 for i in range(30)})
    for i in range(20):
        state.start(i, f"rule_{i:02}", f"Job {i}", None, now())
        if i < 10:
            state.finish(i, now())
    lines = view(state, now(), 80, height=12)
    assert len(lines) == 11 and lines[0].startswith("10 of 30 jobs done")
    assert [line.split()[1] for line in lines[1:5]] == ["10", "11", "12", "13"]
    assert lines[5] == "" and [line.split()[:3] for line in lines[6:10]] == [
        [">", "Job", str(i)] for i in range(10, 14)
    ]
    assert lines[10] == "  and 6 other jobs"


def test_a_block_is_replaced_also_when_the_terminal_has_become_narrower():
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=40, height=30)
    block = Block(console)
    block.show(["\x1b[1m" + "x" * 30 + "\x1b[0m", "y"])
    block.show(["\x1b[1m" + "x" * 30 + "\x1b[0m", "y"])
    assert file.getvalue() == "\x1b[1m" + "x" * 30 + "\x1b[0m\ny\n", "the same lines are not written again"
    console.width = 20  # the first line takes two rows now
    block.show(["z"])
    assert file.getvalue().endswith("\x1b[3F\x1b[Jz\n")
    block.clear()
    assert file.getvalue().endswith("\x1b[1F\x1b[J") and block.lines == []


def test_on_a_terminal_only_failures_and_messages_stay(now):
    console = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    display = Display(console, now)
    feed(display, now, *plan(), started(1, "train_endpoint", "Train seed 1"), started(2, "train_endpoint"))
    display.redraw()
    feed(display, now, record(event="job_finished", job_id=1), record(logging.ERROR, event="job_error", jobid=2))
    display.close()
    kept = re.sub(r"(?s)(\x1b\[\d+F\x1b\[J)", r"\n\1", console.file.getvalue())
    *_, failure, end = [part for part in re.split(r"\x1b\[\d+F\x1b\[J", kept) if part.strip()]
    assert "> Train seed 1" in kept and "start " not in kept and "done   " not in kept
    assert Text.from_ansi(failure).plain.lstrip().startswith("FAILED  train endpoint  (0 s)  1 of 4")
    assert end.strip().startswith("1 of 4 jobs done in 0 s; 1 failed, which kept 2 from running")


def test_words():
    spans = (0, 45, 119, 120, 5400, 7200, 86_400 * 1.5, 86_400 * 3, 86_400 * 365.25 * 2.5)
    assert list(map(duration, spans)) == [
        *("0 s", "45 s", "119 s", "2 min", "90 min", "2.0 hours", "36 hours", "3 days", "2.5 years")
    ]
    assert [clock(7), clock(760), clock(11_100)] == ["0:07", "12:40", "3:05:00"]
    assert [count(1, "job"), count(1234, "job")] == ["1 job", "1,234 jobs"]


# before a long run


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text())


@pytest.fixture
def dag(config, monkeypatch, tmp_path):
    """What `announce` asks Snakemake: one training of the study paper is due, and `paper` itself."""
    monkeypatch.chdir(tmp_path)
    wildcards = {"dataset": "cifar10", "network": "tinyten", "regime": "standard", "seed": "1"}
    settings = describe(Catalogue(config), "train_endpoint", wildcards).settings
    (tmp_path / "recipe.json").write_text(json.dumps({"wildcards": wildcards, "settings": settings}))
    training = SimpleNamespace(
        rule=SimpleNamespace(name="train_endpoint"), is_norun=False, input={"recipe": str(tmp_path / "recipe.json")}
    )
    target = SimpleNamespace(rule=SimpleNamespace(name="paper"), is_norun=True, input={})
    foreign = SimpleNamespace(rule=SimpleNamespace(name="mine"), is_norun=False, input={})
    jobs = [training, foreign, target]
    key = SimpleNamespace(touch=False, local_exec=True)
    return SimpleNamespace(
        workflow=key,
        needrun_jobs=lambda: jobs,
        jobid=lambda job: next(i for i, other in enumerate(jobs) if other is job),
        dependencies=_Dependencies(),
        settings=settings,
    )


class _Dependencies:
    def __getitem__(self, job):
        return {}


class Log:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.warnings, self.extras = [], []

    def info(self, message, extra):
        self.extras.append(extra)

    def warning(self, message):
        self.warnings.append(message)


def test_the_estimates_of_due_jobs_are_logged_and_a_short_run_without_a_word(config, dag):
    log = Log()
    announce(config, dag, log)
    ((number, estimate),) = log.extras[0]["estimates"].items()
    assert (number, estimate.rule, estimate.is_measured, estimate.needs) == (0, "train_endpoint", False, ())
    assert log.extras[0]["targets"] == ["paper"] and log.warnings == []


def test_before_a_run_above_a_day_the_estimate_and_smaller_studies_are_said(config, dag, tmp_path):
    (tmp_path / "results").mkdir()
    key = network_key(dag.settings["model"]["network"], Estimator(Catalogue(config), tmp_path).sizes("cifar10"))
    known = {"parameters": 1, "buffers": 1, "activations": 1, "train": 0.01, "forward": 0.01}
    (tmp_path / "results/.calibration.json").write_text(json.dumps({"device": "x", "networks": {key: known}}))
    log = Log()
    announce(config, dag, log)
    seconds = log.extras[0]["estimates"][0].seconds
    assert seconds == pytest.approx(250 * 50_000 * 3 * 0.01 + START_UP)
    (text,) = log.warnings
    first, second, *studies, last = text.splitlines()
    assert first == "This is a long run: 1 job, about 4 days if one runs at a time."
    assert second == "Smaller studies, if nothing of them is done yet:"
    assert 1 <= len(studies) <= 5 and any(re.match(r"  neuralign run demo +about \d", line) for line in studies)
    assert last == "The run goes on all the same. After Ctrl-C, what is finished is kept, and the next run continues."
    dag.workflow.local_exec = False  # on a cluster this machine says nothing about the time
    announce(config, dag, log)
    assert len(log.warnings) == 1 and len(log.extras) == 2


def test_a_guess_is_called_one(config):
    catalogue = Catalogue(config)
    text = in_words(catalogue, Estimator(catalogue, REPOSITORY / "nowhere"), "paper", 797, 3e7, False)
    assert text.startswith(
        "This is a long run: 797 jobs, about 347 days if one runs at a time; a rough guess, "
        "`neuralign plan paper --calibrate` times this machine."
    )


def test_an_estimate_that_goes_wrong_is_a_warning_and_a_touch_is_silent(config, dag):
    log = Log()
    announce({}, dag, log)
    assert log.warnings[0].startswith("it is not known how long this run takes: ConfigError: ") and not log.extras
    dag.workflow.touch = True
    announce(config, dag, log)
    assert len(log.warnings) == 1 and not log.extras


# the plug-in


def test_the_view_is_the_logger_unless_another_or_snakemakes_own_lines_are_asked_for():
    def loggers(*options, **how):
        command = workflow_command(Path("Snakefile"), Path(), [], options, **how)
        return [command[i + 1] for i, word in enumerate(command) if word == "--logger"]

    assert loggers("--workflow-profile", "x") == ["neuralign"] and loggers("--logger", "rich") == ["rich"]
    assert loggers("--logger=rich") == loggers(verbose=True) == loggers(dry_run=True) == []


def test_snakemake_finds_the_plug_in_which_prints_a_dry_run_as_snakemake_does(capsys):
    plugin = LoggerPluginRegistry().get_plugin("neuralign").log_handler
    settings = SimpleNamespace(nocolor=True, dryrun=True)
    handler = plugin(settings, None)
    handler.setFormatter(logging.Formatter("as formatted: %(message)s"))
    handler.emit(record(msg="x"))
    handler.close()
    assert capsys.readouterr().err == "as formatted: x\n"
    settings.dryrun = False
    handler = plugin(settings, None)
    handler.emit(record(event="run_info", stats={"align": 1, "total": 1}))
    handler.emit(started(1, "align"))
    handler.close()
    printed = capsys.readouterr().err
    assert "1 job to do: 1 align" in printed and printed.endswith("What is done is kept: the next run continues\n")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_variables_that_ask_for_colours_make_no_view_in_a_file(capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    handler = (
        LoggerPluginRegistry().get_plugin("neuralign").log_handler(SimpleNamespace(nocolor=False, dryrun=False), None)
    )
    handler.emit(record(event="run_info", stats={"align": 1, "total": 1}))
    handler.emit(started(1, "align"))
    handler.close()
    assert "  start   align\n" in capsys.readouterr().err


def test_a_terminal_that_cannot_replace_lines_has_lines(now, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    display = Display(Console(file=StringIO(), force_terminal=True, width=80), now)
    feed(display, now, *plan(), started(1, "train_endpoint", "Train seed 1"))
    display.close()
    assert "  start   Train seed 1\n" in display.console.file.getvalue()


def test_snakemake_imports_the_plugin_and_not_the_package():
    """It imports all logger plug-ins before the Snakefile, which in a checkout puts the checkout's own code first."""
    code = "import sys, snakemake_logger_plugin_neuralign; print([m for m in sys.modules if m.startswith('neuralign')])"
    environment = environ() | {"PYTHONPATH": str(REPOSITORY / "lib")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
