"""Measure on a GPU, section by section; each section writes its JSON file in FOLDER after every number.

    python -m benchmarks.gpu [exact] [steps] [together] [row] [evaluation] --out FOLDER

Without names all sections are measured, each in a process of its own, so that an error of the GPU or a killed process
costs one section. The exit status is 1 if a section has failed; its file says why. The machine needs PyTorch and the
packages in NEEDED, neither snakemake nor pandas nor the internet.
"""

import argparse
import importlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("exact", "steps", "together", "row", "evaluation")
NEEDED = {  # module -> its distribution, with those that only the version in requirements.lock needs
    "numpy": "numpy",
    "scipy": "scipy",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "psutil": "psutil",
    "PIL": "pillow",
    "sklearn": "scikit-learn narwhals",
    "joblib": "joblib",
    "threadpoolctl": "threadpoolctl",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=f"{', '.join(SECTIONS)} (default: all of them)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the JSON files are written")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="tiny problems, to test that it runs: times mean nothing")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sections) - set(SECTIONS):
        sys.exit(f"no section {', '.join(sorted(unknown))}; allowed: {', '.join(SECTIONS)}")
    if missing := missing_distributions():
        sys.exit(
            f"missing: {' '.join(missing)}; install them, or carry their wheels in the versions of requirements.lock"
        )
    if str(ROOT / "lib") not in sys.path:  # before an installed neuralign of another folder
        sys.path.insert(0, str(ROOT / "lib"))
    _demand(arguments.device)
    sections = arguments.sections or SECTIONS
    statuses = [
        _measure_here(name, arguments.out, arguments.device, arguments.quick)
        if len(sections) == 1
        else _measure_in_process(name, arguments.out, arguments.device, arguments.quick)
        for name in sections
    ]
    sys.exit(int("failed" in statuses))


def missing_distributions() -> list[str]:
    """The distributions in NEEDED that are not installed."""
    return [distribution for module, distribution in NEEDED.items() if find_spec(module) is None]


def _demand(device: str) -> None:
    """Exit with one line if torch cannot use the device. On a GPU, choose cuDNN's algorithms as in a job."""
    if device == "cpu":
        return
    import torch

    from neuralign.common.errors import UserError
    from neuralign.networks import setup

    try:
        first = setup.device()
    except UserError as error:
        sys.exit(str(error))
    if first.type != "cuda":
        sys.exit(f"torch {torch.__version__} cannot use a GPU here; `--device cpu --quick` runs the same lines")


def _measure_here(section: str, folder: Path, device: str, quick: bool) -> str:
    """The status of a section that is measured in this process. An error is recorded in the section's file."""
    from benchmarks.gpu.machine import clocks, header
    from benchmarks.gpu.result import Result

    result = Result(section, folder, header(device) | {"quick": quick})
    with result.part():
        importlib.import_module(f"benchmarks.gpu.{section}").measure(result, device, quick)
    result.finish(clocks())
    return result.status


def _measure_in_process(section: str, folder: Path, device: str, quick: bool) -> str:
    """The status of a section that is measured in a process of its own.

    If the process ends before it has said in its file that the section is done or has failed, this is done here.
    """
    from benchmarks.gpu.result import Result

    command = [sys.executable, "-m", "benchmarks.gpu", section, "--out", str(folder.resolve()), "--device", device]
    (folder / f"{section}.json").unlink(missing_ok=True)  # of an earlier run
    process = subprocess.run([*command, *(["--quick"] if quick else [])], cwd=ROOT, check=False)
    if not (number := process.returncode):
        return "done"
    result = Result.reopen(section, folder)
    if result.status != "failed":
        result.fail(f"ended by {signal.Signals(-number).name}" if number < 0 else f"ended with status {number}")
    return result.status


if __name__ == "__main__":
    main()
