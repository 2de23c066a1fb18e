"""Digests of all code that a script can run. Comments, docstrings and formatting do not change them.

Imports are followed in the syntax trees, without importing anything: this takes milliseconds and does not load torch.
"""

import ast
import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from neuralign.common.files import PACKAGE
from neuralign.config.references import find, root, tree

# packages and modules that decide how a job is run, not what it computes; results do not depend on their code
RUNNER = ("neuralign.workflow", "neuralign.training.step_time")


def closure(script: Path, modules: Iterable[str] = ()) -> dict[str, str]:
    """{module: digest} of `script`, of the `modules` it loads by name, and of all that these import from this package,
    directly or not.
    """
    digests = {f"scripts/{script.name}": _digest(script)}
    pending = {*_imports(script), *modules}
    while pending:
        name = pending.pop()
        path = module_path(name)
        if name in digests or path is None or is_runner(name):
            continue
        digests[name] = _digest(path)
        parent = name.rpartition(".")[0]  # importing a module runs the `__init__.py` of its package
        pending |= _imports(path) | ({parent} if parent else set())
    return dict(sorted(digests.items()))


def is_runner(name: str) -> bool:
    """Whether a module decides how a job is run, not what it computes (`RUNNER`)."""
    return any(f"{name}.".startswith(f"{runner}.") for runner in RUNNER)


def external_code(name: str) -> dict[str, str]:
    """Digests of the code behind an object outside this package, such as `my_networks:Net` or `nets.py:Net`.

    Of an installed package that does not require this one: {distribution: version}. Else {file: digest} of the file
    that defines it and of all that this imports from the same folder or package, directly or not.
    """
    return _installed_versions(name) or {_label(file, name): _digest(file) for file in _files_behind(name)}


def file_of(name: str) -> dict[str, str]:
    """The same of the file alone that defines the object, for what is read from it without running it."""
    return _installed_versions(name) or {_label(find(name), name): _digest(find(name))}


def is_edited(name: str, code: Mapping[str, str]) -> bool:
    """Whether a file behind an object outside this package has another digest than in the `code` of a recipe."""
    for label, digest in external_code(name).items():
        planned = {code[key] for key in (label, f"{label} of {name}") if key in code}
        if planned and digest not in planned:
            return True
    return False


@cache
def modules_used(name: str) -> frozenset[str]:
    """The modules of this package that the code behind an object outside of it imports."""
    files = [] if _installed_versions(name) else _files_behind(name)
    return frozenset(module for file in files for module in _imports(file, relative=True))


def _files_behind(name: str) -> list[Path]:
    """The file that defines an object, and all that it imports from the same folder or package, sorted."""
    base, files, file = root(name), set[Path](), find(name)
    folders = [base / folder for folder in file.relative_to(base).parents[:-1]]
    pending = {file, *(path for folder in folders if (path := folder / "__init__.py").is_file())}
    top = file.relative_to(base).parts[0] if _is_installed(name) else ""  # other installed packages do not count
    while pending:
        file = pending.pop()
        if file not in files and file.is_relative_to(base / top):
            tree(file)  # raises `ObjectError` for a file that cannot be parsed
            files.add(file)
            pending |= set(_imported_files(file, base))
    return sorted(files)


def _label(file: Path, name: str) -> str:
    return file.relative_to(root(name)).as_posix()


def _installed_versions(name: str) -> dict[str, str]:
    """{distribution: version} of an installed package.

    Empty for files, for folders that are not installed, and for packages that require this one: they are made for it,
    and may be edited where they are installed.
    """
    if not _is_installed(name):
        return {}
    package = name.partition(":")[0].partition(".")[0]
    distributions = importlib.metadata.packages_distributions().get(package, [])
    if any(map(_requires_this_package, distributions)):
        return {}
    return {d: importlib.metadata.version(d).split("+")[0] for d in distributions}


def _is_installed(name: str) -> bool:
    is_file = name.rpartition(":")[0].endswith(".py")
    return not is_file and bool({"site-packages", "dist-packages"} & set(find(name).parts))


def _requires_this_package(distribution: str) -> bool:
    requirements = importlib.metadata.requires(distribution) or []
    return any(re.match(rf"{PACKAGE.name}\b", requirement) for requirement in requirements)


def _imported_files(file: Path, base: Path) -> Iterator[Path]:
    """The files under `base` that a file imports, and the `__init__.py` of the packages that contain them."""
    package = file.relative_to(base).parent.parts
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = list(package[: len(package) + 1 - node.level]) if node.level else []  # of a relative import
            imported = parent + (node.module.split(".") if node.module else [])
            names = [imported, *([*imported, alias.name] for alias in node.names)]
        else:
            continue
        for parts in names:
            for i in range(1, len(parts) + 1):
                path = base.joinpath(*parts[:i])
                yield from (p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file())


def module_path(name: str) -> Path | None:
    """The file of a module of this package; None if there is no such module."""
    base = PACKAGE.joinpath(*name.split(".")[1:])
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def file_digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file's bytes; of Python code, without comments likewise."""
    return _digest(path) if path.suffix == ".py" else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@cache
def _digest(path: Path) -> str:
    """Digest of a file's syntax tree without its docstrings."""
    module = ast.parse(path.read_text(), str(path))
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(module).encode()).hexdigest()[:16]


@cache
def _imports(path: Path, *, relative: bool = False) -> frozenset[str]:
    """The modules of this package that a file names in import statements, wherever these stand in it.

    `relative`: whether the file may have relative imports, as one outside of this package, which do not count.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            if relative:
                continue
            raise ValueError(f"{path}, line {node.lineno}: relative import; write `from neuralign...`")
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(n for n in names if n.split(".")[0] == "neuralign" and module_path(n))
