"""The finished part of a study that is not finished as a whole, and the jobs it lacks and why. Torch-free.

Its report is that of another study, `NAME_incomplete`, whose grids hold the paths with all results and no others. So it
is made by the same rules, becomes stale when more paths are finished, and never takes the place of the report of NAME.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from itertools import product
from pathlib import Path

from neuralign.config.catalogue import Catalogue, Entry
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Wildcards
from neuralign.workflow.running.notes import entries

JobName = tuple[str, tuple[tuple[str, str], ...]]  # (rule, sorted wildcards)
IsCurrent = Callable[[str, Wildcards], bool]
Outcome = Callable[[str, Wildcards], str]


def finished_part(c: Catalogue, study: str, is_current: IsCurrent, outcome: Outcome) -> Entry:
    """The config entry of a study with only those paths whose results are all there; without any, no grids.

    It also has, for the report, `planned`: the grids of the complete study, and `missing`, with
    - `paths`: [number of finished paths, number of planned paths];
    - `jobs`: the missing jobs whose own inputs are all there, each with `rule`, `wildcards`, `why` (its outcome) and
      `paths` (how many paths need it).

    Args:
        c: the config.
        study: the name of the complete study.
        is_current: (rule, wildcards) -> whether the results of this job exist and are current.
        outcome: (rule, wildcards) -> what became of a job whose results are not.
    """
    complete = c.studies[study]
    cache: dict[JobName, bool] = {}

    def is_there(job: JobName) -> bool:
        if job not in cache:
            cache[job] = is_current(job[0], dict(job[1]))
        return cache[job]

    paths = [path for grid in complete["grids"] for path in _split_into_paths(grid)]
    kept = [_keep_finished(c, path, is_there) for path in paths]
    grids = [path for path in kept if path is not None]
    merged = [g for grid in complete["grids"] for g in _split_into_cohorts(grid) if all(map(is_there, _jobs(c, g)))]
    unfinished = [_jobs(c, path).keys() for path, part in zip(paths, kept, strict=True) if part != path]
    rows = [
        {"rule": rule, "wildcards": dict(wildcards), "why": outcome(rule, dict(wildcards)), "paths": count}
        for (rule, wildcards), count in _blocking_jobs(c, complete["grids"], is_there, unfinished).items()
    ]
    missing = {"paths": [len(grids), len(paths)], "jobs": rows}
    return complete | {"grids": grids + merged, "planned": complete["grids"], "missing": missing}


def outcome_of(report: Path, log: Path, key: str) -> str:
    """What became of a job without results: "failed", "not finished" or "has not run", with the last line about it.

    Args:
        report: the JSON file about its failure (`failure.py`); it counts only if it is about the recipe with `key`.
        log: the log of the job.
        key: the key that its recipe has now.
    """
    try:
        content = json.loads(report.read_text())
        if content["recipe"]["key"] == key:
            return f"failed: {_last_line(content['error'])}"
    except (OSError, ValueError, TypeError, KeyError):
        pass  # there is no report, or it is not complete; the log may say more
    line = _last_line(log.read_text(errors="replace")) if log.is_file() else ""
    return f"not finished; its log ends with: {line}" if line else "has not run"


def _last_line(text: str) -> str:
    """The last line that is not blank; "" if there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _split_into_paths(grid: Entry) -> Iterator[Entry]:
    """The grid as grids of one path each."""
    names = ("dataset", "network", "regime", "method")
    without_members = {key: value for key, value in grid.items() if key not in ("members", "cohort")}
    for values in product(*(grid[name] for name in names)):
        for pair, seed in zip(grid["pair"], grid["curve_seed"], strict=True):
            choice = {name: [value] for name, value in zip(names, values, strict=True)}
            yield without_members | choice | {"pair": [pair], "curve_seed": [seed]}


def _split_into_cohorts(grid: Entry) -> Iterator[Entry]:
    """The grid as grids of one merged network each, without paths."""
    names = ("dataset", "network", "regime", "members", "cohort")
    for values in product(*(grid.get(name, []) for name in names)):
        yield grid | {name: [value] for name, value in zip(names, values, strict=True)} | {"pair": [], "curve_seed": []}


def _keep_finished(c: Catalogue, path: Entry, is_there: Callable[[JobName], bool]) -> Entry | None:
    """The grid of one path with those of its measures, plane and merge whose results are there.

    None if those of its evaluation are not.
    """

    def is_finished(grid: Entry) -> bool:
        return all(map(is_there, _jobs(c, grid)))

    if is_finished(path):
        return path
    bare = {key: value for key, value in path.items() if key != "merge"} | {"measures": [], "plane": None}
    if not is_finished(bare):
        return None
    measures = [measure for measure in path["measures"] if is_finished(bare | {"measures": [measure]})]
    plane = path["plane"] if is_finished(bare | {"plane": path["plane"]}) else None
    merge = {"merge": path["merge"]} if "merge" in path else {}
    return bare | {"measures": measures, "plane": plane} | (merge if is_finished(bare | merge) else {})


def _blocking_jobs(
    c: Catalogue, grids: list[Entry], is_there: Callable[[JobName], bool], unfinished: Sequence[Collection[JobName]]
) -> dict[JobName, int]:
    """The missing jobs whose own inputs are all there, and how many paths need each.

    `unfinished`: for each path that is not finished, the names of all jobs that it needs.
    """
    jobs_with_inputs = _jobs(c, *grids)
    blocking = [job for job, inputs in jobs_with_inputs.items() if not is_there(job) and all(map(is_there, inputs))]
    return {job: sum(job in needed for needed in unfinished) for job in blocking}


def _jobs(c: Catalogue, *grids: Entry) -> dict[JobName, list[JobName]]:
    """{job: the jobs whose outputs it reads} of all jobs behind these grids but those of tables, figures and report."""
    c = copy(c)
    c.studies = {"part": {"title": "", "description": "", "compared": None, "grids": list(grids)}}
    upstream = {}
    for rule, wildcards, job in jobs(c, "part"):
        if "study" not in wildcards:
            upstream[rule, tuple(sorted(wildcards.items()))] = [(r.rule, r.wildcards) for r in entries(job.inputs)]
    return upstream
