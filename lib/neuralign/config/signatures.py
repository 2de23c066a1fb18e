"""A plug-in's keyword-only parameters as a pydantic model, read from its source without importing it (and so torch)."""

import ast
import builtins
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from neuralign.common.files import PACKAGE
from neuralign.config import options
from neuralign.config.plugins import module

VOCABULARY = {**vars(builtins), **vars(options)}


@cache
def plugins(kind: str) -> tuple[str, ...]:
    """Names of the plug-ins of a kind: the files of its folder that define a function of their own name."""
    return tuple(sorted(p.stem for p in source(kind, "*").parent.glob("*.py") if _function(kind, p.stem) is not None))


def source(kind: str, use: str) -> Path:
    """The file of a plug-in."""
    return PACKAGE.parent.joinpath(*module(kind, use).split(".")).with_suffix(".py")


@cache
def schema(kind: str, use: str) -> type[BaseModel]:
    """The model that checks the options of `kind`/`use`: types, defaults, no unknown key."""
    function = _function(kind, use)
    if function is None:
        raise KeyError(f"{kind}/{use}.py does not define {use}()")
    fields: dict[str, Any] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = (
            eval(ast.unparse(argument.annotation), VOCABULARY) if argument.annotation else Any
        )  # our own source
        fields[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return create_model(f"{kind}.{use}", __config__=ConfigDict(extra="forbid"), **fields)


@cache
def _function(kind: str, use: str) -> ast.FunctionDef | None:
    path = source(kind, use)
    if not use.isidentifier() or not path.is_file():
        return None
    body = ast.parse(path.read_text()).body
    return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == use), None)
