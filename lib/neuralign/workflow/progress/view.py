"""The view of a run on a terminal, as one block of lines that fits into it."""

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from neuralign.workflow.progress.run_state import Job, RunState, Stage
from neuralign.workflow.progress.words import clock, count, duration, stage

BAR = 20  # columns of a bar, where there is space for it
WIDE = 60  # a narrower terminal has no bars


def draw(state: RunState, now: float, width: int, height: int) -> RenderableType:
    """What there is to see, in at most `height` lines: how far the run is, the stages, the running jobs.

    If there are too many lines, stages that are done go first, then those that have not begun, then running jobs.
    """
    headlines = _headlines(state, now, width)
    free = height - len(headlines) - 1  # a line between stages and jobs
    running = sorted(state.running.values(), key=lambda job: (job.step is None, job.started))
    shown_jobs = running[: max(1, free // 2)]
    stages = _stages_that_fit(state.stages, free - len(shown_jobs) - (len(running) > len(shown_jobs)))
    lines: list[RenderableType] = list(headlines)
    if stages:
        lines.append(_stage_table(stages, width))
    if running:
        lines.append(Text(""))
        lines.append(_job_table(shown_jobs, now, width))
    if len(running) > len(shown_jobs):
        lines.append(Text(f"  and {count(len(running) - len(shown_jobs), 'other job')}", style="dim"))
    return Group(*lines)


def time_left(state: RunState, now: float) -> str:
    """The words for the time that is left; "" as long as it is not known."""
    seconds = state.seconds_left(now)
    if seconds is None:
        return ""
    return f"about {duration(seconds)} left" if seconds >= 1 else "nearly done"


def _headlines(state: RunState, now: float, width: int) -> list[Text]:
    """How many jobs are done, and the time that has passed and that is left; in two lines if they do not fit in one."""
    done, total = state.counts()
    left = time_left(state, now) or "time left: known when the first job has been timed"
    jobs = Text(", ".join(state.targets), style="bold", no_wrap=True, overflow="ellipsis")
    jobs.append("  " if state.targets else "").append(f"{done:,} of {count(total, 'job')} done", style="not bold")
    if state.failed:
        jobs.append(f"  {len(state.failed)} failed", style="red")
    times = Text(f"{clock(now - state.began)}  {left}", style="not bold dim", no_wrap=True, overflow="ellipsis")
    return [jobs, times] if jobs.cell_len + 2 + times.cell_len > width else [jobs.append("  ").append(times)]


def _stages_that_fit(stages: dict[str, Stage], height: int) -> dict[str, Stage]:
    """As many stages as there are lines, in their order: those at work or failed, the next ones, the last ones done."""

    def importance(item: tuple[int, tuple[str, Stage]]) -> tuple[int, int]:
        index, (_, of_rule) = item
        if of_rule.running or of_rule.failed:
            return 0, index
        return (1, index) if of_rule.done < of_rule.total else (2, -index)

    kept = sorted(enumerate(stages.items()), key=importance)[: max(0, height)]
    return dict(item for _, item in sorted(kept))


def _stage_table(stages: dict[str, Stage], width: int) -> Table:
    """One line for each stage: its name, a bar, how many of its jobs are done, how many have failed."""
    numbers_of = {rule: f"{of_rule.done:,}/{of_rule.total:,}" for rule, of_rule in stages.items()}
    failures_of = {rule: f"{of_rule.failed} failed" if of_rule.failed else "" for rule, of_rule in stages.items()}
    taken = sum(max(map(len, column.values())) + 1 for column in (numbers_of, failures_of))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(1, width - taken))  # numbers are never cut
    if width >= WIDE:
        table.add_column(width=BAR)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for rule, of_rule in stages.items():
        is_done = of_rule.done >= of_rule.total
        style = "dim" if is_done else "bold" if of_rule.running else ""
        bar = ProgressBar(
            max(1, of_rule.total), of_rule.done, style="bright_black", complete_style="green", finished_style="green"
        )
        name, numbers = Text(f"  {stage(rule)}", style=style), Text(numbers_of[rule], style=style)
        failed = Text(failures_of[rule], style="red")
        table.add_row(name, *([bar] if width >= WIDE else []), numbers, failed)
    return table


def _job_table(jobs: list[Job], now: float, width: int) -> Table:
    """One line for each running job: what it does, how far it is, for how long it has run."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    for job in jobs:
        step = (job.step.text if width >= WIDE else job.step.text.split("  ")[0]) if job.step else ""
        table.add_row(Text(f"> {job.sentence}"), Text(step, style="cyan"), Text(clock(job.seconds(now)), style="dim"))
    return table


def lines_of(console: Console, view: RenderableType, width: int) -> list[str]:
    """The view as lines with terminal codes, none wider than `width`."""
    options = console.options.update(width=width)
    with console.capture() as capture:
        for line in console.render_lines(view, options, pad=False):
            for segment in line:
                console.print(segment.text, style=segment.style, end="", markup=False, highlight=False, soft_wrap=True)
            console.print()
    return capture.get().splitlines()
