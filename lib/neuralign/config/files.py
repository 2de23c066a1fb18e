"""YAML files, read with more care than YAML asks for: what it would take in silence and mean otherwise is refused.

PyYAML lets the last of two equal keys win, and reads 010 as 8 and 1:30 as 90. Nothing in a file is executed: tags other
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
TEMPLATE = "__use_yte__"  # with this key Snakemake runs the code in a config
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(UserError):
    """A file that is no plain YAML; the message names the file, the line, what was found and what is allowed."""


def read(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises YamlError."""
    try:
        mapping = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"{path}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlError(f"{path}{line}: is no plain YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(f"{path}: is no plain YAML: {' '.join(str(error).split())}") from error
    if mapping is None:
        raise YamlError(f"{path}: is empty; a mapping of names to values is needed")
    if not isinstance(mapping, dict):
        raise YamlError(f"{path}: holds a {type(mapping).__name__}; a mapping of names to values is needed")
    if TEMPLATE in mapping:
        raise YamlError(f"{path}: the key {TEMPLATE!r} makes it a template; only plain values are allowed")
    return mapping


def read_config(files: Iterable[Path]) -> dict[str, Any]:
    """One config from several files, each laid over those before it as Snakemake does it."""
    config: dict[str, Any] = {}
    for file in files:
        lay_over(config, read(file))
    return config


def lay_over(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Replace, in place, what `more` says otherwise, mapping by mapping."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            lay_over(config[key], value)
        else:
            config[key] = value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses what it would otherwise take for something else than it looks like."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _refusal(key, "a key is a mapping or a list; only names are allowed")
            if key.value in lines:
                before = f"the key {key.value!r} stands twice in one mapping, first in line {lines[key.value]}"
                raise _refusal(key, f"{before}; only one of them would count")
            lines[key.value] = key.start_mark.line + 1
        return node

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and (OCTAL.fullmatch(node.value) or ":" in node.value):
            kind = "an octal number" if OCTAL.fullmatch(node.value) else "a number to the base 60"
            raise _refusal(node, f"YAML reads {node.value} as {kind}; write it in decimals, or quoted if it is a text")
        return node


def _refusal(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
