"""The check of the grids of a study, which say what datasets, networks, pairs and methods it combines."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from neuralign.config.checking.names import members_problem, pair_problem, reversed_pair
from neuralign.config.checking.validation import Entry, Validation
from neuralign.config.problems import short_repr
from neuralign.config.schema import PLACES, Grid

# keys of a grid that hold one value or a list of several
LIST_KEYS = tuple(key for key in Grid.model_fields if key not in ("evaluation", "plane", "merge", "measures"))
MERGING = ("members", "cohort")  # both of them or neither
OPTIONAL = (*MERGING, "merge")  # keys that a grid may lack


def read_grids(grids: list[Any], path: str, problems: Validation) -> list[Entry]:
    """The grids of a study with lists and defaults filled in. Notes their problems in `problems`."""
    checked = [_read_grid(grid, f"{path}.grids[{i}]", problems) for i, grid in enumerate(grids)]
    first_grid: dict[tuple[str, ...], int] = {}  # run -> index of the first grid that has it
    for i, grid in enumerate(checked):
        runs = sorted(_runs(grid)) if grid else []
        for run in [run for run in runs if run in first_grid][:1]:
            problems.note(f"{path}.grids[{i}]", f"repeats {'/'.join(run)} of grids[{first_grid[run]}]")
        for *place, pair, method in runs:
            first_grid |= {(*place, pair, method): i, (*place, reversed_pair(pair), method): i}
    return checked


def _runs(grid: Entry) -> Iterator[tuple[str, ...]]:
    """The combinations of a grid: (dataset, network, regime, pair, method)."""
    return product(*(grid[key] for key in (*PLACES, "pair", "method")))


def _read_grid(raw: Any, path: str, problems: Validation) -> Entry:
    """The grid with lists and defaults filled in; {} if a value is refused."""
    if not isinstance(raw, Mapping):
        problems.note(path, f"must be a mapping, found {short_repr(raw)}")
        return {}
    lists = {k: [v] if k in LIST_KEYS and not isinstance(v, list) else v for k, v in raw.items()}
    grid = problems.validate(Grid, lists, path)
    if not grid:
        return {}
    problems.check_names(Grid, grid, path, numbered=False)
    for key in LIST_KEYS:
        if not grid[key] and key not in MERGING:
            problems.note(f"{path}.{key}", "is empty; at least one is needed")
        if key != "curve_seed" and len(set(grid[key])) < len(grid[key]):
            problems.note(f"{path}.{key}", f"has a value twice: {grid[key]}")
    _check_pairs(grid["pair"], f"{path}.pair", problems)
    _check_members(grid, path, problems)
    if len(grid["curve_seed"]) == 1:
        grid["curve_seed"] *= len(grid["pair"])
    if len(grid["curve_seed"]) != len(grid["pair"]):
        counts = f"{len(grid['curve_seed'])} seeds for {len(grid['pair'])} pairs"
        problems.note(f"{path}.curve_seed", f"found {counts}; one for each pair, or one for all, is needed")
    # without these keys a grid is as it was before there were any, and so are the recipes of its report
    return {key: value for key, value in grid.items() if value or key not in OPTIONAL}


def _check_members(grid: Entry, path: str, problems: Validation) -> None:
    members, cohorts = (grid[key] for key in MERGING)
    if bool(members) != bool(cohorts):
        present, absent = MERGING if members else reversed(MERGING)
        problems.note(path, f"`{present}` needs `{absent}`: which networks are merged, and how they are aligned")
    seen: dict[frozenset[str], str] = {}
    for text in members:
        problem = members_problem(text)
        problems.note(f"{path}.members", problem)
        if problem is None:
            _check_checkpoints(text, f"{path}.members", problems)
            if (other := seen.setdefault(frozenset(text.split("-")), text)) != text:
                problems.note(f"{path}.members", f"{other} and {text} are the same networks")


def _check_checkpoints(ends: str, path: str, problems: Validation) -> None:
    for end in ends.split("-"):
        if not end.isdecimal():
            problems.check_name("checkpoints", end, path)


def _check_pairs(pairs: list[str], path: str, problems: Validation) -> None:
    for pair in pairs:
        problem = pair_problem(pair)
        problems.note(path, problem)
        if problem is None:
            _check_checkpoints(pair, path, problems)
    for i, pair in enumerate(pairs):
        if (other := reversed_pair(pair)) in pairs[:i]:  # or statistics would count one pair as two
            problems.note(path, f"{other} and {pair} are the same two networks")
