"""Models of the options of plug-ins agree with the signatures of the plug-ins."""

import ast
import inspect
import subprocess
import sys
from functools import partial
from importlib import import_module

import pytest
from pydantic import ValidationError

from neuralign.common.files import PACKAGE
from neuralign.config.plugins import KINDS, module, plugin_or_none
from neuralign.config.signatures import plugins, schema, source

SHIPPED = [(kind, use) for kind in KINDS for use in plugins(kind)]


def test_the_plug_ins_of_a_folder_are_the_files_with_a_function_of_their_own_name():
    assert plugins("networks") == ("googlenet", "gpt", "mlp", "resnet", "tinyten", "vit")
    assert plugins("curves") == ("bezier", "chain", "segment")
    assert {"checks", "downloads", "pictures", "sources", "storage"}.isdisjoint(plugins("datasets"))


def test_every_folder_has_plug_ins():
    assert {kind for kind, _ in SHIPPED} == set(KINDS)


@pytest.mark.parametrize(("kind", "use"), SHIPPED)
def test_the_model_of_a_plug_in_agrees_with_its_signature(kind, use):
    function = getattr(import_module(module(kind, use)), use)
    parameters = {n: p for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
    fields = schema(kind, use).model_fields
    assert fields.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert parameter.annotation is not parameter.empty, f"{use}: {name} has no type"
        assert fields[name].is_required() == (parameter.default is parameter.empty)
        if parameter.default is not parameter.empty:
            assert fields[name].default == parameter.default


@pytest.mark.parametrize(("kind", "use"), SHIPPED)
def test_the_defaults_of_a_shipped_plug_in_are_within_their_own_ranges(kind, use):
    model = schema(kind, use)
    defaults = {name: f.default for name, f in model.model_fields.items() if not f.is_required()}
    for name, value in defaults.items():
        assert model.__pydantic_validator__.validate_assignment(model.model_construct(**defaults), name, value)


@pytest.mark.parametrize(("kind", "use"), SHIPPED)
def test_a_plug_in_takes_options_by_keyword_only(kind, use):
    """A positional parameter with a default would be an option that the config cannot reach."""
    tree = ast.parse(source(kind, use).read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == use)
    assert not function.args.defaults and function.args.vararg is None and function.args.kwarg is None


def test_an_unknown_plug_in_is_refused():
    for use in ("nothing", "__init__", "../code", "checks"):
        with pytest.raises(KeyError, match="does not define"):
            schema("datasets", use)


def test_a_number_may_be_a_fraction():
    options = schema("attacks", "pgd").model_validate({"eps": "8/255", "step": 1})
    assert options.model_dump()["eps"] == 8 / 255


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"eps": 0}, "eps"),
        ({"steps": 0}, "steps"),
        ({"size": 1}, "size"),
        ({"eps": True}, "eps"),
        *(
            ({"eps": fraction}, "eps")
            for fraction in ("1/0", "/2", "1/", "1/2/3", "--1/2", "a/b", "", f"1/0.{400 * '0'}1")
        ),
    ],
)
def test_a_wrong_option_is_refused_by_its_key(options, wrong):
    with pytest.raises(ValidationError) as error:
        schema("attacks", "pgd").model_validate({"eps": 1, "step": 1} | options)
    assert {problem["loc"][0] for problem in error.value.errors()} == {wrong}


def test_an_entry_of_null_is_no_plug_in():
    assert plugin_or_none("attacks", None) is None
    attack = plugin_or_none("attacks", {"use": "pgd", "eps": 0.1, "step": 0.05})
    assert isinstance(attack, partial) and attack.keywords == {"eps": 0.1, "step": 0.05}
    assert attack.func is import_module(module("attacks", "pgd")).pgd


def test_reading_signatures_imports_no_torch():
    code = (
        "import sys; from neuralign.config.signatures import plugins, schema\n"
        f"for kind in {tuple(KINDS)}: [schema(kind, use) for use in plugins(kind)]\n"
        "assert not {'torch', 'numpy', 'pandas', 'matplotlib'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(PACKAGE.parent)})
