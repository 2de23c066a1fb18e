"""The lineage of an artefact: its note of origin, those of its inputs, and so on down to the data.

For a table, it can be limited to chosen rows. The job of a table has many inputs, and its settings describe the run
that each belongs to (dataset, network, regime, pair, method). Only the inputs whose run agrees with a chosen row are
followed. A row without, say, a method agrees with the runs of all methods.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralign.common.errors import UserError
from neuralign.workflow.provenance.consistency import Finding, Results, path_in_folder
from neuralign.workflow.running.notes import Note, flat

RUN_KEYS = ("dataset", "network", "regime", "pair", "method")  # columns of tables, and keys of the runs in settings
SHOWN = (  # entries of a note
    *("rule", "wildcards", "seeds", "key", "sha256", "commit", "modified"),
    *("device", "started", "seconds", "versions"),
)
Row = dict[str, str]


def lineage_of(
    results: Results, findings: Iterable[Finding], artefact: str, where: Sequence[str] = (), column: str | None = None
) -> dict[str, Any]:
    """The lineage of an artefact: {artefact, rows: chosen rows of a table, nodes: the tree of inputs, depth first}.

    Args:
        results: the results folder.
        findings: what is wrong in it; each node lists the kinds that concern it.
        artefact: the path of the artefact, relative to the results folder or not.
        where: `column=value` conditions that choose rows of a table; without any, all inputs are followed.
        column: show only this column of the chosen rows.

    Raises `UserError` for an artefact without a note, and for a column or row that does not exist.
    """
    path = locate(results, artefact)
    rows = choose_rows(results.root / path, where, column) if where or column else []
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        kinds.setdefault(finding.path, []).append(finding.kind)
    nodes: list[dict[str, Any]] = []
    pending, seen = [(0, "", path)], set()
    while pending:
        depth, name, current = pending.pop()
        note = results.notes.get(current)
        again = current in seen
        node = {"depth": depth, "as": name, "artefact": current, "again": again}
        wrong = {"wrong": list(dict.fromkeys(kinds.get(current, [])))}
        nodes.append(node | _shown_entries(results, current, note) | wrong)
        if note is not None and not again:
            inputs = _inputs_of_rows(note, rows if where else [])
            pending += reversed([(depth + 1, n, path_in_folder(entry["path"])) for n, entry in inputs])
        seen.add(current)
    shown = [{k: v for k, v in row.items() if not column or k in (*RUN_KEYS, column)} for row in rows]
    return {"artefact": path, "rows": shown, "nodes": nodes}


def locate(results: Results, artefact: str) -> str:
    """The path of an artefact relative to the results folder. Raises `UserError` if it has no intact note."""
    file = Path(artefact)
    if file.exists() and file.resolve().is_relative_to(results.root.resolve()):
        file = file.resolve().relative_to(results.root.resolve())
    path = file.as_posix()
    if path in results.edited:
        raise UserError(f"{path}: its note of origin is not intact: {results.edited[path]}")
    if path not in results.notes:
        raise UserError(f"{artefact}: no artefact with a note of origin in {results.root}")
    return path


def choose_rows(table: Path, where: Sequence[str], column: str | None) -> list[Row]:
    """The rows of a table for which every `column=value` of `where` holds."""
    if table.suffix != ".csv":
        raise UserError(f"{table}: rows and columns can only be chosen from a table (.csv)")
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or []
    if malformed := [condition for condition in where if "=" not in condition]:
        raise UserError(f"--where {malformed[0]}: write column=value")
    conditions = [condition.partition("=") for condition in where]
    for name in [*(name for name, _, _ in conditions), *([column] if column else [])]:
        if name not in columns:
            raise UserError(f"{table}: no column {name!r}; it has {', '.join(columns)}")
    chosen = [row for row in rows if all(row[name] == value for name, _, value in conditions)]
    if not chosen:
        raise UserError(f"{table}: no row with {' '.join(where)}")
    return chosen


def _inputs_of_rows(note: Note, rows: list[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, entry) of the inputs that the rows were made from; of all inputs if there are no rows, or no runs."""
    described = note["settings"].get("runs", [])  # the run of each input of a list; by the name of the list if several
    for name, i, entry in flat(note["inputs"]):
        runs = described.get(name, []) if isinstance(described, Mapping) else described
        has_run = i is not None and len(runs) == len(note["inputs"][name])
        if not (rows and has_run) or any(_is_row_of(row, runs[i], runs) for row in rows):
            yield name, entry


def _is_row_of(row: Row, run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row agrees with a run: whether, for each key, the run's value is in the row, or no run's value is.

    All cells of the row are searched, not only the column of that name: a contrast names one method in its column
    `method` and another in `baseline`. A row of the endpoints names no method, so it agrees with runs of any method.
    """
    for key in RUN_KEYS:
        values = {str(r.get(key)) for r in runs} & set(row.values())
        if values and str(run.get(key)) not in values:
            return False
    return True


def _shown_entries(results: Results, path: str, note: Note | None) -> dict[str, Any]:
    """The entries of a note that a node shows; only the digest of the artefact if there is no note."""
    if note is None:
        return {"rule": None, "sha256": results.hashes.get(path)}
    return {key: note.get(key) for key in SHOWN}


def as_text(lineage: Mapping[str, Any]) -> str:
    """The lineage as text: one line for each artefact, its inputs indented below it. `lineage`: from `lineage_of`."""
    rows = ["  " + "  ".join(f"{k}={v}" for k, v in row.items()) for row in lineage["rows"]]
    lines = [lineage["artefact"], *rows, "", *map(_format_node, lineage["nodes"])]
    commits = {node.get("commit") for node in lineage["nodes"]} - {None}
    return "\n".join([*lines, "", f"commits: {', '.join(sorted(commits)) or 'unknown'}"])


def _format_node(node: Mapping[str, Any]) -> str:
    """The line of one artefact: its rule, wildcards, seeds and origin, and what is wrong with it."""
    start = "  " * node["depth"] + (f"{node['as']}: " if node["as"] else "")
    sha = (node["sha256"] or "?")[:12]
    if node["again"]:
        return f"{start}{node['artefact']}  (above)"
    if node["rule"] is None:
        return f"{start}{node['artefact']}  {'no note' if node['sha256'] else 'not here'}  sha256 {sha}"
    wildcards = " ".join(f"{k}={v}" for k, v in node["wildcards"].items())
    seeds = " ".join(f"seed({k})={v}" for k, v in (node["seeds"] or {}).items())
    commit = (node["commit"] or "unknown")[:8] + ("+edits" if node["modified"] else "")
    made = [f"key {node['key'][:8]}", f"commit {commit}", node["device"], node["started"], f"{node['seconds']} s"]
    state = f"WRONG: {', '.join(node['wrong'])}" if node["wrong"] else "ok"
    return "  ".join(filter(None, [f"{start}{node['rule']}", wildcards, seeds, *made, f"sha256 {sha}", state]))
