"""What can be said of a study before all of it is there, and what it lacks, job by job, and why. Torch-free.

The report of a part is that of a study of its own, `NAME_incomplete`, whose grids hold the paths that are there and
nothing else. So it is made by the same rules, is stale as soon as more is there, and never lies where the finished
report of NAME does.
"""

import json
from collections.abc import Callable, Iterator
from copy import copy
from itertools import product
from pathlib import Path
from typing import Any

from neuralign.config.catalogue import Catalogue, Entry
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Wildcards
from neuralign.workflow.running.notes import entries

Named = tuple[str, tuple[tuple[str, str], ...]]  # a job: (rule, sorted wildcards)
There = Callable[[str, Wildcards], bool]
Why = Callable[[str, Wildcards], str]


def part(c: Catalogue, study: str, there: There, why: Why) -> Entry:
    """The study of what is there: its `grids`, and for the report `planned` (the grids of the whole) and `missing`.

    `there(rule, wildcards)` says whether a job's results are there and current, `why` what became of it if not.
    `missing` has `paths` (there, planned) and `jobs`: those that nothing else holds up, each with the reason and the
    number of paths that wait for it. The grids are empty where no path is there.
    """
    whole = c.studies[study]
    known: dict[Named, bool] = {}

    def has(job: Named) -> bool:
        if job not in known:
            known[job] = there(job[0], dict(job[1]))
        return known[job]

    paths = [grid for several in whole["grids"] for grid in _single(several)]
    found = [_narrowed(c, grid, has) for grid in paths]
    grids = [grid for grid in found if grid is not None]
    waiting = [_jobs(c, grid).keys() for grid, kept in zip(paths, found, strict=True) if kept != grid]
    rows = [
        {"rule": rule, "wildcards": dict(places), "why": why(rule, dict(places)), "paths": count}
        for (rule, places), count in _causes(c, whole["grids"], has, waiting).items()
    ]
    missing = {"paths": [len(grids), len(paths)], "jobs": rows}
    return whole | {"grids": grids, "planned": whole["grids"], "missing": missing}


def ended(record: Path, log: Path, key: str) -> str:
    """What became of a job, from the last line of the error in the file about its failure (failure.py), if that is
    of this key, else of its log.
    """
    try:
        told = json.loads(record.read_text())
        if told["recipe"]["key"] == key:
            return f"failed: {_last(told['error'])}"
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no such file, or one that is only half of what it should be: the log is left
    line = _last(log.read_text(errors="replace")) if log.is_file() else ""
    return f"not finished; its log ends with: {line}" if line else "has not run"


def _last(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _single(grid: Entry) -> Iterator[Entry]:
    """The grid as grids of one path each."""
    names = ("dataset", "network", "regime", "method")
    for chosen in product(*(grid[name] for name in names)):
        for pair, seed in zip(grid["pair"], grid["curve_seed"], strict=True):
            one = {name: [value] for name, value in zip(names, chosen, strict=True)}
            yield grid | one | {"pair": [pair], "curve_seed": [seed]}


def _narrowed(c: Catalogue, grid: Entry, has: Callable[[Named], bool]) -> Entry | None:
    """The grid of one path with those of its measures that are there; None if the path itself is not."""
    if all(map(has, _jobs(c, grid))):
        return grid
    bare = grid | {"measures": [], "plane": None}
    if not all(map(has, _jobs(c, bare))):
        return None
    measures = [m for m in grid["measures"] if all(map(has, _jobs(c, bare | {"measures": [m]})))]
    plane = grid["plane"] if all(map(has, _jobs(c, bare | {"plane": grid["plane"]}))) else None
    return bare | {"measures": measures, "plane": plane}


def _causes(c: Catalogue, grids: list[Entry], has: Callable[[Named], bool], waiting: list[Any]) -> dict[Named, int]:
    """The missing jobs whose own inputs are all there, and how many of the paths `waiting` need each."""
    needed = _jobs(c, *grids)
    held_up = {job for job, inputs in needed.items() if not all(map(has, inputs))}
    return {job: sum(job in jobs for jobs in waiting) for job in needed if not has(job) and job not in held_up}


def _jobs(c: Catalogue, *grids: Entry) -> dict[Named, list[Named]]:
    """Every job behind a study of these grids but those of its tables, figures and report: {job: the jobs it reads}."""
    alone = copy(c)
    alone.studies = {"part": {"title": "", "description": "", "grids": list(grids)}}
    found = {}
    for rule, wildcards, job in jobs(alone, "part"):
        if "study" not in wildcards:
            found[rule, tuple(sorted(wildcards.items()))] = [(r.rule, r.wildcards) for r in entries(job.inputs)]
    return found
