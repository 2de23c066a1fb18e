"""config.schema.json: current, and a help for editors that refuses nothing that the check of the config accepts."""

import copy
import json

import pytest
from hostile_configs import SMALL, changed
from jsonschema import Draft7Validator
from workflow_project import REPOSITORY

from neuralign.config.catalogue import Catalogue
from neuralign.config.documentation.json_schema import config_schema
from neuralign.config.files import read
from neuralign.config.plugins import KINDS
from neuralign.config.signatures import plugins, schema

FILE = REPOSITORY / "config.schema.json"
VALIDATOR = Draft7Validator(config_schema())


def problems(config):
    return [error.json_path for error in VALIDATOR.iter_errors(config)]


def test_the_file_is_current_and_named_by_the_config():
    Draft7Validator.check_schema(config_schema())
    assert json.loads(FILE.read_text()) == config_schema(), "run `make reference`"
    assert (REPOSITORY / "config.yaml").read_text().splitlines()[0].endswith("$schema=config.schema.json")


def test_the_configs_of_the_repository_are_accepted():
    assert problems(read(REPOSITORY / "config.yaml")) == []
    assert problems(SMALL) == [] and Catalogue(SMALL)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"figures"}))  # which the config does not name
def test_every_option_of_every_plug_in_is_known_with_its_description(kind):
    for use in plugins(kind):
        properties = config_schema()["definitions"][f"{kind}.{use}"]["properties"]
        for name, field in schema(kind, use).model_fields.items():
            assert properties[name]["description"] == field.description


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("datsets", {}),
        ("datasets.digits.sise", 8),
        ("networks.resnet32.dept", 8),
        ("attacks.pgd5.steps", "many"),
        ("attacks.pgd5.eps", -1),
        ("regimes.standard.endpoints", {}),
        ("regimes.standard.endpoint.lrr", 1),
        ("regimes.standard.endpoint.epochs", 0),
        ("regimes.standard.endpoint.schedule", {"use": "platau"}),
        ("repairs.rescale.match", "shift"),
        ("merges.brief.points", "x"),
        ("studies.small.grids.0.pairs", "1-2"),
        ("studies.small.grids.0.measures", ["signatur"]),
        ("default_study", 3),
    ],
)
def test_wrong_values_are_marked(path, value):
    config = changed(path, value)
    if "." not in path:
        config = copy.deepcopy(SMALL) | {path: value}
    (first, *_) = problems(config)
    assert first.startswith(f"$.{path.split('.')[0]}") or first == "$"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("attacks.pgd5.eps", "8/255"),
        ("alignments.correlation", {"images": 100, "overrides": [{"when": {"dataset": "digits"}, "images": 50}]}),
        ("studies.small.grids.0.method", "aligned"),
        ("networks.mine", {"use": "nets.py:Net", "options": {"width": 3}}),
        ("alignments.also", {"use": "correlation", "read": "pre"}),
        ("planes.coarse.images", None),
    ],
)
def test_other_ways_to_write_a_value_are_accepted(path, value):
    assert problems(changed(path, value)) == []
