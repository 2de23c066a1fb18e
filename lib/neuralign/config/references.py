"""Finds and loads Python objects of the user's code, named `package.module:name` or `folder/file.py:name`.

To find an object, nothing is imported. Modules are looked up on `sys.path`, then in the working directory. The imports
in a file named by its path are also looked up in its folder.
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

HUBS = ("timm/", "hf-hub:", "torchvision:")  # beginnings of names


class ObjectError(UserError):
    """An object that cannot be found or imported; the message says what was looked for and what exists."""


def is_hub(name: str) -> bool:
    """Whether `name` names a network or a checkpoint of a hub (`checking/hub_names.py`)."""
    return name.startswith(HUBS)


def is_object(name: str) -> bool:
    """Whether `name` names an object of the user's code, and not a plug-in or what a hub has."""
    return ":" in name and not is_hub(name)


def is_foreign(name: str) -> bool:
    """Whether a network of this name comes from outside: from the user's code or from a hub."""
    return is_object(name) or is_hub(name)


def find(name: str) -> Path:
    """The file that defines the object `name`, without importing it. Raises ObjectError if no file does."""
    return _find(name, os.getcwd())


@cache
def _find(name: str, cwd: str) -> Path:
    module, _, attribute = name.rpartition(":")
    if not module or not attribute.isidentifier():
        raise ObjectError(f"found {name!r}; `package.module:name` or `folder/file.py:name` is needed")
    file = Path(cwd, module) if module.endswith(".py") else _module_file(module, cwd)
    if not file.is_file():
        raise ObjectError(f"{name}: no such file as {file}")
    names = defined_names(file)
    if names is not None and attribute not in names:
        hint = did_you_mean(attribute, names)
        raise ObjectError(f"{name}: {file.name} does not define {attribute!r}{hint} (found: {_list_definitions(file)})")
    return file


def load(name: str) -> Any:
    """The object `name`, whose module is imported. Raises ObjectError for any error of the module."""
    file = find(name)
    module_name, _, attribute = name.rpartition(":")
    try:
        module = _execute(file) if module_name.endswith(".py") else _import(module_name)
    except (Exception, SystemExit) as error:  # a script may parse the arguments of the command line, and exit
        raise ObjectError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, [n for n in dir(module) if not n.startswith("_")])
        raise ObjectError(f"{name}: {module_name} does not define {attribute!r}{hint}")
    return getattr(module, attribute)


def root(name: str) -> Path:
    """The folder from which the module of an object is imported: that of its file, or the parent of its package."""
    module, file = name.rpartition(":")[0], find(name)
    levels = 1 if module.endswith(".py") else module.count(".") + 1 + (file.name == "__init__.py")
    return file.parents[levels - 1]


def file_found_only_here(name: str) -> Path | None:
    """The file of `package.module:name` if its module is found only in the working directory; else None.

    A process in another directory does not find such a module.
    """
    module, path = name.rpartition(":")[0], list(sys.path)
    if module.endswith(".py"):
        return None
    try:
        del sys.path[:1]  # the folder of the program; of `python -m`, the working directory
        return None if _top_level_spec(module.partition(".")[0]) else find(name)
    except ObjectError:
        return None
    finally:
        sys.path[:] = path


@cache
def tree(file: Path) -> ast.Module:
    """The syntax tree of a file. Raises ObjectError if its syntax is wrong."""
    try:
        return ast.parse(file.read_text(), str(file))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ObjectError(f"{file}: {error}") from error


def defined_names(file: Path) -> list[str] | None:
    """The names that a module defines or imports, sorted; None if only importing it can tell."""
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


def _module_file(module: str, cwd: str) -> Path:
    """The file of a module named package.module, found without importing its parent packages."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ObjectError(f"found {module!r}; a module is named like package.module, a file ends in .py")
    spec = _top_level_spec(parts[0]) or PathFinder.find_spec(parts[0], [cwd])
    for i in range(1, len(parts)):
        folders = None if spec is None else spec.submodule_search_locations
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), list(folders)) if folders else None
    if spec is None:
        raise ObjectError(f"no module {module!r} on sys.path or in {cwd}; is it installed?")
    if spec.origin is None or not Path(spec.origin).is_file():
        raise ObjectError(f"module {module!r} is not a file but {spec.origin or 'a folder without __init__.py'}")
    return Path(spec.origin)


def _top_level_spec(name: str) -> ModuleSpec | None:
    """The specification of a module on `sys.path`; None if there is no such module."""
    try:
        return find_spec(name)
    except ValueError:  # a module without a specification, such as __main__
        return None


def _import(module: str) -> Any:
    _append_to_path(os.getcwd())
    return import_module(module)


def _execute(file: Path) -> Any:
    """The module of a file by its path, executed once per process."""
    name = str(file)  # not a name that could be imported, so it does not hide an installed module
    if name not in sys.modules:
        spec = spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        _append_to_path(str(file.parent))
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _append_to_path(folder: str) -> None:
    """Let Python find modules in a folder, after installed ones of the same name."""
    if folder not in sys.path:
        sys.path.append(folder)


def definitions(file: Path) -> list[str]:
    """The public functions and classes of a file of Python. Raises ObjectError if its syntax is wrong."""
    return [n.name for n in tree(file).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]


def _list_definitions(file: Path) -> str:
    """The first public functions and classes of a file, for messages."""
    names = definitions(file)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
