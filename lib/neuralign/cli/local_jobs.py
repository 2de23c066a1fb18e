"""Jobs of the workflow without Snakemake: the scripts of its rules, run one after another in this process."""

import inspect
import runpy
from pathlib import Path
from typing import Any

from neuralign.cli.shared import CHECKOUT, UsageError
from neuralign.config.catalogue import Catalogue
from neuralign.workflow.graph import job
from neuralign.workflow.job import Ref

OUTPUTS = {"fetch_data": ["data"], "import_endpoint": ["network"], "align": ["permutation", "moved"]}


def make(c: Catalogue, needed: Ref, folder: Path) -> Path:
    """The output of a job in `folder`, made if it is not there, with all that it is made from."""
    name = "-".join([needed.rule, *(value for _, value in needed.wildcards)])
    outputs = {output: folder / output / name for output in OUTPUTS[needed.rule]}
    if not outputs[needed.output].exists():
        found = job(c, needed.rule, dict(needed.wildcards))
        inputs = {n: str(make(c, r, folder)) for n, r in found.inputs.items() if isinstance(r, Ref)}
        for path in outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        main = _script(needed.rule)
        scratch = {"scratch": folder / "scratch" / name} if "scratch" in inspect.signature(main).parameters else {}
        for path in scratch.values():
            path.mkdir(parents=True)
        main(**inputs, **{n: str(p) for n, p in outputs.items()}, **found.settings, **scratch)
    return outputs[needed.output]


def _script(rule: str) -> Any:
    path = CHECKOUT / "scripts" / f"{rule}.py"
    if not path.is_file():
        raise UsageError(f"no {path}: install from a checkout of the repository, with pip install -e .")
    return runpy.run_path(str(path))["main"]
