"""Shows a run of the workflow on standard error, from the records that Snakemake logs: a view, or lines.

On a terminal one block of lines is redrawn in place, at most twice a second; only failures and messages stay above it.
Elsewhere each job has a line when it starts and one when it ends.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from neuralign.workflow.progress import job_log
from neuralign.workflow.progress.run_state import Job, RunState
from neuralign.workflow.progress.view import draw, lines_of, time_left
from neuralign.workflow.progress.words import count, duration, stage

INTERVAL = 0.5  # seconds between two redraws
CAUSE = 8  # so many of the last lines of the log of a failed job are shown
# beginnings of messages of Snakemake: SEEN say what is seen here anyway, SHOWN are shown although they are no warnings
SEEN = ("Exiting because a job execution failed", "At least one job did not complete", "WorkflowError:\nAt least one")
# the command of a failed job of this workflow, whose sentence and log are shown; rules of others may have no log
COMMAND_FAILED = re.compile(r'RuleException:\nCalledProcessError in file "[^"\n]*rules/job\.smk"')
SHOWN = ("Nothing to be done", "Creating conda environment", "Downloading and installing", "Environment for")


class Display:
    """What a logger plug-in of Snakemake does with records.

    Args:
        console: standard error. If it is a terminal whose lines can be replaced, there is a view.
        now: the clock, in seconds since 1970.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.time):
        self.console, self.now = console, now
        self.state = RunState(began=now())
        self.block = Block(console) if console.is_terminal and not console.is_dumb_terminal else None
        self.lock = threading.RLock()
        self.is_closed = threading.Event()
        self.has_begun = self.has_summary = False
        if self.block:
            threading.Thread(target=self._redraw_until_closed, daemon=True).start()

    def handle(self, record: logging.LogRecord) -> None:
        """Take in one record: an event of Snakemake, the estimates of the jobs, or a message."""
        facts, now, state = record.__dict__, self.now(), self.state
        with self.lock:
            match facts.get("event"):
                case "run_info":
                    state.began = now
                    state.plan(facts["stats"])
                case "job_info":
                    self._begin()
                    log = Path(facts["log"][0]) if facts["log"] else None
                    if job := state.start(facts["jobid"], facts["rule_name"], facts["rule_msg"], log, now):
                        self._line(f"start   {job.sentence}")
                case "job_finished":
                    if job := state.finish(facts["job_id"], now):
                        self._line(f"done    {job.sentence}{self._time_and_progress(job, now)}")
                case "job_error":
                    self._fail(facts["jobid"], now)
                case "group_error":
                    for job_of_group in facts["job_error_info"]:
                        self._fail(job_of_group["jobid"], now)
                case None if "estimates" in facts:
                    state.estimate(facts["estimates"], facts["targets"])
                case None | "error":
                    self._message(record)
                case _:
                    pass  # commands, resources and the numbers of jobs that start

    def close(self) -> None:
        """Remove the view, and sum the run up, once."""
        self.is_closed.set()
        with self.lock:
            if self.block:
                self.block.clear()
            if self.has_begun and not self.has_summary:
                self._print("\n".join(self._summary()))
                self.has_summary = True

    def redraw(self) -> None:
        """Read the logs of the running jobs, and draw the view anew."""
        with self.lock:
            if self.block and self.has_begun and not self.is_closed.is_set():
                self.state.read_logs(self.now())
                width, height = self.console.size
                self.block.show(lines_of(self.console, draw(self.state, self.now(), width - 1, height - 1), width - 1))

    def _redraw_until_closed(self) -> None:
        while not self.is_closed.wait(INTERVAL):
            self.redraw()

    def _begin(self) -> None:
        """Before the first job: say how many there are. Now the estimates are there too, and the view can be drawn."""
        if not self.has_begun:
            self.has_begun = True
            parts = ", ".join(f"{of_rule.total} {stage(rule)}" for rule, of_rule in self.state.stages.items())
            self._line(f"{count(self.state.counts()[1], 'job')} to do: {parts}")

    def _fail(self, number: int, now: float) -> None:
        """Say which job has failed and why; its lines stay."""
        if job := self.state.fail(number, now):
            lines = [f"FAILED  {job.sentence}{self._time_and_progress(job, now)}"]
            if job.log:
                lines += [f"        {line}" for line in job_log.cause(job.log, CAUSE)] + [f"        log: {job.log}"]
            self._print("\n".join(lines), "red")

    def _message(self, record: logging.LogRecord) -> None:
        message = str(record.msg or "").strip()
        is_shown = record.levelno >= logging.WARNING or message.startswith(SHOWN)
        if message and is_shown and not (message.startswith(SEEN) or COMMAND_FAILED.match(message)):
            self._print(message, "yellow" if record.levelno == logging.WARNING else "")

    def _time_and_progress(self, job: Job, now: float) -> str:
        """How long a job has taken, how many are done, and the time that is left."""
        done, total = self.state.counts()
        facts = [f"({duration(job.seconds(now))})", f"{done:,} of {total:,}", time_left(self.state, now)]
        return "".join(f"  {fact}" for fact in facts if fact)

    def _summary(self) -> list[str]:
        """What has become of all jobs, with the logs of those that have failed."""
        state, (done, total) = self.state, self.state.counts()
        took = duration(self.now() - state.began)
        if done == total:
            return [f"{count(done, 'job')} done in {took}"]
        failed, blocked = state.failed.values(), len(state.blocked())
        line = f"{done:,} of {count(total, 'job')} done in {took}"
        if failed:
            line += f"; {len(failed)} failed" + (f", which kept {blocked} from running" if blocked else "")
        else:
            line += "; the run was ended before the others. What is done is kept: the next run continues"
        return [line, *(f"  failed: {job.sentence}: {job.log}" for job in failed)]

    def _line(self, text: str) -> None:
        """A line with the time, where there is no view."""
        if not self.block:
            self._print(f"{time.strftime('%H:%M:%S', time.localtime(self.now()))}  {text}")

    def _print(self, text: str, style: str = "") -> None:
        """Lines that stay, above the view."""
        if self.block:
            self.block.clear()
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
        self.redraw()


class Block:
    """Lines at the end of a terminal's output that are replaced in place."""

    def __init__(self, console: Console):
        self.console = console
        self.lines: list[str] = []  # as they are shown, with terminal codes

    def show(self, lines: list[str]) -> None:
        """Replace the lines by others."""
        if lines != self.lines or not lines:
            self._write(self._code_to_clear() + "".join(f"{line}\n" for line in lines))
            self.lines = lines

    def clear(self) -> None:
        """Remove the lines."""
        self._write(self._code_to_clear())
        self.lines = []

    def _code_to_clear(self) -> str:
        """Terminal codes: go up to the first of the lines, and erase from there.

        A terminal that has become narrower has broken each line into several.
        """
        width = self.console.width
        rows = sum(max(1, -(-Text.from_ansi(line).cell_len // width)) for line in self.lines)
        return f"\x1b[{rows}F\x1b[J" if rows else ""

    def _write(self, text: str) -> None:
        if text:
            self.console.file.write(text)
            self.console.file.flush()
