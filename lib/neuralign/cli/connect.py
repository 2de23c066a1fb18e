"""`neuralign connect`: low-loss curves between pairs of checkpoints, aligned and not, and a report of them."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from neuralign.cli import shared
from neuralign.cli.show import show
from neuralign.common.files import atomic
from neuralign.workflow.running.run_lock import exclusive

EXAMPLES = [
    "neuralign connect torchvision.models:resnet18 a.pt b.pt --data my_images/ --out connected",
    "neuralign connect ./nets.py:Net a.pt b.pt c.pt d.pt --data my.npz --epochs 50   # two pairs: a-b and c-d",
]
STUDY = "connect"
LOCKS = Path(".snakemake", "locks")  # Snakemake's own
METHODS = {"linear_unaligned": "linear", "linear_aligned": "linear", "unaligned": "bezier", "aligned": "bezier"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    shared.add_network(parser)
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="A B, or several pairs: A B C D")
    parser.add_argument(
        "--out", type=Path, default=Path("connected"), help="the folder of everything (default: %(default)s)"
    )
    parser.add_argument("--method", default="correlation", help="an alignment of the config (default: correlation)")
    parser.add_argument("--cores", default="all", help="how many jobs at a time (default: all cores)")
    parser.add_argument("--dry-run", action="store_true", help="write the config and list the jobs; run nothing")
    shared.add_checkpoints(parser)
    shared.add_data(parser, required=True)
    group = parser.add_argument_group("curves")
    group.add_argument("--epochs", type=shared.count, default=20)
    group.add_argument("--batch-size", type=shared.count, default=128)
    group.add_argument("--lr", type=float, default=0.02)
    group.add_argument("--weight-decay", type=float, default=5e-4)
    group.add_argument("--seed", type=shared.count, default=1, help="of the curves; the next pair takes the next")
    group.add_argument("--points", type=shared.count, default=17, help="of each curve, that are evaluated")


def run(given: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Write the study into the output folder and run the workflow on it; a second run makes only what is missing."""
    snakefile = shared.CHECKOUT / "Snakefile"
    if not snakefile.is_file():
        raise shared.UsageError(f"no {snakefile}: install from a checkout of the repository, with pip install -e .")
    overlay = study(given, known := shared.config(given))
    shared.catalogue(known, overlay)
    file = given.out / "connect.yaml"
    configs = [str(f.absolute()) for f in (*given.configfile, file)]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(snakefile),
        "--directory",
        str(given.out.absolute()),
    ]
    command += ["--configfile", *configs, "--cores", given.cores, "--quiet", "host"]
    command += [*(["rules"] if not given.verbose else []), "--", STUDY]
    shown = shlex.join(command)
    with exclusive(given.out) as lock:
        with atomic(file) as temporary:
            temporary.write_text(
                "# Laid over config.yaml; written by `neuralign connect`, which replaces it.\n"
                + yaml.safe_dump(overlay, sort_keys=False)
            )
        status = _run(command, given, lock)
    facts: dict[str, Any] = {"config": str(file), "command": shown, "status": status}
    if status or given.dry_run:
        text = "some jobs failed; the log that is named above says why" if status else "nothing was run"
        return int(status != 0), facts, f"{text}\nthe workflow alone: {shown}"
    shown_facts, text = show(given.out / "results" / "studies" / STUDY)
    return 0, facts | shown_facts, text


def _run(command: list[str], given: argparse.Namespace, lock: int) -> int:
    """The exit status of Snakemake, which holds the lock too; what a run that was killed has locked is unlocked."""

    def run(*more: str) -> int:
        whole = [*command[:-2], *more, *command[-2:]]
        return subprocess.run(whole, stdout=sys.stderr, check=False, pass_fds=[lock]).returncode

    if given.dry_run:
        return run("--dry-run")
    if any((given.out / LOCKS).glob("*")):
        run("--unlock")
    return run()


def study(given: argparse.Namespace, known: shared.Config) -> shared.Config:
    """The config of the study: laid over the workflow's own, it is all that the rules need."""
    if len(given.checkpoints) % 2:
        raise shared.UsageError(f"CHECKPOINT: found {len(given.checkpoints)}, pairs are wanted: A B, or A B C D")
    (network, entry), (data, dataset) = shared.network(given, known), shared.data(given, known)
    ends = shared.checkpoints(given, given.checkpoints)
    names = {str(e["file"]): name for name, e in ends.items()}
    order = [names[str(Path(file).absolute())] for file in given.checkpoints]
    pairs = [f"{a}-{b}" for a, b in zip(order[::2], order[1::2], strict=True)]
    training = {
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "lr": given.lr,
        "weight_decay": given.weight_decay,
    }
    training["schedule"] = {"use": "plateau"}
    alignment, alignments = shared.alignment(given, known)
    aligned = {name: "none" if name.endswith("unaligned") else alignment for name in METHODS}
    grid = {
        "dataset": data,
        "network": network,
        "regime": shared.REGIME,
        "pair": pairs,
        "curve_seed": [given.seed + i for i in range(len(pairs))],
        "method": list(METHODS),
        "evaluation": STUDY,
    }
    return {
        "default_study": STUDY,
        "datasets": {data: dataset},
        "networks": {network: entry},
        "checkpoints": ends,
        "regimes": {shared.REGIME: shared.regime(not given.no_normalise, training)},
        "alignments": {"none": None, **alignments},
        "curves": {"linear": {"use": "segment"}, "bezier": {"bends": 1}},
        "methods": {name: {"alignment": aligned[name], "curve": curve} for name, curve in METHODS.items()},
        "evaluations": {STUDY: {"points": given.points}},
        "studies": {STUDY: {"title": f"Curves between checkpoints of {given.network}", "grids": [grid]}},
    }
