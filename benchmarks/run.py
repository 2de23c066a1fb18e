"""`python -m benchmarks.run [topic ...]`: measure the speed targets on this machine; print a table for each topic."""

import argparse
import importlib
import json
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import timing
from benchmarks.timing import Row
from neuralign.common.tables import align_columns
from neuralign.workflow.running.notes import processor, versions

HERE = Path(__file__).parent
TOPICS = sorted(p.stem for p in HERE.glob("*.py") if "\ndef measure(" in p.read_text())
PACKAGES = ("torch", "torchvision", "numpy", "snakemake")


def header(device: str) -> dict[str, Any]:
    """Facts that the times depend on: the commit, the machine, its load, and versions."""
    commit = _output("git", "rev-parse", "--short", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": f"{commit or 'unknown'}{' and changes' if changed else ''}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
        "versions": versions(PACKAGES),
    }


def table(topic: str, rows: Sequence[Row]) -> str:
    """Rows as a table in plain text."""
    cells = [("what", "baseline", "ours", "ratio", "quartiles", "target", "met", "n", "note")]
    for r in rows:
        low, high = r["spread"]
        verdict = {True: "yes", False: "NO", None: ""}[r["met"]]
        seconds = (_format_seconds(r["baseline_seconds"]), _format_seconds(r["ours_seconds"]))
        spread = f"{low:.3g} to {high:.3g}"
        cells.append((r["what"], *seconds, f"{r['ratio']:.3g}", spread, r["target"], verdict, str(r["n"]), r["note"]))
    heading, *lines = align_columns(cells).splitlines()
    return "\n".join([f"== {topic}", heading, "-" * len(heading), *lines])


def _print(row: Row) -> None:
    """Print one row as soon as it is measured, so that it is not lost if a later one fails."""
    low, high = row["spread"]
    print(f"  {row['what']}: {row['ratio']:.3g} ({low:.3g} to {high:.3g}, n = {row['n']})", flush=True)


def _format_seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.4g} s"


def _output(*command: str) -> str | None:
    """The standard output of a command; None if it fails or does not exist."""
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic", help=f"{', '.join(TOPICS)} (default: all of them)")
    parser.add_argument("--quick", action="store_true", help="tiny problems, to test that it runs: times mean nothing")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of torch (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write header and rows to this file")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.topics) - set(TOPICS):
        parser.error(f"no topic {', '.join(sorted(unknown))}; allowed: {', '.join(TOPICS)}")
    torch.set_num_threads(arguments.threads)
    facts = header(arguments.device)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    rows_of: dict[str, list[Row]] = {}
    timing.listeners.append(_print)
    try:
        for topic in arguments.topics or TOPICS:
            module = importlib.import_module(f"benchmarks.{topic}")
            print(f"\n{topic} ...", flush=True)
            rows_of[topic] = module.measure(quick=arguments.quick, device=arguments.device)
            print(f"\n{table(topic, rows_of[topic])}", flush=True)
    finally:
        timing.listeners.remove(_print)
    if arguments.json:
        arguments.json.write_text(json.dumps({"header": facts, "topics": rows_of}, indent=1) + "\n")
    missed = [r["what"] for rows in rows_of.values() for r in rows if r["met"] is False]
    print(f"\n{len(missed)} targets missed" + "".join(f"\n  {what}" for what in missed))


if __name__ == "__main__":
    main()
