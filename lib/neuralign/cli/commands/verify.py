"""`neuralign verify`: whether all results agree with their provenance notes, their inputs, the config and the code."""

import argparse
import time
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.provenance.consistency import Results, check_results, read_results
from neuralign.workflow.provenance.lineage import as_text, lineage_of

EXAMPLES = [
    "neuralign verify results/",
    "neuralign verify copy/ --ignore-config   # a copy of a results folder, or of parts of it",
    "neuralign verify results/ --trace results/studies/demo/tables/accuracy.csv --where method=aligned",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = parser.add_argument
    add("results", type=Path, metavar="FOLDER", help="a results folder, or a copy of one or of parts of it")
    add("--ignore-config", action="store_true", help="do not compare results with the config and the code")
    add("--trace", metavar="ARTEFACT", help="print the files that this result was made from, down to the data")
    add("--where", metavar="COLUMN=VALUE", nargs="+", default=[], help="with --trace: only these rows of the table")
    add("--column", help="with --trace: print only this column of the rows")
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Compare the notes with the digests of all results, with each other, and with the config and the code."""
    if (arguments.where or arguments.column) and not arguments.trace:
        raise shared.UsageError("--where and --column need --trace")
    start, results = time.monotonic(), read_results(arguments.results)
    config = None if arguments.ignore_config else shared.load_config(arguments)
    findings, not_compared = check_results(results, Catalogue(config) if config else None)
    lineage = None
    if arguments.trace:
        lineage = lineage_of(results, findings, arguments.trace, arguments.where, arguments.column)
        artefacts = {node["artefact"] for node in lineage["nodes"]}
        findings = [finding for finding in findings if finding.path in artefacts]
    facts = {
        "artefacts": len(results.artefacts),
        "notes": len(results.notes) + len(results.edited),
        "findings": [finding._asdict() for finding in findings],
        "absent": results.absent(),
        "not_in_config": not_compared,
        "trace": lineage,
    }
    lines = [as_text(lineage) if lineage else _summarise(results, time.monotonic() - start, not_compared), ""]
    lines += [f"{finding.kind:<17} {finding.path}: {finding.text}" for finding in findings]
    lines += [f"problems: {len(findings)}" if findings else "no problems"]
    return int(bool(findings)), facts, "\n".join(lines)


def _summarise(results: Results, seconds: float, not_compared: list[str]) -> str:
    """How much was compared, and what was not."""
    size = sum((results.root / artefact).stat().st_size for artefact in results.artefacts)
    content = f"{len(results.artefacts)} artefacts, {size / 1e6:.1f} MB"
    lines = [f"{results.root}: {content}, hashed and compared in {seconds:.1f} s"]
    if absent := results.absent():
        lines.append(f"missing, so not compared: {len(absent)} inputs, such as {absent[0]}")
    if not_compared:
        lines.append(f"not compared with the config and code: {len(not_compared)} results, such as {not_compared[0]}")
    return "\n".join(lines)
