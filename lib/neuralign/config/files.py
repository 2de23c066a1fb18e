"""YAML files, read with more care than YAML asks for: what it would take in silence and mean otherwise is refused.

PyYAML lets the last of two equal keys win, reads 010 as 8 and 1:30 as 90, and expands a few lines of nested aliases to
more values than memory holds. Nothing in a file is executed: tags other than YAML's own are refused.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from neuralign.common.errors import Refused

VALUES = 100_000  # in a file, every alias counted as often as it is used; the shipped config has about 2,000
DEPTH = 50  # of mappings and lists in each other
OCTAL = re.compile(r"[-+]?0[0-9_]+")
TEMPLATE = "__use_yte__"  # with this key Snakemake runs the code in a config
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class YamlError(Refused):
    """A file that is no plain YAML; the message names the file, the line, what was found and what is allowed."""


def read(path: str | Path) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises YamlError."""
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            raise YamlError(f"{path}: is empty; a mapping of names to values is needed")
        _Inspection(path).size(node)
        found = loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"{path}: cannot be read: {error}") from error
    except RecursionError:
        raise YamlError(f"{path}: nested too deeply, {DEPTH} levels are allowed") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlError(f"{path}{line}: is no plain YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, YamlError):
            raise
        raise YamlError(f"{path}: is no plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise YamlError(f"{path}: holds a {type(found).__name__}; a mapping of names to values is needed")
    if TEMPLATE in found:
        raise YamlError(f"{path}: the key {TEMPLATE!r} makes it a template; only plain values are allowed")
    return found


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


class _Inspection:
    """A walk over the nodes of a file, each once however often aliases name it."""

    def __init__(self, path: str | Path):
        self.path, self.sizes, self.open = path, dict[int, int](), list[int]()

    def size(self, node: Node) -> int:
        """The number of values that the node expands to, after it has been checked."""
        if id(node) in self.open:
            self._refuse(node, "an alias stands inside what it names, which would have no end")
        if id(node) not in self.sizes:
            if len(self.open) == DEPTH:
                self._refuse(node, f"nested too deeply, {DEPTH} levels are allowed")
            self.open.append(id(node))
            self.sizes[id(node)] = 1 + sum(self.size(inner) for inner in self._within(node))
            self.open.pop()
        if self.sizes[id(node)] > VALUES:
            self._refuse(node, f"expands to more than {VALUES} values, the aliases written out")
        return self.sizes[id(node)]

    def _within(self, node: Node) -> list[Node]:
        if isinstance(node, ScalarNode):
            self._check_number(node)
        if isinstance(node, MappingNode):
            self._check_keys(node)
            return [value for _, value in node.value]
        return node.value if isinstance(node, SequenceNode) else []

    def _check_keys(self, node: MappingNode) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                self._refuse(key, "a key is a mapping or a list; only names are allowed")
            if key.value in lines:
                before = f"the key {key.value!r} stands twice in one mapping, first in line {lines[key.value]}"
                self._refuse(key, f"{before}; only one of them would count")
            lines[key.value] = key.start_mark.line + 1

    def _check_number(self, node: ScalarNode) -> None:
        if node.tag in NUMBERS and (OCTAL.fullmatch(node.value) or ":" in node.value):
            kind = "an octal number" if OCTAL.fullmatch(node.value) else "a number to the base 60"
            self._refuse(node, f"YAML reads {node.value} as {kind}; write it in decimals, or quoted if it is a text")

    def _refuse(self, node: Node, text: str) -> None:
        raise YamlError(f"{self.path}, line {node.start_mark.line + 1}: {text}")
