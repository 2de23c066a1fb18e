"""docs/config.md: the page has all keys, as the code declares them."""

import re
import subprocess
import sys

import pytest
import yaml
from pydantic import BaseModel
from workflow_project import REPOSITORY

from neuralign.config.documentation.reference_page import page
from neuralign.config.plugins import KINDS
from neuralign.config.schema import (
    PLAIN_SECTIONS,
    PLUGIN_SECTIONS,
    SECTIONS,
    CurveWindow,
    ForeignNetwork,
    Grid,
    Training,
    Window,
)
from neuralign.config.signatures import argument_descriptions, plugins, schema

PAGE = (REPOSITORY / "docs" / "config.md").read_text()
MODELS: list[type[BaseModel]] = [*PLUGIN_SECTIONS.values(), *PLAIN_SECTIONS.values()]
MODELS += [ForeignNetwork, Training, Window, CurveWindow, Grid, *(schema(k, use) for k in KINDS for use in plugins(k))]


def test_the_page_is_up_to_date():
    assert page() == PAGE, "docs/config.md is stale: run `make reference`"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_described_in_one_sentence_or_two(model):
    assert model.__doc__
    for key, field in model.model_fields.items():
        assert field.description, f"{key} has no description"
        assert re.fullmatch(r"[A-Z0-9`][^\n|]+\.", field.description), f"{key}: {field.description}"


def test_every_key_of_every_model_is_on_the_page():
    for model in MODELS:
        for key, field in model.model_fields.items():
            assert re.search(rf"^\| `{key}` \| .+ \| {re.escape(str(field.description))} \|$", PAGE, re.MULTILINE)


def test_sections_and_kinds_of_plug_ins_are_chapters():
    chapters = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert chapters == [*SECTIONS, "augmentations", "objectives", "optimisers", "schedules", "figures"]
    assert set(KINDS) <= set(chapters)
    links = set(re.findall(r"\]\(#(\w+)\)", PAGE))
    assert links and links <= set(re.findall(r"^#+ (\w+)$", PAGE, re.MULTILINE))


def test_the_page_has_no_text_that_looks_like_an_html_tag():
    assert "<" not in re.sub(r"`[^`]*`|<!--.*?-->", "", PAGE)


@pytest.mark.parametrize(
    "row",
    [
        "| `eps` | number, above 0, at most 1 | required | Largest change of a pixel, in pixels of [0, 1]. |",
        "| `depth` | whole number: 8, 14, 20, ... | `32` |",
        "| `epochs` | whole number, from 1 to 100,000 | required | Number of epochs. |",
        "| `attack` | name of an entry of [attacks](#attacks), or null | `null` |",
        "| `schedule` | `{use: ..., options}`, one of the [schedules](#schedules) | `{use: constant}` |",
        "| `measures` | list of `signature`, `midpoint` or `bound` | `[signature]` |",
        "| `scale` | two positive numbers, the smaller first | `[1.0, 1.0]` |",
        "| `t2` | two numbers, the smaller first | `[-0.1, 1.5]` |",
        "| `curve` | mapping, see below | required |",
    ],
)
def test_a_row_has_type_range_and_default_in_words(row):
    assert f"\n{row}" in PAGE


def test_defaults_on_the_page_are_yaml():
    defaults = re.findall(r"^\| `\w+` \| .+? \| `(.+?)` \| [A-Z]", PAGE, re.MULTILINE)
    assert len(defaults) > 30
    for default in defaults:
        yaml.safe_load(default)


def test_descriptions_of_arguments_are_read_from_docstrings():
    docstring = "The result.\n\nArgs:\n    a: One\n        line.\n    b: Two.\n\nMore: no argument."
    assert argument_descriptions(docstring) == {"a": "One line.", "b": "Two."}
    assert argument_descriptions("No list.") == {}


def test_the_command_of_the_makefile_writes_it(tmp_path):
    command = [sys.executable, "-m", "neuralign.config.documentation.reference_page", str(tmp_path / "config.md")]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(REPOSITORY / "lib")})
    assert (tmp_path / "config.md").read_text() == PAGE
    assert (
        "python -m neuralign.config.documentation.reference_page docs/config.md"
        in (REPOSITORY / "Makefile").read_text()
    )
