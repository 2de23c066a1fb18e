"""The order of the packages, and what modules, folders of plug-ins, scripts and rules may contain."""

import ast
import re
from pathlib import Path

import pytest

from neuralign.common.files import PACKAGE
from neuralign.config.checking.check import RULES as RESERVED
from neuralign.config.plugins import KINDS, module
from neuralign.config.references import defined_names
from neuralign.config.signatures import plugins, source
from neuralign.workflow import graph  # noqa: F401 (it registers all rules)
from neuralign.workflow.job import RULES

REPOSITORY = PACKAGE.parents[1]
# A package imports only packages before it. `api`, the calls for other programs, and `arguments`, which checks what
# they are given, stand above merging, and below cli.
ORDER = "common config datasets networks symmetry curves training alignment evaluation merging".split()
API_ABOVE = [*ORDER, "arguments", "api"]
ORDER += ["report", "workflow", "cli"]
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))


def name_of(path: Path) -> str:
    """neuralign.alignment.algorithms.correlation for lib/neuralign/alignment/algorithms/correlation.py."""
    return ".".join(["neuralign", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The package directly below `neuralign`."""
    return (module.split(".") + [""])[1]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> list[tuple[str, str | None]]:
    """(module, name imported from it) of this package, also within functions."""
    imported: list[tuple[str, str | None]] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            imported += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported += [(node.module or "", alias.name) for alias in node.names]
    return [(m, n) for m, n in imported if m.split(".")[0] == "neuralign"]


def imported_modules(path: Path) -> set[str]:
    """The same as names of modules."""
    known = {name_of(p) for p in MODULES}
    return {f"{m}.{n}" if f"{m}.{n}" in known else m for m, n in imports(path)}


def test_every_module_lies_in_a_package():
    assert {package_of(name_of(path)) for path in MODULES} - {"", "__main__", "arguments", "api"} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    package = package_of(name_of(path))
    orders = {"arguments": API_ABOVE, "api": API_ABOVE, "cli": [*ORDER[:-1], "api", "cli"]}
    order = orders.get(package, ORDER if package in ORDER else [*ORDER, package])
    for other in {package_of(m) for m in imported_modules(path)} - {package, ""}:
        assert other in order[: order.index(package)], f"{name_of(path)} imports {other}, which is not before {package}"


@pytest.mark.parametrize("package", ORDER)
def test_within_a_package_no_import_leads_back(package):
    def walk(module, importers):
        assert module not in importers, f"{module} imports itself by way of {importers}"
        for other in imported_modules(files[module]) & files.keys():
            walk(other, (*importers, module))

    files = {name_of(p): p for p in MODULES if package_of(name_of(p)) == package}
    for name in files:
        walk(name, ())


def test_the_report_does_not_import_torch():
    for path in (PACKAGE / "report").rglob("*.py"):
        assert {package_of(m) for m in imported_modules(path)} <= {"report", "common", "config"}, name_of(path)
        assert "import torch" not in path.read_text()


def test_an_init_file_holds_only_a_docstring_except_that_of_the_command():
    """An import there would tie every recipe to everything, and bring torch to the jobs that make tables."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent == PACKAGE:  # a function gives the version out, when it is asked for
            assert [node.name for node in tree(path).body[1:]] == ["__getattr__"] and not imports(path)
        else:
            assert len(tree(path).body) == 1 or path.parent.name == "cli", f"{name_of(path)} has more than a docstring"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_plug_ins_holds_nothing_else(kind):
    folder = source(kind, "_").parent
    assert folder.name.endswith("s"), "plural, as the concept beside it is singular"
    assert {p.stem for p in folder.iterdir() if p.stem not in ("__init__", "__pycache__")} == set(plugins(kind))


def test_no_folder_has_more_than_ten_modules_but_those_of_plug_ins_and_commands():
    alike = {source(kind, "_").parent for kind in KINDS} | {PACKAGE / "cli" / "commands"}
    for package in {p.parent for p in MODULES} - {PACKAGE} - alike:
        modules = [p.stem for p in package.glob("*.py") if p.stem != "__init__"]
        assert len(modules) <= 10, f"{package.name}: {sorted(modules)}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: p.stem)
def test_imported_modules_and_names_exist(path):
    """A name that is misspelt here fails in a job, hours later, or makes the closure of the code too small."""
    files = {name_of(p): p for p in MODULES}
    for origin, name in imports(path):
        assert origin in files, f"{path.name} imports {origin}, which is no module"
        if name is not None and f"{origin}.{name}" not in files:
            assert name in (defined_names(files[origin]) or ()), (
                f"{path.name} imports {name}, which {origin} does not define"
            )


@pytest.mark.parametrize("kind", KINDS)
def test_plug_ins_do_not_import_each_other(kind):
    names = {module(kind, use) for use in plugins(kind)}
    for path in source(kind, "_").parent.glob("*.py"):
        assert not (imported_modules(path) - {name_of(path)}) & names, path.name


def test_only_the_commands_name_the_config_file():
    for path in [*MODULES, *SCRIPTS]:
        text = " ".join(strings(path)) if PACKAGE / "cli" not in path.parents else ""
        assert "config.yaml" not in text and "Snakefile" not in text and "import snakemake" not in path.read_text(), (
            path
        )


@pytest.mark.parametrize(
    "kind", ["networks", "attacks", "alignments", "datasets", "augmentations", "curves", "optimisers"]
)
def test_the_library_names_no_plug_in(kind):
    """Names of plug-ins are for the config, and for the commands, which write one; only the labels of tables and
    figures, the paper's claims and the defaults of the Python interface know some. The reference page calls a type of
    values "text".
    """
    for path in MODULES:
        if (
            path.stem != "reference_page"
            and path.parent != source(kind, "_").parent
            and package_of(name_of(path)) not in ("report", "cli", "api")
        ):
            assert not set(strings(path)) & set(plugins(kind)), path.name


def strings(path: Path) -> list[str]:
    """All string constants but docstrings."""
    nodes = list(ast.walk(tree(path)))
    documented = [
        n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(n)
    ]
    docstrings = {id(n.body[0].value) for n in documented}
    constants = [n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [value for value in constants if isinstance(value, str)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_has_fewer_than_80_lines_and_does_nothing_when_imported(path):
    assert len(path.read_text().splitlines()) < 80
    first, *_, last = tree(path).body
    assert isinstance(first, ast.Expr) and ast.get_docstring(tree(path)), "it says what it makes"
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run(main)"
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign
    assert all(isinstance(node, allowed) for node in tree(path).body[1:-1])


def rules() -> dict[str, str]:
    """{first line of a rule: its text} for all rules under rules/."""
    texts = [path.read_text() for path in (REPOSITORY / "rules").glob("*.smk")]
    parts = [re.split(r"^((?:use )?rule .*):$", text, flags=re.MULTILINE)[1:] for text in texts]
    return {head: body for part in parts for head, body in zip(part[::2], part[1::2], strict=True)}


def test_every_rule_inherits_from_job_and_has_a_script_and_a_function_that_describes_its_jobs():
    names = {path.stem for path in SCRIPTS}
    assert rules().keys() == {"rule job", *(f"use rule job as {name} with" for name in names)}
    assert RULES.keys() == names
    assert set(RESERVED) == names | {"all", "job"}, "no study may have the name of a rule"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_has_a_docstring_and_a_message_for_its_jobs(rule):
    text = rules()[f"use rule job as {rule} with"]
    assert re.match(r'\n    """[A-Z][^\n]*\."""\n', text), "one sentence, which `snakemake --list` shows"
    (message,) = re.findall(r"^    message:\n        (.*)$", text, re.MULTILINE)
    assert re.match(r'"[A-Z]', message) and ("{wildcards." in message or "%s" in message)
    assert "shell:" not in text and "params:" not in text, "said once, by the rule that it inherits from"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_and_every_public_function_has_a_docstring(path):
    assert path.stem == "__init__" or ast.get_docstring(tree(path)), f"{path.name} has no docstring"
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: p.stem)
def test_no_import_is_relative(path):
    assert not [n for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level]
