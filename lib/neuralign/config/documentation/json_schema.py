"""Writes the JSON schema of the config, by which editors complete and check it.

    python -m neuralign.config.documentation.json_schema FILE

It comes from the same models as the check of the config, but knows less: names of entries are any text, and what
several keys say together is not checked. The first line of the default config names the file.
"""

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from neuralign.config.schema import (
    OVERRIDABLE,
    PLACES,
    PLAIN_SECTIONS,
    PLUGIN_SECTIONS,
    SECTIONS,
    ForeignNetwork,
    Grid,
)
from neuralign.config.signatures import plugins, schema

Schema = dict[str, Any]
FRACTION = {"type": "string", "pattern": r"^\s*[\d.]+\s*/\s*[\d.]+\s*$"}  # a number written as 8/255
BOUNDS = {"gt": "exclusiveMinimum", "lt": "exclusiveMaximum", "ge": "minimum", "le": "maximum"}
OBJECT = r"^.+:.+$"  # package.module:name or file.py:name
OUTSIDE = "outside()"  # in place of the name of a plug-in, which it cannot be
NESTED = {"augment": "augmentations", "objective": "objectives", "optimiser": "optimisers", "schedule": "schedules"}


def config_schema() -> Schema:
    """The schema of a whole config."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A config of neuralign",
        "type": "object",
        "properties": {section: _section(section) for section in SECTIONS}
        | {"default_study": {"type": "string", "description": "The study that `snakemake --cores all` makes."}},
        "additionalProperties": False,
        "definitions": {
            f"{kind}.{use}": _with_plugin(kind, use)
            for kind in [*PLUGIN_SECTIONS, *NESTED.values()]
            for use in plugins(kind)
        }
        | {f"{kind}.{OUTSIDE}": _outside(PLUGIN_SECTIONS.get(kind)) for kind in [*PLUGIN_SECTIONS, *NESTED.values()]},
    }


def _section(section: str) -> Schema:
    model = (PLUGIN_SECTIONS | PLAIN_SECTIONS)[section]
    result: Schema = {"description": _text(model.__doc__), "type": ["object", "null"]}
    if section in PLAIN_SECTIONS:
        return result | {"additionalProperties": _entry(_properties(model), section, _required(model))}
    others = [_that_names(section, use) for use in plugins(section)]
    if section == "networks":
        use = {"use": {"type": "string", "pattern": f"{OBJECT}|^timm/", "description": _text(ForeignNetwork.__doc__)}}
        others.append(_entry(use | _properties(ForeignNetwork) | _properties(model), section, ["use"]))
    else:
        others.append(_reference(section, OUTSIDE))
    if section == "alignments":
        others.append({"type": "null"})
    either = {use: {"anyOf": [_reference(section, use), *others]} for use in plugins(section)}
    return result | {"properties": either, "additionalProperties": {"anyOf": others}}


def _with_plugin(kind: str, use: str) -> Schema:
    """The schema of entries with a plug-in, for the definitions."""
    options = schema(kind, use)
    properties = {"use": {"const": use, "description": _text(options.__doc__)}} | _properties(options)
    common = PLUGIN_SECTIONS.get(kind)
    return _entry(properties | (_properties(common) if common else {}), kind, _required(options))


def _reference(kind: str, use: str) -> Schema:
    return {"$ref": f"#/definitions/{kind}.{use}"}


def _that_names(kind: str, use: str) -> Schema:
    """The schema of an entry that says which plug-in it has."""
    return {"allOf": [_reference(kind, use), {"type": "object", "required": ["use"]}]}


def _outside(model: type[BaseModel] | None) -> Schema:
    """The schema of an entry with a plug-in from outside, whose options only the check of the config knows."""
    use = {"type": "string", "pattern": OBJECT, "description": "A plug-in from outside."}
    properties = {"use": use} | (_properties(model) if model else {})
    return {"type": "object", "properties": properties, "required": ["use"]}


def _entry(properties: Schema, section: str, required: list[str]) -> Schema:
    """The schema of an entry: a mapping, or null for one that has nothing but defaults.

    Where entries may have overrides, these may hold what is required, so nothing is.
    """
    entry: Schema = {"type": ["object", "null"], "properties": dict(properties), "additionalProperties": False}
    if section in OVERRIDABLE:
        places = {name: {"type": "string"} for name in PLACES}
        when = {"type": "object", "properties": places, "additionalProperties": False, "minProperties": 1}
        override = {"type": "object", "properties": {"when": when}, "required": ["when"]}
        entry["properties"]["overrides"] = {"type": ["array", "null"], "items": override}
    return entry | ({"required": sorted({*required})} if required else {})


def _properties(model: type[BaseModel]) -> Schema:
    """{key: schema} of the keys of a model."""
    whole = model.model_json_schema()
    definitions = whole.get("$defs", {})
    result = {}
    for key, value in whole.get("properties", {}).items():
        nested = _nested(model, key, definitions)
        result[key] = {**(nested or _value(value, definitions)), **_described(value)}
    return result


def _nested(model: type[BaseModel], key: str, definitions: Mapping[str, Schema]) -> Schema | None:
    """The schema of a key whose value names plug-ins of another kind, or is the grids of a study; else None."""
    if key == "grids":
        return {"type": "array", "minItems": 1, "items": _grid()}
    if key not in NESTED:
        return None
    entries = [*(_that_names(NESTED[key], use) for use in plugins(NESTED[key])), _reference(NESTED[key], OUTSIDE)]
    one = {"anyOf": entries}
    return {"type": ["array", "null"], "items": one} if key == "augment" else {"anyOf": [*entries, {"type": "null"}]}


def _grid() -> Schema:
    """The schema of a grid, in which a list of one value may be that value."""
    properties = _properties(Grid)
    for key, value in properties.items():
        if value.get("type") == "array" and key != "measures":
            properties[key] = {"anyOf": [value, value["items"]], "description": value.get("description", "")}
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": _required(Grid)}


def _value(value: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """What JSON schema knows of the schema that pydantic has made of a type."""
    if "words" in value:
        return {"description": value["words"]}
    if "$ref" in value:
        return _value(definitions[value["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in value:
        return {"anyOf": [_value(option, definitions) for option in value["anyOf"]]}
    if value.get("type") in ("number", "integer"):
        bounds = {BOUNDS.get(k, k): v for k, v in value.items() if k in BOUNDS or k in BOUNDS.values()}
        return {"anyOf": [{"type": value["type"]} | bounds, FRACTION]}
    result: Schema = {k: value[k] for k in ("type", "enum", "const", "minLength", "minItems", "maxItems") if k in value}
    if "items" in value:
        result["items"] = _value(value["items"], definitions)
    if "properties" in value:
        result["properties"] = {
            key: (_nested_value(key) or _value(part, definitions)) | _described(part)
            for key, part in value["properties"].items()
        }
        result["additionalProperties"] = False
    return result


def _nested_value(key: str) -> Schema | None:
    return _nested(BaseModel, key, {})


def _described(value: Schema) -> Schema:
    """The description of a key, with its default."""
    return {k: value[k] for k in ("description", "default") if k in value}


def _required(model: type[BaseModel]) -> list[str]:
    return [key for key, field in model.model_fields.items() if field.is_required()]


def _text(docstring: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
