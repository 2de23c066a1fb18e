"""Objects of anyone's code, named `package.module:name` or `folder/file.py:name`. Finding one imports nothing of it.

Modules are looked for where Python looks, then in the working directory; a file's own folder is where its imports go.
"""

import ast
import os
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from neuralign.common.errors import UserError
from neuralign.config.problems import did_you_mean


class ObjectError(UserError):
    """An object that cannot be found or imported; the message says what was looked for and what there is."""


def is_object(name: str) -> bool:
    """Whether `name` is of this kind, and no plug-in."""
    return ":" in name


def find(name: str) -> Path:
    """The file that the object `name` comes from, found without importing anything. Refuses what it does not define."""
    return _find(name, os.getcwd())


@cache
def _find(name: str, cwd: str) -> Path:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ObjectError(f"found {name!r}: `package.module:name` or `folder/file.py:name` is wanted")
    file = Path(cwd, place) if place.endswith(".py") else _module(place, cwd)
    if not file.is_file():
        raise ObjectError(f"{name}: no such file as {file}")
    names = defined(file)
    if names is not None and attribute not in names:
        hint = did_you_mean(attribute, names)
        raise ObjectError(f"{name}: {file.name} does not define {attribute!r}{hint} (found: {_some(file)})")
    return file


def load(name: str) -> Any:
    """The object itself. What goes wrong while its module is executed is raised as an ObjectError."""
    file = find(name)
    place, _, attribute = name.rpartition(":")
    try:
        module = _execute(file) if place.endswith(".py") else _import(place)
    except Exception as error:
        raise ObjectError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, [n for n in dir(module) if not n.startswith("_")])
        raise ObjectError(f"{name}: {place} does not define {attribute!r}{hint}")
    return getattr(module, attribute)


def root(name: str) -> Path:
    """The folder in which the module of an object is found under its name: that of a file, or above a package."""
    place, file = name.rpartition(":")[0], find(name)
    up = 1 if place.endswith(".py") else place.count(".") + 1 + (file.name == "__init__.py")
    return file.parents[up - 1]


@cache
def tree(file: Path) -> ast.Module:
    """The syntax tree of a file of someone else's, refused in one line where it has none."""
    try:
        return ast.parse(file.read_text(), str(file))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ObjectError(f"{file}: {error}") from error


def defined(file: Path) -> list[str] | None:
    """The names a module has, as far as its source says; None where only importing it can tell."""
    if file.suffix != ".py":
        return None
    names: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return None if names & {"*", "__getattr__"} else sorted(names)


def _module(place: str, cwd: str) -> Path:
    parts = place.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ObjectError(f"found {place!r}: a module is named like package.module, a file ends in .py")
    try:
        spec: ModuleSpec | None = find_spec(parts[0])
    except ValueError:  # a module without a specification, such as __main__
        spec = None
    spec = spec or PathFinder.find_spec(parts[0], [cwd])
    for i in range(1, len(parts)):
        inside = None if spec is None else spec.submodule_search_locations
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), list(inside)) if inside else None
    if spec is None:
        raise ObjectError(f"no module {place!r} (looked where Python does, and in {cwd}); is it installed?")
    if spec.origin is None or not Path(spec.origin).is_file():
        raise ObjectError(f"module {place!r} is no file, but {spec.origin or 'a folder without __init__.py'}")
    return Path(spec.origin)


def _import(place: str) -> Any:
    _search(os.getcwd())
    return import_module(place)


def _execute(file: Path) -> Any:
    """The module of a file by its path, executed once per process."""
    name = str(file)  # no importable name, so that it is not taken for an installed module
    if name not in sys.modules:
        spec = spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        _search(str(file.parent))
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _search(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)  # last: nothing that is installed is hidden


def _some(file: Path) -> str:
    defs = [n.name for n in tree(file).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
    return ", ".join(defs[:8]) + (", ..." if len(defs) > 8 else "") or "nothing"
