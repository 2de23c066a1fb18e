"""Reads YAML files, and refuses what PyYAML would silently read as something unexpected.

PyYAML keeps the last of two equal keys, and reads 010 as 8 and 1:30 as 90. Nothing in a file is executed: tags other
than YAML's own are refused.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode

from neuralign.common.errors import UserError

OCTAL = re.compile(r"[-+]?0[0-9_]+")
TEMPLATE = "__use_yte__"  # a config with this key is a YTE template, whose code Snakemake executes
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(UserError):
    """A file that cannot be read as YAML; the message names the file, the line, what was found and what is allowed."""


def read(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises YamlError."""
    try:
        mapping = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"{path}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        found = error.problem
        if error.context_mark and "duplicate anchor" in (error.context or ""):
            found = f"{error.context} in line {error.context_mark.line + 1}"
        raise YamlError(f"{path}{line}: is not valid YAML: {found}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if mapping is None:
        raise YamlError(f"{path}: is empty; a mapping of names to values is needed")
    if not isinstance(mapping, dict):
        raise YamlError(f"{path}: holds a {type(mapping).__name__}; a mapping of names to values is needed")
    if TEMPLATE in mapping:
        raise YamlError(f"{path}: the key {TEMPLATE!r} makes it a template; only plain values are allowed")
    return mapping


def read_config(files: Iterable[Path]) -> dict[str, Any]:
    """One config from several files, each laid over those before it, as Snakemake does it."""
    config: dict[str, Any] = {}
    for file in files:
        lay_over(config, read(file))
    return config


def lay_over(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Change `config` in place: values of `more` replace those of the same key, at any depth of mappings.

    Mappings are copied: those that are one object in `more`, by an anchor of YAML, can be changed apart afterwards.
    """
    for key, value in more.items():
        if isinstance(value, Mapping):
            if not isinstance(config.get(key), dict):
                config[key] = {}
            lay_over(config[key], value)
        else:
            config[key] = value


def lay_under(config: dict[str, Any], base: Mapping[str, Any]) -> None:
    """Change `config` in place: what it does not say is as in `base`, at any depth of mappings."""
    own = dict(config)
    config.clear()
    lay_over(config, base)
    lay_over(config, own)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses repeated keys, octal and sexagesimal numbers, and keys with parts."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _error_at(key, "found a mapping or a list as a key; only names are allowed")
            if key.value in lines:
                problem = f"the key {key.value!r} occurs twice in one mapping, first in line {lines[key.value]}"
                raise _error_at(key, f"{problem}; only one is allowed")
            lines[key.value] = key.start_mark.line + 1
        return node

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and (OCTAL.fullmatch(node.value) or ":" in node.value):
            kind = "an octal number" if OCTAL.fullmatch(node.value) else "a number in base 60"
            raise _error_at(
                node, f"YAML reads {node.value} as {kind}; write it as a decimal number, or in quotes if it is a text"
            )
        return node


def _error_at(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
