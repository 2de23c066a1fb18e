"""Every command in the documentation: blocks are valid shell, and the programs, targets, files and options exist.

tests/cli/test_cli.py parses those of `neuralign` itself.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator

import pytest
import yaml
from snakemake.cli import get_argument_parser
from workflow_project import REPOSITORY

from neuralign.cli import COMMANDS

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "results/published/README.md")),
    *sorted((REPOSITORY / "docs").glob("**/*.md")),
]
STUDIES = {*yaml.safe_load((REPOSITORY / "config.yaml").read_text())["studies"]}
STUDIES |= {"first", "mine"}  # that of `neuralign init`, and the one that docs/studies.md tells to write
MAKEFILE = (REPOSITORY / "Makefile").read_text()
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# whose arguments no test here knows: of the shell, of Slurm, of others
OTHERS = {"pytest", "cd", ".", "git", "sbatch", "squeue", "scancel", "conda", "torchrun", "podman"}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The words of all commands of a page."""
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for part in " ".join(shlex.quote(word) if word != "&&" else word for word in words).split(" && "):
                if part:
                    yield shlex.split(part)


def problem(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing."""
    program, *arguments = words
    if re.fullmatch(r"\w+=.*", program):
        return problem(arguments) if arguments else ""
    if program == "neuralign":
        return "" if arguments and arguments[0] in {*COMMANDS, "--version"} else "no such command"
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        variables = [word.split("=")[0] for word in arguments if "=" in word]
        is_known = all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)
        return "" if is_known and all(f"$({name})" in MAKEFILE for name in variables) else "not in the Makefile"
    if program == "snakemake":
        # the executor `cluster-generic` is of a package that is not here
        line = re.sub(r"--(executor|cluster-generic[\w-]*) ('.*?'|\S+)", "", shlex.join(arguments))
        known = get_argument_parser().parse_args(shlex.split(line))
        profile = known.workflow_profile
        if profile and not (REPOSITORY / profile).is_dir():
            return f"no profile {profile}"
        unknown = {str(target).removesuffix("_incomplete") for target in known.targets} - STUDIES
        return f"no study {unknown}" if unknown else ""
    if program in ("pip", "python", "python3"):
        return _problem_of_python(arguments)
    return "" if program in OTHERS else "unknown program"


def _problem_of_python(arguments: list[str]) -> str:
    for extra in re.findall(r"neuralign\[(\w+)\]", " ".join(arguments)):
        if extra not in EXTRAS:
            return f"no extra {extra}"
    files = [word for word in arguments if "/" in word and word.endswith((".txt", ".py"))]
    missing = [file for file in files if not (REPOSITORY / file).exists()]
    return f"no file {missing[0]}" if missing else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_the_commands_of_a_page_exist(page):
    text = page.read_text()
    for block in blocks(text):
        done = subprocess.run(["bash", "-n"], input=block.replace("<", ""), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), block
    assert [(words, wrong) for words in commands(text) if (wrong := problem(words))] == []


def test_the_checks_notice_a_wrong_command(capsys):
    page = "```sh\nmake nothing\nmake study STUDI=demo\nA=1 neuralign aline a # b\ngit clone x && make demo\n"
    page += "snakemake --cores 2 nowhere\npip install 'neuralign[gpu]'\npip install -r envs/x.txt\nrun it\n```\n"
    wrong = [problem(words) for words in commands(page)]
    assert wrong == [
        "not in the Makefile",
        "not in the Makefile",
        "no such command",
        "",
        "",
        "no study {'nowhere'}",
        "no extra gpu",
        "no file envs/x.txt",
        "unknown program",
    ]
    with pytest.raises(SystemExit):
        problem(["snakemake", "--coers", "2"])
    assert "unrecognized arguments: --coers" in capsys.readouterr().err


def test_there_are_commands_in_the_pages():
    programs = {words[0] for page in PAGES for words in commands(page.read_text())}
    assert programs >= {"neuralign", "make", "snakemake", "pip", "python3", "torchrun"}
