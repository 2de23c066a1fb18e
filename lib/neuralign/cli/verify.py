"""`neuralign verify`: is every result what its note of origin says, and made from what is here?"""

import argparse
import time
from pathlib import Path
from typing import Any

from neuralign.cli import shared
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.provenance.consistency import Results, check_results, read_results
from neuralign.workflow.provenance.lineage import text, trace

EXAMPLES = [
    "neuralign verify results/",
    "neuralign verify copy/ --ignore-config   # a copy of a results folder, or of a part of one",
    "neuralign verify results/ --trace results/studies/demo/tables/accuracy.csv --where method=aligned",
]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("results", type=Path, metavar="FOLDER", help="a results folder, or a copy of one, or of a part of it")
    add("--ignore-config", action="store_true", help="do not ask whether results are those of the config and code")
    add("--trace", metavar="ARTEFACT", help="print what an artefact was made from, down to the data")
    add("--where", metavar="COLUMN=VALUE", nargs="+", default=[], help="only these rows of the traced table")
    add("--column", help="print only this column of them")
    shared.add_configfile(parser)


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Hash every artefact and compare notes with artefacts, with each other and with the config and code."""
    if (arguments.where or arguments.column) and not arguments.trace:
        raise shared.UsageError("--where and --column belong to --trace")
    began, results = time.monotonic(), read_results(arguments.results)
    config = None if arguments.ignore_config else shared.config(arguments)
    findings, not_compared = check_results(results, Catalogue(config) if config else None)
    chain = None
    if arguments.trace:
        chain = trace(results, findings, arguments.trace, arguments.where, arguments.column)
        followed = {node["artefact"] for node in chain["nodes"]}
        findings = [finding for finding in findings if finding.path in followed]
    facts = {
        "artefacts": len(results.artefacts),
        "notes": len(results.notes) + len(results.edited),
        "findings": [finding._asdict() for finding in findings],
        "absent": results.absent(),
        "not_in_config": not_compared,
        "trace": chain,
    }
    lines = [text(chain) if chain else _summary(results, time.monotonic() - began, not_compared), ""]
    lines += [f"{finding.kind:<17} {finding.path}: {finding.text}" for finding in findings]
    lines += [f"{len(findings)} things are wrong" if findings else "nothing is wrong"]
    return int(bool(findings)), facts, "\n".join(lines)


def _summary(results: Results, seconds: float, not_compared: list[str]) -> str:
    size = sum((results.root / artefact).stat().st_size for artefact in results.artefacts)
    content = f"{len(results.artefacts)} artefacts, {size / 1e6:.1f} MB"
    lines = [f"{results.root}: {content}, hashed and compared in {seconds:.1f} s"]
    if absent := results.absent():
        lines.append(f"not here, so not compared: {len(absent)} inputs, such as {absent[0]}")
    if not_compared:
        lines.append(f"not compared with the config and code: {len(not_compared)} results, such as {not_compared[0]}")
    return "\n".join(lines)
