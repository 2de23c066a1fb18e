"""Writes the page docs/config.md: all sections and keys of the config, all plug-ins and their options.

Types, ranges and defaults come from the models in `schema.py` and from the signatures of the plug-ins; descriptions
from `Field(description=...)` in the models and from the `Args` lists in the docstrings of the plug-ins.
"""

import inspect
import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neuralign.config.schema import OVERRIDABLE, PLAIN_SECTIONS, PLUGIN_SECTIONS, SECTIONS, ForeignNetwork, Grid
from neuralign.config.signatures import module_docstring, plugins, schema

INTRODUCTION = """\
# The config, key by key

<!-- Written by `make reference` from lib/neuralign/config and the plug-ins: edit it there. -->

The config says what is computed: the one in the repository, and over it the file of
`snakemake --configfile FILE`. It has one mapping per section, from names to entries; `studies`
combine entries of the other sections.

* `use` names the plug-in of an entry; the plug-in's options are keys of the same entry. Without
  `use` the plug-in is the one that has the entry's own name. A plug-in is one of those below, a
  function of your own as `folder/file.py:name` or `package.module:name`, or an entry point of an
  installed package: [extending.md](extending.md#from-outside).
* `overrides` lets an entry differ from place to place: a list of `{when: {...}, key: value, ...}`.
  The values hold wherever all that `when` names is so: `dataset`, `network`, `regime`. Of several
  that hold, later ones win.
* Numbers may be written as fractions: `8/255`. `null` is YAML's word for nothing.
* Values of pixels are numbers in [0, 1], sizes of images are in pixels, lengths of trainings in
  epochs. Seeds decide everything that is random.
* `default_study` names the study that `snakemake --cores all` makes; without it, it is the first.

Whatever is not as this page says is refused before anything runs, with the path of the key, what
was found and what is allowed. How much is computed at the same time, and where, is no part of the
config: see [cluster.md](cluster.md).
"""
NAMES_OF_TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "object": "mapping",
    "string": "text",
}
NESTED_KINDS = {  # kinds of plug-ins that are no section of the config
    "augmentations": "Random changes of training images, listed in `augment` of a dataset.",
    "objectives": "What is minimised and measured: `objective` of an entry of `regimes`.",
    "optimisers": "What turns gradients into steps: `optimiser` of a training in `regimes`.",
    "schedules": "What multiplies the learning rate in each epoch: `schedule` of a training in `regimes`.",
    "figures": "Drawn by the report of a study. Which ones a study has follows from its grids; the config names none.",
}


def page() -> str:
    """The reference as Markdown."""
    chapters = [INTRODUCTION.rstrip(), *map(_section, SECTIONS), *map(_nested_kind, NESTED_KINDS)]
    return "\n\n".join(chapters) + "\n"


def _section(section: str) -> str:
    model = (PLUGIN_SECTIONS | PLAIN_SECTIONS)[section]
    overrides = "Takes `overrides`." if section in OVERRIDABLE else "The same everywhere: takes no `overrides`."
    parts = [f"## {section}", _prose(f"{model.__doc__}\n\n{overrides}"), *_model(model)]
    if section in PLUGIN_SECTIONS:
        parts += [part for use in plugins(section) for part in _plugin(section, use)]
    if section == "networks":
        parts += ["### `use: package.module:name`", _prose(ForeignNetwork.__doc__), *_model(ForeignNetwork)]
    if section == "studies":
        parts += ["### grids", _prose(Grid.__doc__), *_model(Grid)]
    return "\n\n".join(parts)


def _nested_kind(kind: str) -> str:
    parts = [part for use in plugins(kind) for part in _plugin(kind, use)]
    return "\n\n".join([f"## {kind}", _prose(NESTED_KINDS[kind]), *parts])


def _plugin(kind: str, use: str) -> list[str]:
    model = schema(kind, use)
    summaries = [(text or "").split("\n\n")[0] for text in (module_docstring(kind, use), model.__doc__)]
    return [f"### `use: {use}`", *map(_prose, summaries), *(_model(model) or ["No options."])]


def _model(model: type[BaseModel]) -> list[str]:
    """A table of the keys of a model, then one for each model among the values of its keys."""
    if not model.model_fields:
        return []
    properties = model.model_json_schema()["properties"]
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    nested: dict[type[BaseModel], list[str]] = {}  # model -> the keys whose values it describes
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.setdefault(field.annotation, []).append(key)
            words, default = "mapping, see below", "required" if field.is_required() else "see below"
        else:
            words, default = type_in_words(properties[key]), _default(field)
        rows.append(f"| `{key}` | {words} | {default} | {field.description} |")
    parts = ["\n".join(rows)]
    for nested_model, keys in nested.items():
        heading = "### " + " and ".join(f"`{key}`" for key in keys)
        parts += [heading, _prose(nested_model.__doc__), *_model(nested_model)]
    return parts


def type_in_words(value: dict[str, Any]) -> str:
    """The type of a value and its range in words, from its JSON schema."""
    kind = value.get("type")
    if "words" in value:
        return str(value["words"])
    if "section" in value:
        name = f"entry of [{value['section']}](#{value['section']})"
        return f"list of names, each an {name}" if kind == "array" else f"name of an {name}" + _or_null(value)
    if "anyOf" in value:
        types = [type_in_words(option) for option in value["anyOf"] if option.get("type") != "null"]
        return " or ".join(types) + _or_null(value)
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"][:-1]) + f" or `{value['enum'][-1]}`"
    if kind == "array":
        return f"list of {type_in_words(value['items']).replace('number', 'numbers', 1)}"
    return NAMES_OF_TYPES[str(kind)] + _range(value)


def _or_null(value: dict[str, Any]) -> str:
    return ", or null" if {"type": "null"} in value.get("anyOf", ()) else ""


def _range(value: dict[str, Any]) -> str:
    """The words ", above 0" for a bound; "" for a type without bounds."""
    # pydantic does not translate bounds behind a validator that converts the value, so both names of a bound occur
    above, below = value.get("gt", value.get("exclusiveMinimum")), value.get("lt", value.get("exclusiveMaximum"))
    least, most = value.get("ge", value.get("minimum")), value.get("le", value.get("maximum"))
    if least is not None and most is not None:
        return f", from {least:,} to {most:,}"
    bounds = {"above": above, "at least": least, "below": below, "at most": most}
    return "".join(f", {words} {bound:,}" for words, bound in bounds.items() if bound is not None)


def _default(field: FieldInfo) -> str:
    """The default as YAML in backticks, or "required"."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]}`"


def _prose(text: str | None) -> str:
    """The text with its paragraphs wrapped at 100 characters."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(p.split()), 100, break_long_words=False) for p in paragraphs)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
