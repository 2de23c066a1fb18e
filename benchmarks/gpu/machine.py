"""Facts about the machine and the code that the numbers depend on."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks import run
from neuralign.workflow.running.notes import versions

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "triton", "numpy", "scipy", "pydantic", "safetensors")
QUERIES = ["name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw"]
QUERIES += ["compute_mode", "mig.mode.current"]


def header(device: str) -> dict[str, Any]:
    """Date, commit, card, driver, versions, clocks, and the settings of torch that change numbers or times."""
    facts = run.header(device) | {"source": _source_digest(), "versions": versions(PACKAGES)}
    facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    facts |= {
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    if device == "cuda":
        facts["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return facts | {"nvidia_smi": clocks()}


def clocks() -> dict[str, str]:
    """{query: value} of nvidia-smi for the first GPU; {} where there is no nvidia-smi or it fails."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    values = done.stdout.strip().split(", ")
    return dict(zip(QUERIES, values, strict=True)) if done.returncode == 0 and len(values) == len(QUERIES) else {}


def _source_digest() -> str:
    """A digest of code and config: it identifies the version where the repository's history is not at hand."""
    digest = hashlib.sha256()
    folders = ("lib", "scripts", "benchmarks")
    for path in [ROOT / "config.yaml", *sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))]:
        digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:20]
