"""The options of a plug-in as a pydantic model, read from its source without importing it (and with it torch)."""

import ast
import builtins
import re
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from neuralign.config import options
from neuralign.config.plugins import source

VOCABULARY = {**vars(builtins), **vars(options)}  # names that annotations of options may use


@cache
def plugins(kind: str) -> tuple[str, ...]:
    """Names of the plug-ins of a kind: the files of its folder that define a function of their own name."""
    return tuple(
        sorted(p.stem for p in source(kind, "*").parent.glob("*.py") if _find_function(kind, p.stem) is not None)
    )


@cache
def schema(kind: str, use: str) -> type[BaseModel]:
    """The model that checks the options of a plug-in: types, defaults, no unknown key.

    The docstring of the model is that of the plug-in, its `Args` list describes the fields.
    """
    function = _find_function(kind, use)
    if function is None:
        raise KeyError(f"{kind}/{use}.py does not define {use}()")
    docstring = ast.get_docstring(function) or ""
    descriptions = argument_descriptions(docstring)
    fields: dict[str, Any] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = eval(ast.unparse(argument.annotation), VOCABULARY) if argument.annotation else Any  # our own code
        value = ... if default is None else ast.literal_eval(default)
        fields[argument.arg] = (annotation, Field(value, description=descriptions.get(argument.arg)))
    return create_model(f"{kind}.{use}", __config__=ConfigDict(extra="forbid"), __doc__=docstring, **fields)


@cache
def result(kind: str, use: str) -> str:
    """What a plug-in returns, as its signature says: the name of a type."""
    function = _find_function(kind, use)
    return ast.unparse(function.returns) if function is not None and function.returns else ""


def argument_descriptions(docstring: str) -> dict[str, str]:
    """{argument: description on one line} from the `Args` list of a docstring whose indentation has been removed."""
    arguments = docstring.partition("Args:\n")[2].split("\n\n")[0]
    items = re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.+)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


@cache
def module_docstring(kind: str, use: str) -> str:
    """The docstring of the module of a plug-in."""
    return ast.get_docstring(_parse(kind, use)) or ""


def _find_function(kind: str, use: str) -> ast.FunctionDef | None:
    """The syntax tree of a plug-in's function; None if there is no such plug-in."""
    if not use.isidentifier() or not source(kind, use).is_file():
        return None
    body = _parse(kind, use).body
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == use), None)


@cache
def _parse(kind: str, use: str) -> ast.Module:
    return ast.parse(source(kind, use).read_text())
