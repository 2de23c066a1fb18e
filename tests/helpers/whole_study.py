"""A study from its data to its report in this process, by the scripts of the workflow; for tests with other objectives.

`Jobs` does the jobs by path; here those of a study follow, which read lists of files. No recipes and no notes.
"""

import runpy
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.gpu.jobs import ROOT, Jobs
from neuralign.workflow.graph import jobs
from neuralign.workflow.job import Ref, describe, job_name

OUTPUTS = {
    "tabulate": ("points", "paths", "accuracy", "robust", "contrasts"),
    "tabulate_claims": ("published", "claims", "alignments"),
    "tabulate_theory": ("theory", "theory_paths"),
    "plot": ("png", "pdf"),
    "report": ("html",),
}


class Study:
    """The files of a finished study. `tables`: those of the study; `figures`: name -> PNG; `page`: the report."""

    def __init__(self, done: Jobs, name: str):
        self.done, self.name = done, name
        self.made: dict[str, dict[str, str]] = {}
        for rule, wildcards, _ in jobs(done.catalogue, name):
            if "study" in wildcards:
                self._make(rule, wildcards)
            else:
                done.make(rule, wildcards)
        files = {key: path for outputs in self.made.values() for key, path in outputs.items()}
        tables = (key for rule in ("tabulate", "tabulate_claims") for key in OUTPUTS[rule])
        self.tables = {key: pd.read_csv(files[key]) for key in tables}
        self.figures = {
            Path(outputs["png"]).parent.name: outputs["png"] for outputs in self.made.values() if "png" in outputs
        }
        self.page = Path(files["html"]).read_text()

    def _make(self, rule: str, wildcards: dict[str, str]) -> dict[str, str]:
        """{output: path} of a job of the study, after the jobs whose outputs it reads."""
        name = job_name(rule, wildcards)
        if name not in self.made:
            description = describe(self.done.catalogue, rule, wildcards)
            inputs = {key: self._paths(refs) for key, refs in description.inputs.items()}
            folder = self.done.folder / "study" / wildcards.get("figure", rule)
            folder.mkdir(parents=True, exist_ok=True)
            outputs = {key: str(folder / key) for key in OUTPUTS[rule]}
            settings: dict[str, Any] = description.settings
            runpy.run_path(str(ROOT / "scripts" / f"{rule}.py"))["main"](**inputs, **outputs, **settings)
            self.made[name] = outputs
        return self.made[name]

    def _paths(self, refs: Ref | list[Ref]) -> Any:
        if isinstance(refs, list):
            return [self._paths(ref) for ref in refs]
        wildcards = dict(refs.wildcards)
        made = self._make(refs.rule, wildcards) if "study" in wildcards else self.done.make(refs.rule, wildcards)
        return made[refs.output]
