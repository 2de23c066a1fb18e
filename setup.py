"""Builds the wheel; all metadata stand in pyproject.toml. The workflow is copied into it, as data of the package.

A checkout, also one that is installed as editable, uses its own top-level folders
(lib/neuralign/common/workflow_files.py).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WORKFLOW = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles")  # MANIFEST.in has the same


class BuildWithWorkflow(build_py):
    """Build the package, and copy the workflow into it."""

    def run(self) -> None:
        """Called by setuptools for wheels, and for editable installations, which need no copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "neuralign", "snakemake")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build, with files that are no more
        for name in WORKFLOW:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(name, target / name)


setup(cmdclass={"build_py": BuildWithWorkflow})
