"""The options of a plug-in as a pydantic model, read from its source without importing it (and with it torch)."""

import ast
import builtins
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from neuralign.common.errors import UserError, first_line
from neuralign.config import options
from neuralign.config.plugins import named_entry_points, object_outside, source
from neuralign.config.problems import Problems
from neuralign.config.references import ObjectError, is_object, tree

VOCABULARY = {**vars(builtins), **vars(options)}  # names that annotations of options may use
DATA = ("Dataset", "ArrayDataset")  # what plug-ins of datasets return


@cache
def plugins(kind: str) -> tuple[str, ...]:
    """Names of the plug-ins of a kind in this package: the files of its folder that define a function of their name."""
    folder = source(kind, "__init__").parent
    return tuple(sorted(p.stem for p in folder.glob("*.py") if _find_function(p, p.stem) is not None))


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind that have one: those of this package, then those of entry points."""
    return list(dict.fromkeys([*plugins(kind), *sorted(named_entry_points(kind))]))


def is_known(kind: str, use: str) -> bool:
    """Whether a plug-in has this name, or whether it may be the name of an object outside of this package."""
    return is_object(use) or use in names(kind)


def check_known(argument: str, kind: str, use: str, also: Iterable[str] = ()) -> None:
    """Raise UserError unless there may be such a plug-in. `also`: other values that the argument may have."""
    if use not in also and not is_known(kind, use):
        problems = Problems()
        problems.note_not_allowed(argument, "found", use, [*also, *names(kind)])
        raise UserError(problems.messages[0])


def schema(kind: str, use: str) -> type[BaseModel]:
    """The model that checks the options of a plug-in: types, defaults, no unknown key.

    The docstring of the model is that of the plug-in, its `Args` list describes the fields. Raises ObjectError for a
    plug-in from outside that cannot be found or has another signature than those of its kind.
    """
    if points := named_entry_points(kind).get(use):
        packages = [f"the package {point.dist.name!r}" for point in points if point.dist]
        packages = [*(["neuralign"] if use in plugins(kind) else []), *packages]
        if len(packages) > 1:
            raise ObjectError(f"{' and '.join(packages)} both have a plug-in {use!r} of {kind}; one has to be renamed")
    outside = object_outside(kind, use)
    try:
        return _schema(kind, outside.rpartition(":")[2] if outside else use, source(kind, use), bool(outside))
    except ObjectError as error:
        if points:
            raise ObjectError(f"entry point {use!r} of {packages[0]}: {error}") from error
        raise


def reads_examples(kind: str, use: str) -> bool:
    """Whether a plug-in reads training examples, of which its option `images` says how many."""
    return "images" in schema(kind, use).model_fields


@cache
def _schema(kind: str, name: str, file: Path, is_outside: bool) -> type[BaseModel]:
    """`schema` of the function of this name in a file."""
    function = _find_function(file, name)
    if function is None and is_outside:
        raise ObjectError(f"{file}: {name} is not defined there by `def`, so its options cannot be read")
    if function is None:
        raise KeyError(f"{kind}/{name}.py does not define {name}()")
    if is_outside:
        _check_signature(kind, function, file)
    docstring = ast.get_docstring(function) or ""
    descriptions = argument_descriptions(docstring)
    fields: dict[str, Any] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        try:
            annotation = eval(ast.unparse(argument.annotation), VOCABULARY) if argument.annotation else Any
            value = ... if default is None else ast.literal_eval(default)
        except Exception as error:  # code from outside, which may name anything
            found = ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")
            raise ObjectError(
                f"{file}, line {argument.lineno}: found the option `{found}`; a type of neuralign.config.options or of "
                f"Python, and a constant as its default, are needed ({type(error).__name__})"
            ) from error
        fields[argument.arg] = (annotation, Field(value, description=descriptions.get(argument.arg)))
    try:
        return create_model(f"{kind}.{name}", __config__=ConfigDict(extra="forbid"), __doc__=docstring, **fields)
    except Exception as error:  # of types that are no types of values, and of names with _ at their beginning
        raise ObjectError(f"{file}, line {function.lineno}: options fit no config: {first_line(str(error))}") from error


def _check_signature(kind: str, function: ast.FunctionDef, file: Path) -> None:
    """Raise ObjectError unless a function from outside is called like the plug-ins of its kind in this package."""
    first = plugins(kind)[0]
    like = _find_function(source(kind, first), first)
    assert like is not None
    (needed, _), (positional, has_others) = map(_positional, (like, function))
    if len(positional) != len(needed) or has_others:
        raise ObjectError(
            f"{file}, line {function.lineno}: found {function.name}({ast.unparse(function.args)}); a plug-in of {kind} "
            f"is called as {function.name}({', '.join([*needed, '*'])}, option, ...), with its options by keyword only"
        )
    if kind == "datasets" and _returned(function) not in DATA:
        found = f"-> {ast.unparse(function.returns)}" if function.returns else "no annotation"
        raise ObjectError(
            f"{file}, line {function.lineno}: {function.name} must say what it returns, `-> {DATA[0]}` of images or "
            f"`-> {DATA[1]}`; found {found}"
        )


def _positional(function: ast.FunctionDef) -> tuple[list[str], bool]:
    """(names of the positional parameters, whether there are others that are not options: defaults, * or **)."""
    arguments = function.args
    others = bool(arguments.defaults or arguments.vararg or arguments.kwarg)
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)], others


def result(kind: str, use: str) -> str:
    """What a plug-in returns, as its signature says: the name of a type without its module.

    "" if it does not say, or is not found, which is for the check of the entry that names it to report.
    """
    outside = object_outside(kind, use)
    try:
        function = _find_function(source(kind, use), outside.rpartition(":")[2] if outside else use)
    except ObjectError:
        return ""
    return _returned(function) if function is not None else ""


def _returned(function: ast.FunctionDef) -> str:
    return ast.unparse(function.returns).rpartition(".")[2].strip("'") if function.returns else ""


def argument_descriptions(docstring: str) -> dict[str, str]:
    """{argument: description on one line} from the `Args` list of a docstring whose indentation has been removed."""
    arguments = docstring.partition("Args:\n")[2].split("\n\n")[0]
    items = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


@cache
def module_docstring(kind: str, use: str) -> str:
    """The docstring of the module of a plug-in."""
    return ast.get_docstring(tree(source(kind, use))) or ""


def _find_function(file: Path, name: str) -> ast.FunctionDef | None:
    """The syntax tree of the function of this name at the top of a file; None if there is none."""
    if not name.isidentifier() or not file.is_file():
        return None
    return next((node for node in tree(file).body if isinstance(node, ast.FunctionDef) and node.name == name), None)
