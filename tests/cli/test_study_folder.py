"""`neuralign init` and `neuralign run`, with Snakemake replaced (real runs: tests/workflow/test_wheel.py)."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from workflow_project import REPOSITORY

from neuralign.cli import configs, main
from neuralign.common.errors import UserError
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.workflow.running.run_lock import LOCK, exclusive
from neuralign.workflow.sources import check_sources

ACCURACIES = REPOSITORY / "results/published/cifar10_tinyten/studies/cifar10_tinyten/tables"
NO_JOB = 3  # status of a run that ends before its first job
FILES = [".gitignore", "Snakefile", "config.yaml", "profiles/default/profile.yaml", "profiles/slurm/profile.yaml"]


@pytest.fixture(autouse=True)
def initialised(tmp_path, monkeypatch, capsys):
    """What `init` has printed; the working directory is the folder that it has filled."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--json"]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    return capsys.readouterr().out


@pytest.fixture
def runs(monkeypatch):
    """The starts of Snakemake, as (options, target); `status` has the exit status for each target."""

    def start(command, target, lock):
        calls.append((command[command.index("--quiet") :], target))
        if status.get(target) != NO_JOB:
            LOCK.write_text("jobs have begun")  # as `share` does for the Snakefile
        if not status.get(target):
            shutil.copytree(ACCURACIES, Path("results", "studies", target, "tables"), dirs_exist_ok=True)
        return status.get(target, 0)

    calls, status = [], {}
    for module in ("workflow_runs", "commands.run"):
        monkeypatch.setattr(f"neuralign.cli.{module}.start", start)
    return calls, status


def refused(capsys, *arguments):
    """The line on standard error of a command that is refused."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_init_writes_the_files_that_it_lists(initialised):
    listed = json.loads(initialised)
    assert sorted(str(p.relative_to(".")) for p in Path().rglob("*") if p.is_file()) == sorted(listed["files"]) == FILES
    assert Path(listed["default_config"]) == REPOSITORY / "config.yaml"
    assert Path(FILES[-1]).read_text() == (REPOSITORY / FILES[-1]).read_text()


def test_init_refuses_before_it_writes_anything(capsys):
    for name in FILES[:3]:
        Path(name).unlink()
    message = "FOLDER: profiles/default/profile.yaml is there already; a folder without it is needed"
    assert message in refused(capsys, "init", ".")
    assert not Path("Snakefile").exists()


def test_the_config_of_init_extends_the_default_and_its_examples_are_right():
    default, text = REPOSITORY / "config.yaml", Path("config.yaml").read_text()
    assert Catalogue(read_config([default, Path("config.yaml")])).default_study == "first"
    Path("nets.py").write_text("def Net(width): ...\n")
    examples = [line[2:] for line in text[text.index("# networks:") :].splitlines() if re.match(r"# ( |\w+:$)", line)]
    Path("examples.yaml").write_text("\n".join(examples))
    assert list(yaml.safe_load("\n".join(examples))) == ["networks", "checkpoints", "datasets", "regimes"]
    c = Catalogue(read_config([default, Path("config.yaml"), Path("examples.yaml")]))
    assert c.entry("regimes", "demo")["curve"]["epochs"] == 40


def test_the_config_of_a_folder_is_that_of_all_commands(capsys):
    assert main(["plan"]) == 0
    assert "train_endpoint      2     0" in capsys.readouterr().out
    assert configs.folder_config() == [Path("config.yaml")]


def test_a_config_beside_a_foreign_snakefile_is_not_read():
    Path("Snakefile").write_text("rule all:\n")
    assert configs.folder_config() == []


def test_the_default_config_is_not_laid_over_itself(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert configs.folder_config() == []


def test_entries_that_are_one_by_an_anchor_can_be_changed_apart(tmp_path):
    Path("base.yaml").write_text("a: {x: &x {lr: 1}, y: *x}\n")
    Path("more.yaml").write_text("a: {x: {lr: 2}}\n")
    assert read_config([Path("base.yaml"), Path("more.yaml")]) == {"a": {"x": {"lr": 2}, "y": {"lr": 1}}}


def test_run_makes_the_default_study_and_prints_its_table(capsys, runs):
    assert main(["run", "--cores", "2"]) == 0
    assert runs[0] == [(["--quiet", "host", "rules", "--logger", "neuralign", "--cores", "2", "--keep-going"], "first")]
    out, err = capsys.readouterr()
    assert out.endswith("report: results/studies/first/report.html\n")
    assert err.startswith("Study first: ") and "their logs to logs/. After Ctrl-C" in " ".join(err.split())


def test_run_shows_snakemakes_own_lines_on_request_and_in_a_dry_run(runs):
    assert main(["run", "--verbose"]) == main(["run", "--dry-run"]) == 0
    assert main(["run", "demo", "--", "--logger", "rich"]) == 0
    assert [options.count("--logger") for options, _ in runs[0]] == [0, 0, 1]


def test_run_passes_options_on_to_snakemake(runs):
    assert main(["run", "demo", "--", "--workflow-profile", "profiles/slurm"]) == 0
    assert runs[0][0][0][-2:] == ["--workflow-profile", "profiles/slurm"] and runs[0][0][1] == "demo"
    assert main(["run", "--cores", "2", "--", "--retries", "1"]) == 0
    assert runs[0][1][0][-2:] == ["--retries", "1"] and runs[0][1][1] == "first"


def test_run_reports_what_is_finished_after_a_failure_and_removes_that_later(capsys, runs):
    calls, status = runs
    status["first"] = 1
    assert main(["run"]) == 1
    assert [target for _, target in calls] == ["first", "first_incomplete"]
    out = capsys.readouterr().out
    assert "report: results/studies/first_incomplete/report.html" in out and "INCOMPLETE: something has failed" in out
    status["first"] = 0
    assert main(["run"]) == 0
    assert not Path("results/studies/first_incomplete").exists() and Path("results/studies/first").is_dir()


def test_run_says_so_where_nothing_is_finished(capsys, runs):
    runs[1].update(first=1, first_incomplete=1)
    assert main(["run"]) == 1
    assert capsys.readouterr().out == "failed; the messages above say where\n"


def test_a_run_that_ends_before_its_first_job_has_no_report(capsys, runs):
    runs[1]["first"] = NO_JOB
    assert main(["run"]) == 1
    assert [target for _, target in runs[0]] == ["first"]
    assert capsys.readouterr().out == "failed; the messages above say where\n"


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("section", "entry", "change", "problem"),
    [
        ("checkpoints.ca", "{file: ../nosuch.pt}", {}, ".file (over.yaml, line 2): found '../nosuch.pt': no such file"),
        ("checkpoints.ca", "{file: empty}", {}, ".file (over.yaml, line 2): found 'empty': a folder without a checkp"),
        ("datasets.mine", "{use: npz, path: gone.npz}", {"dataset": "mine"}, ".path (over.yaml, line 2): found 'gone"),
        (
            "datasets.mine",
            "{use: idx, url: file:///gone}",
            {"dataset": "mine"},
            ".url (over.yaml, line 2): found 'file",
        ),
    ],
)
def test_files_that_a_study_reads_must_exist(capsys, runs, command, section, entry, change, problem):
    kind, name = section.split(".")
    pair = "ca-1" if kind == "checkpoints" else "1-2"
    grid = {"dataset": "digits", "network": "resnet8", "regime": "demo", "pair": pair, "curve_seed": 1}
    grid |= {"method": ["linear_aligned"], "evaluation": "demo"} | change
    if "idx" in entry:
        checksum = f"sha256:{'0' * 64}"
        parts = [f"{split}_{part}: {checksum!r}" for split in ("train", "test") for part in ("images", "labels")]
        entry = f"{entry[:-1]}, {', '.join(parts)}}}"
    studies = yaml.safe_dump({"studies": {"theirs": {"title": "Of files", "grids": [grid]}}})
    Path("over.yaml").write_text(f"{kind}:\n  {name}: {entry}\n{studies}")
    Path("empty").mkdir()
    message = refused(capsys, command, "theirs", "--configfile", "over.yaml")
    assert message.startswith(f"neuralign {command}: error: the config is refused: {section}{problem}")
    assert runs[0] == []
    assert main([command, "demo", "--configfile", "over.yaml"]) == 0, "another study does not need them"


def test_data_whose_checksum_the_config_has_need_not_be_there():
    """A study that is finished or restored does not need them."""
    checksum = f"sha256:{'0' * 64}"
    data = {"use": "cifar", "classes": 10, "url": "gone.tar.gz", "checksum": checksum}
    config = read_config([REPOSITORY / "config.yaml"])
    config["datasets"]["cifar10"] = data
    check_sources(Catalogue(config), "cifar10")


def test_a_run_that_was_killed_is_to_be_continued_and_has_no_report(capsys, runs):
    runs[1]["first"] = -9
    assert main(["run"]) == 1
    assert [target for _, target in runs[0]] == ["first"]
    text = "Snakemake was ended by signal 9; what is done is kept, and the same command continues\n"
    assert capsys.readouterr().out == text


def test_run_refuses_in_one_line(capsys, monkeypatch):
    assert "no study 'none' in the config (allowed: " in refused(capsys, "run", "none")
    with exclusive(Path()):
        assert "another run is at work in . (results/.running there is locked)" in refused(capsys, "run")
    monkeypatch.setattr("neuralign.cli.workflow_runs.find_spec", lambda name: None)
    assert "Snakemake is not installed: pip install 'neuralign[workflow]'" in refused(capsys, "run")


def test_a_copy_of_the_package_without_its_workflow_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "WORKFLOW", tmp_path)
    with pytest.raises(UserError, match="this copy of neuralign lacks its workflow; install the wheel, or a checkout"):
        configs.workflow_file("Snakefile")
