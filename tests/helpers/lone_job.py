"""One job, started as Snakemake starts it: its script, its recipe and the process. Needs no torch."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuralign.common.files import PACKAGE

OUT = Path("results/x/out.txt")
RECIPE = Path("results/recipes/x/out.txt.json")
SCRIPT = '''"""A script for tests."""

import os
import time
from pathlib import Path

from neuralign.common.files import atomic
from neuralign.workflow.running.run import run


def main(data, out, *, word, scratch):
    (scratch / "progress").write_text("some")
    if word == "fail" and not Path("mended").exists():
        raise RuntimeError("on purpose")
    with atomic(out) as temporary:
        temporary.write_text(f"{Path(data).read_text()} {word} {os.environ.get('OMP_NUM_THREADS')}")
        if word == "wait":
            Path("waiting").touch()
            time.sleep(120)
        if word == "fill":
            temporary.write_bytes(bytes(8_000_000))


if __name__ == "__main__":
    run(main)
'''


def change_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a new subfolder with a blank in its name, which holds the script and its input; return its path."""
    here = folder / "a folder"
    here.mkdir()
    monkeypatch.chdir(here)
    write_script(here)
    return here


def write_script(here: Path) -> None:
    """Write the script and its input into a folder."""
    (here / "our script.py").write_text(SCRIPT)
    (here / "data").write_text("content")


def recipe(word="hello", **others):
    """A recipe for that script; `others` replaces its values."""
    return {
        "rule": "test",
        "wildcards": {"n": "1"},
        "key": "k" * 20,
        "settings": {"word": word},
        "inputs": {"data": "data"},
        "outputs": {"out": str(OUT)},
        "upstream": {"data": "u" * 20},
        "code": {},
        "software": {},
    } | others


def command(word="hello", *arguments, **others):
    """Write the recipe; return the command line of the job."""
    RECIPE.parent.mkdir(parents=True, exist_ok=True)
    RECIPE.write_text(json.dumps(recipe(word, **others)))
    return [sys.executable, "-P", os.path.abspath("our script.py"), str(RECIPE), *arguments]


def job_environment(**more):
    """The environment variables, with the library on the path."""
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | more


def start_job(word="hello", *arguments, code=None, **environment):
    """The process of the job."""
    line = command(word, *arguments, code=code or {})
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=job_environment(**environment)
    )


def wait_for_exit(process, status):
    """Wait for the process, which must end with this status; return its standard error."""
    _, text = process.communicate(timeout=60)
    assert process.returncode == status, text
    return text


def until(
    ready: Callable[[], object], seconds=60.0, explain: Callable[[], str] = lambda: "it did not become ready"
) -> None:
    """Wait until `ready()` is true; fail after these seconds with the message of `explain`."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, explain()
        time.sleep(0.02)
