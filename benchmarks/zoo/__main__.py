"""Measure networks of torchvision, timm and transformers, and write docs/zoo.csv and docs/zoo.md after each of them.

`python -m benchmarks.zoo timm transformers` measures the networks of two libraries, in fifteen minutes on one core;
without names, those of all installed libraries, in hours. `--only PATTERN` measures those whose name matches,
`--missing` those without a row, for example after an interruption; `--only '^$'` only writes the page again. Every
network is measured in a separate process with limits of time and memory. For one that fails, the row says why.
"""

import argparse
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.zoo.networks import LIBRARIES, installed, names
from benchmarks.zoo.page import page
from benchmarks.zoo.processes import ROOT, measure, print_row
from neuralign.common.files import atomic

COLUMNS = ["library", "network", "version", "torch", "parameters", "groups", "permutable", "fixed", "reason", "outputs"]
COLUMNS += ["gradients", "certified", "seconds", "recovered", "attention", "attention_error", "evaluation", "training"]
COLUMNS += ["noticed", "whole_seconds", "failure", "precision", "peak", "recovered_failure"]


def write(table: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table as data (CSV) and the page (Markdown) beside it."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    all_names = {library: names(library) for library in LIBRARIES}
    for path, text in ((table, frame.to_csv(index=False)), (table.with_suffix(".md"), page(frame, all_names))):
        with atomic(path) as temporary:
            Path(temporary).write_text(text)


def main() -> None:
    """Measure the networks and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", choices=[*LIBRARIES, []], help="whose networks (default: of all)")
    parser.add_argument("--only", default="", help="a regular expression on names")
    parser.add_argument("--missing", action="store_true", help="only networks without a row")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of zoo.csv and zoo.md")
    parser.add_argument("--seconds", type=int, default=600, help="CPU seconds that one network may take (600)")
    parser.add_argument("--memory", type=int, default=24, help="GiB of memory that one network may take (24)")
    parser.add_argument("--row", nargs=2, metavar=("LIBRARY", "NETWORK"), help="print the row of one network as JSON")
    arguments = parser.parse_args()
    if arguments.row:
        from benchmarks.zoo.examination import examine

        print_row(lambda: examine(*arguments.row))
        return
    libraries, versions = arguments.library or list(LIBRARIES), installed()
    if absent := [library for library in libraries if library not in versions]:
        print(f"not installed, so left out: {', '.join(absent)} (pip install {' '.join(absent)})", flush=True)
    table = arguments.out / "zoo.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    measured_before = {(row["library"], row["network"]) for row in rows} if arguments.missing else set()
    for library in libraries:
        for name in names(library) if library in versions else ():
            if not re.search(arguments.only, name) or (library, name) in measured_before:
                continue
            start = time.perf_counter()
            row = {"library": library, "network": name, "version": versions[library], "torch": version("torch")}
            command = ["-m", "benchmarks.zoo", "--row", library, name]
            row |= measure(command, arguments.seconds, arguments.memory)
            rows = [old for old in rows if (old["library"], old["network"]) != (library, name)] + [row]
            write(table, rows)
            print(f"{library} {name}: {time.perf_counter() - start:.0f} s, {row}", flush=True)
    write(table, rows)


if __name__ == "__main__":
    main()
