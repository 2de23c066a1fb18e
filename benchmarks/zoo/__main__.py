"""Measure networks of torchvision, timm and transformers, and write docs/zoo.csv and docs/zoo.md after each of them.

`python -m benchmarks.zoo timm transformers` measures those of two libraries, fifteen minutes on one core; without names
all that are installed, which takes hours. `--only PATTERN` measures those whose name matches, `--missing` those without
a row, and so goes on where it was broken off; `--only '^$'` writes the page again. Every network is measured in a
process of its own with a limit of time and memory; what cannot be measured becomes a row that says why.
"""

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.zoo.networks import LIBRARIES, installed, names
from benchmarks.zoo.page import page
from neuralign.common.files import atomic

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 10  # times the seconds of the processor that a network may take on the clock
COLUMNS = ["library", "network", "version", "torch", "parameters", "groups", "permutable", "fixed", "reason", "outputs"]
COLUMNS += ["gradients", "certified", "seconds", "recovered", "attention", "attention_error", "evaluation", "training"]
COLUMNS += ["noticed", "whole_seconds", "failure"]


def measured(library: str, name: str, seconds: int, memory: int) -> dict[str, Any]:
    """The row of a network, from a process that may take so many seconds and GiB; with `failure` where it has none.

    Seconds of the processor count, or on a busy machine nothing would be in time; one that waits for ever is ended too.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (memory << 30, memory << 30))

    command = [sys.executable, "-m", "benchmarks.zoo", "--row", library, name]
    try:
        ran = subprocess.run(command, preexec_fn=limit, timeout=PATIENCE * seconds, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return {"failure": f"it takes more than {PATIENCE * seconds} s"}
    if ran.returncode < 0:
        ended = signal.Signals(-ran.returncode).name
        return {"failure": f"ended by {ended}, as for want of {memory} GiB or {seconds} s of the processor"}
    if ran.returncode:
        return {"failure": (ran.stderr.strip().splitlines() or [f"status {ran.returncode}"])[-1][:200]}
    row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return row


def print_row(library: str, name: str) -> None:
    """What the process of one network does."""
    import warnings

    import torch

    from benchmarks.zoo.examination import examined

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(json.dumps(examined(library, name)))


def write(table: Path, rows: list[dict[str, Any]]) -> None:
    """The table as data, and the page beside it."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    known = {library: names(library) for library in LIBRARIES}
    for path, text in ((table, frame.to_csv(index=False)), (table.with_suffix(".md"), page(frame, known))):
        with atomic(path) as temporary:
            Path(temporary).write_text(text)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", choices=[*LIBRARIES, []], help="whose networks (default: of all)")
    parser.add_argument("--only", default="", help="a regular expression on names")
    parser.add_argument("--missing", action="store_true", help="only networks without a row")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of zoo.csv and zoo.md")
    parser.add_argument("--seconds", type=int, default=600, help="the most that one network may take (600)")
    parser.add_argument("--memory", type=int, default=24, help="GiB, likewise (24)")
    parser.add_argument("--row", nargs=2, metavar=("LIBRARY", "NETWORK"), help="print the row of one network as JSON")
    given = parser.parse_args()
    if given.row:
        print_row(*given.row)
        return
    wanted, there = given.library or list(LIBRARIES), installed()
    if absent := [library for library in wanted if library not in there]:
        print(f"not installed, so left out: {', '.join(absent)} (pip install {' '.join(absent)})", flush=True)
    table = given.out / "zoo.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    have = {(row["library"], row["network"]) for row in rows} if given.missing else set()
    for library in wanted:
        for name in names(library) if library in there else ():
            if not re.search(given.only, name) or (library, name) in have:
                continue
            began = time.perf_counter()
            row = {"library": library, "network": name, "version": there[library], "torch": version("torch")}
            row |= measured(library, name, given.seconds, given.memory)
            rows = [old for old in rows if (old["library"], old["network"]) != (library, name)] + [row]
            write(table, rows)
            print(f"{library} {name}: {time.perf_counter() - began:.0f} s, {row}", flush=True)
    write(table, rows)


if __name__ == "__main__":
    main()
