"""The digests of code: exact about what a script can reach, blind to comments, docstrings and formatting."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from neuralign.workflow.provenance import code_digests

SCRIPTS = code_digests.PACKAGE.parents[1] / "scripts"

MODULE = '''"""What it does."""

import math  # for pi


class A:
    """A class."""

    size = 1


def f(x, *, y=1):
    """A function."""
    return x + y * math.pi


async def g():
    """Nothing else."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own: write(name, text) makes or edits a module and forgets what was read before."""
    monkeypatch.setattr(code_digests, "PACKAGE", tmp_path / "neuralign")

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for cached in (code_digests._digest, code_digests._imports):
            cached.cache_clear()
        return path

    write("neuralign/__init__.py", "")
    yield write
    for cached in (code_digests._digest, code_digests._imports):
        cached.cache_clear()


def digest(package, text):
    return code_digests._digest(package("neuralign/m.py", text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# for pi", "# for something else"),
        ('"""What it does."""', '"""Something\n\nelse."""'),
        ('"""What it does."""\n', ""),
        ('    """A class."""\n', ""),
        ('"""A function."""', '"""Another."""'),
        ('    """Nothing else."""', "    pass"),
        ("x + y * math.pi", "(x + (y*math.pi))"),
        ("def f(x, *, y=1):", "def f(\n    x,\n    *,\n    y=1,\n):"),
        ("import math", "\n\n\nimport math"),
        ("size = 1", "size = 0x1"),
    ],
)
def test_comments_docstrings_and_format_do_not_change_the_digest(package, old, new):
    assert MODULE.count(old) == 1
    assert digest(package, MODULE) == digest(package, MODULE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 1", "size = 2"),
        ("size = 1", "size = 1.0"),
        ("size = 1", "size: int = 1"),
        ("y=1", "y=2"),
        ("x + y", "x - y"),
        ("x + y * math.pi", "(x + y) * math.pi"),
        ("def f", "def h"),
        ("import math", "import cmath as math"),
        ("async def g", "def g"),
        ("    size = 1", "    size = 1\n    'a string that is no docstring'"),
        ("return x + y * math.pi", "'a sentence'; return x + y * math.pi + 0"),
    ],
)
def test_a_change_of_code_changes_the_digest(package, old, new):
    assert MODULE.count(old) == 1
    assert digest(package, MODULE) != digest(package, MODULE.replace(old, new))


def test_the_closure_is_what_a_script_reaches_and_nothing_else(package):
    package("neuralign/a.py", "import neuralign.b\n")
    package("neuralign/b.py", "def f():\n    from neuralign.kind import one\n")
    package("neuralign/kind/__init__.py", "from neuralign.c import x, y\n")
    package("neuralign/kind/one.py", "import os\n")
    package("neuralign/kind/two.py", "import neuralign.unused\n")
    package("neuralign/c.py", "x = y = 1\n")
    package("neuralign/unused.py", "")
    script = package("scripts/s.py", "import numpy\nfrom neuralign import a\n")
    expected = {"neuralign", "neuralign.a", "neuralign.b", "neuralign.c", "neuralign.kind", "neuralign.kind.one"}
    assert code_digests.closure(script).keys() == expected | {"scripts/s.py"}


def test_a_module_loaded_by_name_brings_its_imports_and_its_package(package):
    package("neuralign/kind/__init__.py", "import neuralign.c\n")
    package("neuralign/kind/two.py", "import neuralign.d\n")
    package("neuralign/c.py", "")
    package("neuralign/d.py", "")
    script = package("scripts/s.py", "")
    expected = {"neuralign", "neuralign.kind", "neuralign.kind.two", "neuralign.c", "neuralign.d", "scripts/s.py"}
    assert code_digests.closure(script, ["neuralign.kind.two"]).keys() == expected


def test_an_edit_far_down_changes_the_closure(package):
    script = package("scripts/s.py", "import neuralign.a\n")
    package("neuralign/a.py", "from neuralign import b\n")
    before = code_digests.closure(package("neuralign/b.py", "x = 1\n") and script)
    after = code_digests.closure(package("neuralign/b.py", "x = 2\n") and script)
    assert {name for name in before if before[name] != after[name]} == {"neuralign.b"}


def test_circular_imports_have_a_closure(package):
    package("neuralign/a.py", "import neuralign.b\n")
    package("neuralign/b.py", "import neuralign.a\n")
    assert len(code_digests.closure(package("scripts/s.py", "import neuralign.a\n"))) == 4


@pytest.mark.parametrize("statement", ["from . import b", "from .b import f", "from .. import neuralign"])
def test_relative_imports_are_refused_because_the_closure_would_lack_them(package, statement):
    package("neuralign/b.py", "")
    package("neuralign/a.py", statement)
    with pytest.raises(ValueError, match=r"a\.py, line 1: relative import; write"):
        code_digests.closure(package("scripts/s.py", "import neuralign.a\n"))


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\n")
    before = code_digests.file_digest(path)
    path.touch()
    assert code_digests.file_digest(path) == before
    path.write_text("b\n")
    assert code_digests.file_digest(path) != before


def test_no_script_reaches_the_code_that_plans():
    """An edit of the config check or of the graph changes results only through settings, which recipes hold."""
    planning = {"neuralign.workflow", "neuralign.config.catalogue", "neuralign.config.signatures", "neuralign.cli"}
    planning |= {"neuralign.config.checking", "neuralign.config.schema"}
    assert all(find_spec(name) for name in planning), "modules that were moved would not be found in a closure"
    for script in SCRIPTS.glob("*.py"):
        assert planning.isdisjoint(code_digests.closure(script)), script.name


def test_computing_a_closure_imports_no_library():
    program = (
        "import sys, json; from pathlib import Path; from neuralign.workflow.provenance import code_digests as code\n"
        f"scripts = Path({str(SCRIPTS)!r}).glob('*.py')\n"
        "sizes = {s.name: len(code.closure(s, ['neuralign.networks.architectures.resnet'])) for s in scripts}\n"
        "print(json.dumps([sizes, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    environment = {"PYTHONPATH": str(code_digests.PACKAGE.parent)}
    answer = subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True).stdout
    sizes, modules = json.loads(answer)
    assert sizes.keys() == {s.name for s in SCRIPTS.glob("*.py")} and min(sizes.values()) > 3
    assert not {"torch", "numpy", "pandas", "pydantic"} & set(modules)
