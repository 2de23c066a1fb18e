"""One job as Snakemake starts it, torch-free: a script, the recipe it is given, and the process."""

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


def settle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in `folder`, with a blank in its name, that has the script and the file it reads."""
    here = folder / "a folder"
    here.mkdir()
    monkeypatch.chdir(here)
    make(here)
    return here


def make(here: Path) -> None:
    """The script and the file it reads, in a working directory."""
    (here / "our script.py").write_text(SCRIPT)
    (here / "data").write_text("content")


def recipe(word="hello", **others):
    """A recipe for that script."""
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
    """The recipe written, and the command line of the job."""
    RECIPE.parent.mkdir(parents=True, exist_ok=True)
    RECIPE.write_text(json.dumps(recipe(word, **others)))
    return [sys.executable, "-P", os.path.abspath("our script.py"), str(RECIPE), *arguments]


def environ(**more):
    """The environment with the library."""
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | more


def start(word="hello", *arguments, code=None, **environment):
    """The script as Snakemake starts it."""
    line = command(word, *arguments, code=code or {})
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ(**environment))


def ended(process, status):
    """Its standard error, once it has ended with this status."""
    _, text = process.communicate(timeout=60)
    assert process.returncode == status, text
    return text


def until(ready: Callable[[], object], seconds=60.0, told: Callable[[], str] = lambda: "it did not come to be") -> None:
    """Wait for something to be; `told` says what is known where it does not."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, told()
        time.sleep(0.02)
