"""What a result was made from: its note, those of its inputs, theirs, down to the data.

Of a table some rows can be chosen. A job over many runs says in its settings which run each input is of, so a row is
followed only into the runs whose dataset, network, regime, pair and method it names; where it names none, into all.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralign.common.errors import UserError
from neuralign.workflow.provenance.consistency import Finding, Results, inside
from neuralign.workflow.running.notes import Note, flat

FOLLOWED = ("dataset", "network", "regime", "pair", "method")  # columns and keys of runs
Row = dict[str, str]


def trace(
    results: Results, findings: Iterable[Finding], artefact: str, where: Sequence[str] = (), column: str | None = None
) -> dict[str, Any]:
    """{artefact, rows, nodes}: the chosen rows of a table (none if all of it is meant) and the tree of what it was made
    from, depth first. Raises `UserError` for an artefact without a note, a column or a row that does not exist.
    """
    path = locate(results, artefact)
    rows = choose(results.root / path, where, column) if where or column else []
    wrong: dict[str, list[str]] = {}
    for finding in findings:
        wrong.setdefault(finding.path, []).append(finding.kind)
    nodes: list[dict[str, Any]] = []
    waiting, seen = [(0, "", path)], set()
    while waiting:
        depth, name, current = waiting.pop()
        note = results.notes.get(current)
        again = current in seen
        nodes.append(
            {"depth": depth, "as": name, "artefact": current, "again": again, **_origin(results, current, note)}
        )
        nodes[-1]["wrong"] = list(dict.fromkeys(wrong.get(current, [])))
        if note is not None and not again:
            below = [(depth + 1, n, inside(entry["path"])) for n, entry in _inputs_of_rows(note, rows if where else [])]
            waiting += reversed(below)
        seen.add(current)
    shown = [{k: v for k, v in row.items() if not column or k in (*FOLLOWED, column)} for row in rows]
    return {"artefact": path, "rows": shown, "nodes": nodes}


def locate(results: Results, artefact: str) -> str:
    """The path within the results folder of an artefact that has a note."""
    given = Path(artefact)
    if given.exists() and given.resolve().is_relative_to(results.root.resolve()):
        given = given.resolve().relative_to(results.root.resolve())
    path = given.as_posix()
    if path in results.edited:
        raise UserError(f"{path}: its note cannot be believed: {results.edited[path]}")
    if path not in results.notes:
        raise UserError(f"{artefact}: no artefact with a note of origin in {results.root}")
    return path


def choose(table: Path, where: Sequence[str], column: str | None) -> list[Row]:
    """The rows of a table in which every `column=value` of `where` holds."""
    if table.suffix != ".csv":
        raise UserError(f"{table}: only of a table (.csv) rows and columns can be chosen")
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or []
    wanted = [condition.partition("=") for condition in where]
    if bad := [condition for condition, (_, equals, _) in zip(where, wanted, strict=True) if not equals]:
        raise UserError(f"--where {bad[0]}: write column=value")
    for name in [*(name for name, _, _ in wanted), *([column] if column else [])]:
        if name not in columns:
            raise UserError(f"{table}: no column {name!r}; it has {', '.join(columns)}")
    chosen = [row for row in rows if all(row[name] == value for name, _, value in wanted)]
    if not chosen:
        raise UserError(f"{table}: no row with {' '.join(where)}")
    return chosen


def _inputs_of_rows(note: Note, rows: list[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, entry) of the inputs that the rows were made from."""
    runs = note["settings"].get("runs", [])
    for name, i, entry in flat(note["inputs"]):
        of = runs.get(name, []) if isinstance(runs, Mapping) else runs
        if (
            i is None
            or not rows
            or len(of) != len(note["inputs"][name])
            or any(_is_row_of(row, of[i], of) for row in rows)
        ):
            yield name, entry


def _is_row_of(row: Row, run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row is of a run. A key counts if any cell is one of the values it has in `runs`: a contrast has one
    method in its column `method` and another in `baseline`; a row of the endpoints has none of the methods.
    """
    for key in FOLLOWED:
        named = {str(r.get(key)) for r in runs} & set(row.values())
        if named and str(run.get(key)) not in named:
            return False
    return True


def _origin(results: Results, path: str, note: Note | None) -> dict[str, Any]:
    """What a note says in a line; only the content's digest where there is none."""
    if note is None:
        return {"rule": None, "sha256": results.hashes.get(path)}
    keys = (
        "rule",
        "wildcards",
        "seeds",
        "key",
        "sha256",
        "commit",
        "modified",
        "device",
        "started",
        "seconds",
        "versions",
    )
    return {key: note.get(key) for key in keys}


def text(chain: Mapping[str, Any]) -> str:
    """The chain to be read: one line for each artefact, indented below what was made from it."""
    lines = [chain["artefact"], *("  " + "  ".join(f"{k}={v}" for k, v in row.items()) for row in chain["rows"]), ""]
    lines += [_line(node) for node in chain["nodes"]]
    commits = {node.get("commit") for node in chain["nodes"]} - {None}
    return "\n".join([*lines, "", f"commits: {', '.join(sorted(commits)) or 'unknown'}"])


def _line(node: Mapping[str, Any]) -> str:
    start = "  " * node["depth"] + (f"{node['as']}: " if node["as"] else "")
    sha = (node["sha256"] or "?")[:12]
    if node["again"]:
        return f"{start}{node['artefact']}  (above)"
    if node["rule"] is None:
        return f"{start}{node['artefact']}  {'no note' if node['sha256'] else 'not here'}  sha256 {sha}"
    place = " ".join(f"{k}={v}" for k, v in node["wildcards"].items())
    seeds = " ".join(f"seed({k})={v}" for k, v in (node["seeds"] or {}).items())
    commit = (node["commit"] or "unknown")[:8] + ("+edits" if node["modified"] else "")
    made = [f"key {node['key'][:8]}", f"commit {commit}", node["device"], node["started"], f"{node['seconds']} s"]
    state = f"WRONG: {', '.join(node['wrong'])}" if node["wrong"] else "ok"
    return "  ".join(filter(None, [f"{start}{node['rule']}", place, seeds, *made, f"sha256 {sha}", state]))
