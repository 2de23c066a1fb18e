"""Which code of this repository a script runs, with digests that comments, docstrings and formatting do not change.

Python's import system is not asked: the syntax trees are read, so the answer costs milliseconds and no torch.
"""

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from neuralign.common.files import PACKAGE
from neuralign.config.references import find, root, tree

# how a job is run, not what it computes: packages and modules
RUNNER = ("neuralign.workflow", "neuralign.training.step_time")


def closure(script: Path, modules: Iterable[str] = ()) -> dict[str, str]:
    """{name: digest} of `script`, of the `modules` it loads by name, and of all that these import from the package."""
    found = {f"scripts/{script.name}": _digest(script)}
    waiting = {*_imports(script), *modules}
    while waiting:
        name = waiting.pop()
        path = module_path(name)
        if name in found or path is None or is_runner(name):
            continue
        found[name] = _digest(path)
        waiting |= _imports(path) | ({name.rpartition(".")[0]} if name.count(".") else set())
    return dict(sorted(found.items()))


def is_runner(name: str) -> bool:
    """Whether a module says how a job is run, not what it computes."""
    return any(f"{name}.".startswith(f"{runner}.") for runner in RUNNER)


def outside(name: str) -> dict[str, str]:
    """{distribution: version} of an object of other people's code that is installed; else {file: digest} of its own
    file and of all that this imports from the same folder.
    """
    if version := _installed(name):
        return version
    base, found, waiting = root(name), dict[str, str](), {find(name)}
    while waiting:
        file = waiting.pop()
        label = file.relative_to(base).as_posix()
        if label not in found:
            tree(file)  # refuses what does not parse
            found[label] = _digest(file)
            waiting |= set(_beside(file, base))
    return dict(sorted(found.items()))


def _installed(name: str) -> dict[str, str]:
    if name.rpartition(":")[0].endswith(".py") or not {"site-packages", "dist-packages"} & set(find(name).parts):
        return {}
    package = name.partition(":")[0].partition(".")[0]
    named = importlib.metadata.packages_distributions().get(package, [])
    return {d: importlib.metadata.version(d).split("+")[0] for d in named}


def _beside(file: Path, base: Path) -> Iterator[Path]:
    """The files under `base` that a file imports, with those of the packages around them."""
    package = file.relative_to(base).parent.parts
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = list(package[: len(package) + 1 - node.level]) if node.level else []
            start = above + (node.module.split(".") if node.module else [])
            names = [start, *([*start, alias.name] for alias in node.names)]
        else:
            continue
        for parts in names:
            for i in range(1, len(parts) + 1):
                here = base.joinpath(*parts[:i])
                yield from (p for p in (here / "__init__.py", here.with_suffix(".py")) if p.is_file())


def module_path(name: str) -> Path | None:
    """The file of a module of this package; None if there is none."""
    base = PACKAGE.joinpath(*name.split(".")[1:])
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def file_digest(path: Path) -> str:
    """Short sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def _digest(path: Path) -> str:
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@cache
def _imports(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{path}, line {node.lineno}: a relative import, write `from neuralign...`")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(n for n in names if n.split(".")[0] == "neuralign" and module_path(n))
