"""A plug-in's keyword-only parameters as a pydantic model, read from its source without importing it (and so torch)."""

import ast
import builtins
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from neuralign import options

PACKAGE = Path(__file__).parent
VOCABULARY = {**vars(builtins), **vars(options)}


@cache
def plugins(home: str) -> tuple[str, ...]:
    """Names of the plug-ins in a folder: the files that define a function of their own name."""
    return tuple(sorted(p.stem for p in (PACKAGE / home).glob("*.py") if _function(home, p.stem) is not None))


@cache
def schema(home: str, use: str) -> type[BaseModel]:
    """The model that checks the options of `home`/`use`: types, defaults, no unknown key."""
    function = _function(home, use)
    if function is None:
        raise KeyError(f"{home}/{use}.py does not define {use}()")
    fields: dict[str, Any] = {}
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = (
            eval(ast.unparse(argument.annotation), VOCABULARY) if argument.annotation else Any
        )  # our own source
        fields[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return create_model(f"{home}.{use}", __config__=ConfigDict(extra="forbid"), **fields)


@cache
def _function(home: str, use: str) -> ast.FunctionDef | None:
    path = PACKAGE / home / f"{use}.py"
    if not use.isidentifier() or not path.is_file():
        return None
    body = ast.parse(path.read_text()).body
    return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == use), None)
