"""Config files that must be refused as YAML, before Snakemake or anything else reads them."""

from functools import partial
from pathlib import Path
from typing import Any

from hostile import PLANNING, Case

from neuralign.config.files import read

# (name of the case, text or bytes of the file, words of the message)
TEXTS: list[tuple[Any, ...]] = [
    ("an empty file", "", "is empty; a mapping of names to values is needed"),
    ("only a comment", "# nothing\n", "is empty; a mapping"),
    ("a list", "- networks\n", "holds a list; a mapping"),
    ("a sentence", "networks are nice\n", "holds a str; a mapping"),
    (
        "a key twice",
        "networks:\n  a: {}\n  b: {}\n  a: {}\n",
        "line 4: ",
        "the key 'a' occurs twice",
        "first in line 2",
    ),
    ("a section twice", "networks: {}\nattacks: {}\nnetworks: {}\n", "line 3: ", "the key 'networks' occurs twice"),
    ("a merge twice", "a: &a {x: 1}\nb: &b {y: 1}\nc:\n  <<: *a\n  <<: *b\n", "line 5: ", "the key '<<' occurs twice"),
    ("an octal number", "a:\n  seed: 010\n", "line 2: ", "YAML reads 010 as an octal number; write it as a decimal"),
    ("a number in base 60", "depth: 1:30\n", "line 1: ", "YAML reads 1:30 as a number in base 60"),
    ("a tab", "a:\n\t- 1\n", "line 2: is not valid YAML: found character '\\t'"),
    ("a brace that is never closed", "a: {b: 1\n", "is not valid YAML: expected ',' or '}'"),
    ("two documents", "a: 1\n---\nb: 2\n", "line 2: is not valid YAML: but found another document"),
    (
        "an anchor twice",
        "a: &b 1\nc: &b 2\n",
        "line 2: is not valid YAML: found duplicate anchor 'b'; first occurrence in line 1",
    ),
    ("an alias of nothing", "a: *b\n", "line 1: is not valid YAML: found undefined alias 'b'"),
    ("nesting beyond the stack", "[" * 3000, "is not valid YAML: maximum recursion depth"),
    ("a mapping as a key", "? {a: 1}\n: 2\n", "line 1: ", "found a mapping or a list as a key; only names are allowed"),
    (
        "a Python call",
        "a: !!python/object/apply:pathlib.Path.touch [[{victim}]]\n",
        "line 1",
        "the tag",
        "python/object",
    ),
    ("a Python name", "a: !!python/name:os.system\n", "line 1: is not valid YAML", "python/name:os.system"),
    ("a template", "__use_yte__: true\n?__import__('pathlib').Path('{victim}').touch(): 1\n", "makes it a template"),
    ("a date that is none", "a: 2024-13-45\n", "is not valid YAML: month must be in 1..12"),
    ("bytes that are no text", b"a: \xff\xfe\n", "cannot be read", "invalid start byte"),
    ("a control character", "a: b\0c\n", "is not valid YAML: unacceptable character #x0000"),
]


def _read(text: str | bytes, folder: Path) -> None:
    file = folder / "config.yaml"
    content = text.replace("{victim}", str(folder / "victim")).encode() if isinstance(text, str) else text
    file.write_bytes(content)
    try:
        read(file)
    finally:
        assert not (folder / "victim").exists(), "nothing in a config is executed"


CASES = [
    Case(f"config file: {what}", PLANNING, partial(_read, text), ("config.yaml", *words))
    for what, text, *words in TEXTS
]
