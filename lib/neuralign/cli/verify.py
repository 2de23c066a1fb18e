"""`python -m neuralign.cli.verify results/`: is every result what its note of origin says, and made from what is here?

Hashes every artefact, compares notes with artefacts, with each other and with the config and code of this folder.
`--trace results/studies/demo/tables/accuracy.csv --where method=aligned` prints what the numbers were made from.
Exit status: 0 nothing is wrong, 1 something is, 2 there is nothing to verify, or the command is wrong.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from neuralign.config.catalogue import ConfigError
from neuralign.config.files import YamlError
from neuralign.workflow.planning.plan import CONFIG, configured
from neuralign.workflow.provenance.consistency import KINDS, Results, disagreements, inside, out_of_date
from neuralign.workflow.provenance.lineage import text, trace


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    told = parser.parse_args(arguments)
    if (told.where or told.column) and not told.trace:
        parser.error("--where and --column belong to --trace")
    began, found = time.monotonic(), _results(parser, told.results)
    findings, unknown = list(disagreements(found)), list(found.notes)
    if not told.ignore_config and CONFIG.exists():
        unknown.clear()
        try:
            findings += out_of_date(found, configured(told.configfile), unknown)
        except (ConfigError, YamlError) as error:
            parser.error(str(error))
    findings.sort(key=lambda f: (KINDS.index(f.kind), f.path))
    chain = None
    if told.trace:
        try:
            chain = trace(found, findings, told.trace, told.where, told.column)
        except ValueError as error:
            parser.error(str(error))
        followed = {node["artefact"] for node in chain["nodes"]}
        findings = [f for f in findings if f.path in followed]
    if told.json:
        counts = {"artefacts": len(found.artefacts), "notes": len(found.notes) + len(found.edited)}
        lists = {"findings": [f._asdict() for f in findings], "absent": found.absent(), "not_in_config": unknown}
        print(json.dumps(counts | lists | {"trace": chain}, indent=1))
    else:
        print(text(chain) if chain else _summary(found, time.monotonic() - began, unknown), end="\n\n")
        print(*(f"{f.kind:<17} {f.path}: {f.text}" for f in findings), sep="\n", end="\n" if findings else "")
        print(f"{len(findings)} things are wrong" if findings else "nothing is wrong")
    return 1 if findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neuralign.cli.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", type=Path, help="a results folder, or a copy of one, or of a part of it")
    add("--configfile", type=Path, nargs="+", default=[], help="laid over the config, as Snakemake does")
    add("--ignore-config", action="store_true", help="do not ask whether results are those of the config and code")
    add("--trace", metavar="ARTEFACT", help="print what an artefact was made from, down to the data")
    add("--where", metavar="COLUMN=VALUE", nargs="+", default=[], help="only these rows of the traced table")
    add("--column", help="print only this column of them")
    add("--json", action="store_true", help="print JSON")
    return parser


def _results(parser: argparse.ArgumentParser, folder: Path) -> Results:
    """What lies in a folder, which must be the top of a results folder."""
    if not folder.is_dir():
        parser.error(f"{folder}: no such folder")
    found = Results(folder)
    if not found.notes and not found.edited:
        parser.error(f"{folder}: no notes of origin here; a results folder is needed")
    if found.notes and all(inside(note["artefact"]) != path for path, note in found.notes.items()):
        example = next(iter(found.notes.values()))["artefact"]
        parser.error(f"{folder}: only a part of a results folder, the one with {example}; name the whole folder")
    return found


def _summary(found: Results, seconds: float, unknown: list[str]) -> str:
    size = sum((found.root / a).stat().st_size for a in found.artefacts)
    lines = [
        f"{found.root}: {len(found.artefacts)} artefacts, {size / 1e6:.1f} MB, hashed and compared in {seconds:.1f} s"
    ]
    if absent := found.absent():
        lines.append(f"not here, so not compared: {len(absent)} inputs, such as {absent[0]}")
    if unknown:
        lines.append(f"not compared with the config and code: {len(unknown)} results, such as {unknown[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    sys.exit(main())
