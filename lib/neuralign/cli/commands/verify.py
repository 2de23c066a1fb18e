"""`neuralign verify`: whether all results agree with their provenance notes, their inputs, the config and the code."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError, load_config
from neuralign.cli.interface.options import ConfigFiles
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.provenance.consistency import Results, check_results, read_results
from neuralign.workflow.provenance.lineage import as_text, lineage_of

DESCRIPTION = "Check that every result agrees with its provenance note, and with its inputs, the config and the code."
EXAMPLES = [
    "neuralign verify results/",
    "neuralign verify copy/ --ignore-config   # a copy of a results folder, or of parts of it",
    "neuralign verify results/ --trace results/studies/demo/tables/accuracy.csv --where method=aligned",
]


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="a results folder, or a copy of one or of parts of it")
    ],
    ignore_config: Annotated[
        bool, typer.Option("--ignore-config", help="do not compare results with the config and the code")
    ] = False,
    trace: Annotated[
        str | None,
        typer.Option(metavar="ARTEFACT", help="print the files that this result was made from, down to the data"),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE...", help="with --trace: only these rows of the table"),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="with --trace: print only this column of the rows")
    ] = None,
    configfile: ConfigFiles = None,
) -> tuple[int, dict[str, Any], str]:
    """Compare the notes with the digests of all results, with each other, and with the config and the code."""
    if (where or column) and not trace:
        raise UsageError("--where and --column need --trace")
    start, results = time.monotonic(), read_results(folder)
    config = None if ignore_config else load_config(configfile)
    findings, not_compared = check_results(results, Catalogue(config) if config else None)
    lineage = None
    if trace:
        lineage = lineage_of(results, findings, trace, where or [], column)
        artefacts = {node["artefact"] for node in lineage["nodes"]}
        findings = [finding for finding in findings if finding.path in artefacts]
    facts = {
        "artefacts": len(results.artefacts),
        "notes": len(results.notes) + len(results.edited),
        "findings": [finding._asdict() for finding in findings],
        "absent": results.absent(),
        "not_in_config": not_compared,
        "without_commit": results.without_commit(),
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
    if names := results.without_commit():
        lines.append(f"named without a commit, so that nothing is due if a hub changes them: {', '.join(names)}")
    return "\n".join(lines)
