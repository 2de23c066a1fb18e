"""The rules of the house: imports point down, plug-ins do not know each other, scripts are thin."""

import ast
from pathlib import Path

import pytest

from neuralign.code import PACKAGE
from neuralign.objects import defined
from neuralign.schemas import plugins

REPOSITORY = PACKAGE.parents[1]
HOMES = ("align", "attacks", "augmentations", "curves", "data", "figures", "networks", "schedules")

# what a module may import lies on a lower floor; a folder is one unit, whose plug-ins import none of each other
FLOORS = [
    # nothing of this package
    {"files", "options", "plugins", "gpus", "seeding", "show", "summary", "costs", "overrides", "refusals"}
    | {"config_checks", "file_kinds"},
    {"objects", "problems", "yaml_files", "cuda_graphs", "shards", "run_lock"},
    {"images", "metrics", "moments", "parameters", "symmetry", "curves", "schedules", "theory_summary", "birkhoff"}
    | {"cells", "comparison", "sizes", "code", "entries", "callables", "provenance", "endings", "memory"}
    | {"foreign_files"},
    # files and pages; what a network is
    {"schemas", "tables", "data", "failure", "together", "report", "networks", "augmentations", "figures"}
    | {"evidence", "paper", "progress"},
    {"tracing", "states", "precision"},
    # work on networks; the checked config
    {"training", "attacks", "config", "measurements", "foreign", "certificate", "job", "folding", "updates"},
    {"batch_norm", "path_state", "simultaneous"},
    {"align", "explain", "checkpoints", "setting", "evaluation", "theory", "steps", "claims"},
    {"signature", "planes", "studies", "doctor", "library"},
    {"workflow"},
    {"recipes", "calibration", "incomplete"},
    {"plan", "consistency"},
    {"lineage", "cli"},
    {"verify", "__main__"},
]
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))


def name_of(path: Path) -> str:
    """neuralign.align.correlation for lib/neuralign/align/correlation.py."""
    return ".".join(["neuralign", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def unit_of(module: str) -> str:
    """The module or folder directly below the package."""
    return (module.split(".") + [""])[1]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> list[tuple[str, str | None]]:
    """(module, name imported from it) of this package, also within functions."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return [(m, n) for m, n in found if m.split(".")[0] == "neuralign"]


def imported_modules(path: Path) -> set[str]:
    """The same as names of modules."""
    known = {name_of(p) for p in MODULES}
    return {f"{m}.{n}" if f"{m}.{n}" in known else m for m, n in imports(path)}


def test_every_module_has_a_floor():
    assert {unit_of(name_of(path)) for path in MODULES} - {""} == FLOOR.keys()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    me = unit_of(name_of(path))
    for other in {unit_of(m) for m in imported_modules(path)} - {me, ""}:
        assert FLOOR[other] < FLOOR[me], f"{path.name}, on floor {FLOOR[me]}, imports {other}, on floor {FLOOR[other]}"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: p.stem)
def test_what_is_imported_exists(path):
    """A name that is misspelt here fails in a job, hours later, or makes the closure of the code too small."""
    files = {name_of(p): p for p in MODULES}
    for module, name in imports(path):
        assert module in files, f"{path.name} imports {module}, which is no module"
        if name is not None and f"{module}.{name}" not in files:
            assert name in (defined(files[module]) or ()), f"{path.name} imports {name}, which {module} does not define"


@pytest.mark.parametrize("home", HOMES)
def test_plug_ins_do_not_import_each_other(home):
    names = {f"neuralign.{home}.{use}" for use in plugins(home)}
    for path in (PACKAGE / home).glob("*.py"):
        assert not (imported_modules(path) - {name_of(path)}) & names, path.name


def test_only_the_shell_knows_of_the_config_file():
    for path in [*MODULES, *SCRIPTS]:
        text = " ".join(strings(path)) if path.stem != "plan" and path.parent.name != "cli" else ""  # commands
        assert "config.yaml" not in text and "Snakefile" not in text and "import snakemake" not in path.read_text(), (
            path
        )


@pytest.mark.parametrize("home", ["networks", "attacks", "align", "data", "augmentations", "curves"])
def test_the_library_asks_for_no_plug_in_by_name(home):
    """Names of plug-ins are for the config, and for the commands, which write one; only the labels of tables and
    figures and the paper's claims know some.
    """
    for path in MODULES:
        if path.parent.name not in (home, "cli") and path.stem not in ("summary", "measurements", "claims"):
            assert not set(strings(path)) & set(plugins(home)), path.name


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
def test_a_script_is_thin_and_does_nothing_when_imported(path):
    assert len(path.read_text().splitlines()) < 80
    first, *_, last = tree(path).body
    assert isinstance(first, ast.Expr) and ast.get_docstring(tree(path)), "it says what it makes"
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run(main)"
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign
    assert all(isinstance(node, allowed) for node in tree(path).body[1:-1])


def test_there_is_one_script_for_each_rule():
    rules = "\n".join(p.read_text() for p in (REPOSITORY / "rules").glob("*.smk"))
    assert {p.stem for p in SCRIPTS} == {
        line.removeprefix("rule ").rstrip(":") for line in rules.splitlines() if line.startswith("rule ")
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_and_every_public_function_says_what_it_does(path):
    assert path.stem == "__init__" or ast.get_docstring(tree(path)), f"{path.name} has no docstring"
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: p.stem)
def test_no_import_is_relative(path):
    assert not [n for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level]
