"""What a repository has besides code: the citation, the forms, the hosted checks and the recipe of the container."""

import re
import subprocess
import tomllib

import pytest
import yaml
from workflow_project import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
FORMS = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def test_the_citation_has_the_version_of_the_package_and_the_paper():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["title"] == "Optimizing Mode Connectivity via Neuron Alignment" and paper["year"] == 2020
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Tatro", "Chen", "Das", "Melnyk", "Sattigeri", "Lai"]


def test_the_changelog_begins_with_the_version_of_the_package():
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(re.escape(PROJECT["version"]) + r" \((unreleased|\d{4}-\d\d-\d\d)\)", headings[0])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_for_issues_has_all_that_a_form_needs(form):
    content = yaml.safe_load(form.read_text())
    assert content["name"] and content["description"]
    ids = [field["id"] for field in content["body"]]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in content["body"])
    assert {field["type"] for field in content["body"]} <= TYPES


def test_the_hosted_checks_are_those_of_every_change_and_use_pinned_actions():
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()
    job = yaml.safe_load(workflow)["jobs"]["check"]
    assert {"run": ".ci/run"} in job["steps"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == oldest
    stated = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert [stated[0], stated[-1]] == job["strategy"]["matrix"]["python"]
    actions = re.findall(r"uses: (\S+)(.*)", workflow)
    assert len(actions) >= 2
    for action, comment in actions:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and re.fullmatch(r" # v[\d.]+", comment), action


def test_every_change_must_pass_the_linters_the_tests_and_the_site():
    script = REPOSITORY / ".ci" / "run"
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o100
    assert re.findall(r"^make ([\w-]+)", script.read_text(), re.MULTILINE) == ["lint", "test", "site", "test-slurm"]


def wrong(recipe: str) -> list[str]:
    """What a recipe of a container should not do."""
    lines = re.sub(r"\\\n\s*", "", recipe)
    instructions = [tuple(line.split(" ", 1)) for line in lines.splitlines() if line and not line.startswith("#")]
    values = {name: [value for key, value in instructions if key == name] for name, _ in instructions}
    problems = []
    for base in values["FROM"]:
        if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}( AS \w+)?", base):
            problems.append(f"{base} is not pinned")
    if values.get("USER", ["root"])[-1] in ("root", "0"):
        problems.append("it runs as root")
    for command in [part for line in values["RUN"] for part in line.split("&&")]:
        if " install" in command and "pip" in command:
            if "--no-cache-dir" not in command:
                problems.append("pip leaves a cache")
            if "--require-hashes" not in command and "--no-deps" not in command:
                problems.append("pip installs what is not pinned")
        if "apt-get" in command:
            problems.append("apt-get installs what is not pinned")
    problems += ["ADD may fetch from anywhere"] * ("ADD" in values)
    problems += ["COPY . takes results and environments along"] * any(v.startswith(". ") for v in values["COPY"])
    problems += [f"{name} runs a shell" for name in ("ENTRYPOINT", "CMD") for v in values.get(name, []) if v[0] != "["]
    return problems


def test_the_recipe_of_the_container_is_sound_and_copies_what_the_wheel_is_made_of():
    recipe = (REPOSITORY / "envs" / "Containerfile").read_text()
    assert wrong(recipe) == []
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE) for name in line.split()}
    assert all((REPOSITORY / name).exists() for name in copied)
    grafted = set(re.findall(r"^(?:graft|include) (.+)$", (REPOSITORY / "MANIFEST.in").read_text(), re.MULTILINE))
    needed = {"pyproject.toml", "setup.py", "MANIFEST.in", PROJECT["readme"], "LICENSE", "lib"}
    assert needed | {name for names in grafted for name in names.split()} <= copied


def test_the_rules_for_containers_notice_a_bad_recipe():
    recipe = "FROM python:3.11\nADD x /x\nCOPY . /y\nRUN apt-get update \\\n    && pip install torch\nCMD python\n"
    assert wrong(recipe) == [
        "python:3.11 is not pinned",
        "it runs as root",
        "apt-get installs what is not pinned",
        "pip leaves a cache",
        "pip installs what is not pinned",
        "ADD may fetch from anywhere",
        "COPY . takes results and environments along",
        "CMD runs a shell",
    ]
