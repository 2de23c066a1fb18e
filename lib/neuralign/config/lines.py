"""Where the problems of a config stand in its files: the file and the line of each key."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from yaml import MappingNode, Node, SequenceNode

from neuralign.config.problems import ConfigError, printable

UNKNOWN = re.compile(r"unknown (?:key|section) '([^']+)'")  # the problem of a mapping is that it has this key
LAST_PART = re.compile(r"(\.[^.\[\]]*|\[\d+\])$")  # of the path of a key
MERGE = "tag:yaml.org,2002:merge"  # the tag of the key `<<`


def with_lines(error: ConfigError, files: Sequence[str | Path]) -> ConfigError:
    """The same problems, each with the file and the line of its key: "key (config.yaml, line 12): problem".

    Without those where no file has a part of the key. `files`: each laid over those before it; they can be read.
    """
    places = [(str(file), lines_of(file)) for file in files]
    return ConfigError(_with_line(problem, places) for problem in error.problems)


def lines_of(file: str | Path) -> dict[str, int]:
    """{path of a key, as in messages: the line where it stands} of a YAML file."""
    root = yaml.compose(Path(file).read_text(encoding="utf-8"), yaml.SafeLoader)
    return {} if root is None else dict(_walk(root, ""))


def _walk(node: Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, MappingNode):
        for merged in (value for key, value in node.value if key.tag == MERGE):  # first: keys of `node` replace them
            for part in merged.value if isinstance(merged, SequenceNode) else [merged]:
                yield from _walk(part, path)
        for key, value in node.value:
            name = f"{path}.{printable(key.value)}" if path else printable(key.value)
            yield name, key.start_mark.line + 1
            yield from _walk(value, name)
    elif isinstance(node, SequenceNode):
        for i, item in enumerate(node.value):
            yield f"{path}[{i}]", item.start_mark.line + 1
            yield from _walk(item, f"{path}[{i}]")


def _with_line(problem: str, places: Sequence[tuple[str, dict[str, int]]]) -> str:
    key, separator, text = problem.partition(": ")
    path = re.sub(r"\.(\d+)(?=\.|\[|$)", r"[\1]", key)
    unknown = UNKNOWN.match(text)
    candidates = [f"{path}.{unknown[1]}", unknown[1]] if unknown else []
    while path:
        candidates.append(path)
        path = LAST_PART.sub("", path) if LAST_PART.search(path) else ""
    for candidate in candidates:
        for file, lines in reversed(places):
            if candidate in lines:
                return f"{key} ({file}, line {lines[candidate]}){separator}{text}"
    return problem
