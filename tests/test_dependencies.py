"""The dependencies: what the code imports is in the metadata, and every list of pins agrees with requirements.lock."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from workflow_project import REPOSITORY

sys.path.append(str(REPOSITORY / "envs"))
import from_lock

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
# module -> the distribution that it is of, where that has another name
DISTRIBUTIONS = {
    "annotated_types": "annotated-types",
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "snakemake_interface_logger_plugins": "snakemake-interface-logger-plugins",
    "yaml": "pyyaml",
}
PINS = from_lock.read_lock()


def declared(*extras: str) -> set[str]:
    """The names of the packages that the metadata names, for the core and for extras."""
    lists = [PROJECT["project"]["dependencies"], *(EXTRAS[extra] for extra in extras)]
    return {Requirement(line).name for lines in lists for line in lines}


def imported(paths: list[Path]) -> dict[str, str]:
    """{distribution: a file that imports it} for all packages that are not of Python or of this repository."""
    names: dict[str, str] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for module in {module.split(".")[0] for module in modules} - {*sys.stdlib_module_names, "neuralign"}:
                names[DISTRIBUTIONS.get(module, module)] = path.name
    return names


def test_the_core_is_all_that_the_library_and_its_commands_import():
    """Only the report, the view of a run, and two datasets that are inside scikit-learn, need the extra `workflow`."""
    library = REPOSITORY / "lib" / "neuralign"
    of_workflow = [
        *library.glob("report/**/*.py"),
        *(library / f"datasets/sources/{n}.py" for n in ("digits", "diabetes")),
        *REPOSITORY.glob("lib/snakemake_logger_plugin_neuralign/*.py"),
    ]
    of_hubs = list(library.glob("networks/hubs/*.py"))
    files = [path for path in library.rglob("*.py") if path not in (*of_workflow, *of_hubs)]
    assert len(files) > 200 and set(imported(files)) == declared()
    assert set(imported(of_workflow)) - declared() == declared("workflow") - declared() - {"snakemake"}
    assert set(imported(of_hubs)) - declared() == declared("hub") - declared()


def test_the_scripts_and_rules_need_the_extra_workflow_only():
    scripts = sorted((REPOSITORY / "scripts").glob("*.py"))
    assert scripts and set(imported(scripts)) <= declared("workflow")


def test_the_slurm_extra_contains_the_workflow():
    assert "neuralign[workflow]" in EXTRAS["slurm"] and "dev" not in EXTRAS


@pytest.mark.parametrize("path", from_lock.files())
def test_a_generated_list_is_current(path):
    assert (REPOSITORY / path).read_text() == from_lock.files()[path], "run `make lock`, or envs/from_lock.py files"


def test_the_lock_pins_everything_by_digest_and_names_no_host():
    text = (REPOSITORY / "requirements.lock").read_text()
    assert len(PINS) > 100 and sum(len(pin.lines) for pin in PINS) > 2000
    assert {line.split("==")[0] for line in text.splitlines() if re.match(r"\w", line)} == {pin.name for pin in PINS}
    for pin in PINS:
        first, *digests = pin.lines
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; .+)? \\", first), first
        assert digests and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in digests), first
        assert pin.needed_by, f"{pin.name} is needed by nothing"
    assert not re.search(r"://|--(?!hash)|@", text)


def test_the_lock_fulfils_the_metadata_and_the_tools_of_developers():
    lists = [PROJECT["project"]["dependencies"], *EXTRAS.values(), *PROJECT["dependency-groups"].values()]
    requirements = [Requirement(line) for lines in lists for line in lines]
    for requirement in requirements:
        versions = [pin.version for pin in PINS if pin.name == requirement.name.lower()]
        assert versions or requirement.name == "neuralign", requirement
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_every_range_of_the_metadata_has_a_lowest_version():
    for lines in (PROJECT["project"]["dependencies"], *EXTRAS.values()):
        for requirement in map(Requirement, lines):
            assert requirement.extras or any(part.operator == ">=" for part in requirement.specifier), requirement


def test_the_lists_for_users_have_what_the_metadata_needs_and_no_tools_of_developers():
    names = {pin.name for pin in from_lock.needed(PINS, from_lock.named(PROJECT["project"]))}
    assert declared("workflow", "slurm", "hub", "mnist") - {"neuralign"} <= names
    assert {"sympy", "pulp", "nvidia-cublas"} <= names, "needed by torch and Snakemake"
    assert not names & {"pytest", "ruff", "mypy", "snakefmt", "black", "hypothesis"}


def test_the_list_for_a_cpu_build_lacks_pytorch_and_cuda(capsys):
    from_lock.main("cpu")
    names = re.findall(r"^([\w.-]+)==", capsys.readouterr().out, re.MULTILINE)
    assert {"sympy", "snakemake", "pytest"} <= set(names)
    assert not [name for name in names if re.match("torch|nvidia|cuda|triton", name)]
    from_lock.main("torch")
    assert re.fullmatch(r"torch==[\d.]+ torchvision==[\d.]+\n", capsys.readouterr().out)
    with pytest.raises(SystemExit, match="found 'gpu'; files, cpu or torch is needed"):
        from_lock.main("gpu")
