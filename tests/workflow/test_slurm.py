"""The workflow on a cluster: on a Slurm of one node and two made-up GPUs, which tests/slurm/up.sh brings up.

One study runs to its end while its jobs fail, are cancelled and hit their time limit; what it makes has the same bits
as on this machine without interruptions. `make test-slurm` runs these tests; the rest of the suite leaves them out.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from lone_job import until
from slurm_project import (
    PROFILE,
    Run,
    ask,
    diagnosis,
    disturbable,
    disturbed,
    endpoint,
    left_behind,
    log_of,
    processes_in,
    slurm_jobs,
)
from workflow_project import REPOSITORY, Project

SUBMITTED = {"train_endpoint", "align", "signature", "train_curve", "evaluate", "plane", "midpoint", "bound"}

# ---- without a cluster: what the profile asks for


def planned(project: Project, *arguments: str) -> dict[str, dict[str, str]]:
    """{rule: the resources} of one job of every rule that uses a GPU."""
    code, text = project.dry_run("--workflow-profile", "profiles/slurm", *arguments)
    assert code == 0, text
    found = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", text, re.MULTILINE)
    resources = {rule: dict(pair.split("=", 1) for pair in line.split(", ")) for rule, line in found}
    return {rule: asked for rule, asked in resources.items() if "gpu" in asked}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Project:
    """The workflow without any results, and without messages, in place of which Snakemake shows the resources."""
    project = Project.of_repository(tmp_path_factory.mktemp("fresh") / "project")
    for path in project.root.glob("rules/*.smk"):
        path.write_text(re.sub(r"^    message:\n .*\n", "", path.read_text(), flags=re.MULTILINE))
    return project


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_every_rule_that_uses_a_gpu_asks_for_memory_and_time(fresh):
    found = planned(fresh)
    assert found.keys() == SUBMITTED
    for rule, asked in found.items():
        assert asked["gpu"] == "1" and int(asked["mem_mb"]) == 8000 and 0 < int(asked["runtime"]) <= 1440, rule


@pytest.mark.workflow
@pytest.mark.xdist_group("workflow")
def test_a_retry_has_more_memory_and_unless_it_is_resumed_more_time(fresh):
    last = 1 + yaml.safe_load((REPOSITORY / PROFILE).read_text())["retries"]
    first, again = planned(fresh), planned(fresh, "--attempt", str(last))
    for rule in first:
        assert int(again[rule]["mem_mb"]) == last * int(first[rule]["mem_mb"])
        resumed = rule.startswith("train_")
        assert int(again[rule]["runtime"]) == int(first[rule]["runtime"]) * (1 if resumed else last)
        assert int(again[rule]["runtime"]) <= 1440  # what most partitions allow


def test_the_profile_leaves_time_and_memory_to_the_rules():
    profile = yaml.safe_load((REPOSITORY / PROFILE).read_text())
    assert "set-resources" not in profile
    assert not {"mem_mb", "runtime", "gpu"} & profile.get("default-resources", {}).keys()


def test_the_profile_differs_from_the_default_one_in_nothing_else():
    """Snakemake reads one of the two: what is right on every machine stands in both."""
    default, slurm = (
        yaml.safe_load((REPOSITORY / f"profiles/{p}/profile.yaml").read_text()) for p in ("default", "slurm")
    )
    del default["cores"]
    assert slurm | default == slurm


# ---- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Slurm that runs; taken down whatever happens."""
    up = subprocess.run([REPOSITORY / "tests/slurm/up.sh"], capture_output=True, text=True, timeout=900)
    if up.returncode == 77:
        pytest.skip(up.stdout.strip())
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield
    finally:
        subprocess.run([REPOSITORY / "tests/slurm/down.sh"], timeout=120, check=False)


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory) -> Iterator[dict[str, Project]]:
    """The study on this machine (`uninterrupted`) and on Slurm (`study`), where one training is cancelled, one is put
    back into the queue and an alignment fails; and one training that hits its time limit (`limit`). All run at once.
    """
    folder = tmp_path_factory.mktemp("runs")
    made = disturbable(folder / "made")
    uninterrupted, study, limit = (made.copied(folder / name) for name in ("uninterrupted", "study", "limit"))
    started = []
    try:
        started.append(Run.on_slurm(study, target="once"))
        started[0].until(lambda: len(disturbed(study)) == 2)
        (cancelled, _), (requeued, _) = disturbed(study)
        ours = {pid for pid in processes_in(study.root) if os.getsid(pid) != started[0].process.pid}
        ask("scancel", cancelled)
        ask("scontrol", "requeue", requeued)
        until(lambda: ask("squeue", "--noheader", "--format=%T", f"--job={requeued}").strip() == "PENDING")
        until(lambda: not ours.intersection(processes_in(study.root)))  # which takes less than Slurm's two minutes
        ask("scontrol", "update", f"jobid={requeued}", "starttime=now")  # not in two minutes
        started.append(Run.on_slurm(limit, "--set-resources", "train_endpoint:runtime=attempt", target=endpoint(1)))
        started.append(Run(uninterrupted, "--cores", "1", target="once"))
        for run in reversed(started):
            run.ended()
        yield {"uninterrupted": uninterrupted, "study": study, "limit": limit}
    finally:
        for run in started:
            run.kill()


@pytest.mark.slurm
def test_an_interrupted_study_has_the_bits_of_an_uninterrupted_one_on_this_machine(runs):
    uninterrupted, study = runs["uninterrupted"].results(), runs["study"].results()
    assert uninterrupted.keys() == study.keys()
    assert [name for name in uninterrupted if uninterrupted[name] != study[name]] == []


@pytest.mark.slurm
def test_slurm_is_asked_for_gpus_memory_and_time(runs):
    records = slurm_jobs(runs["study"])
    assert {r["TresPerJob"] for r in records} == {"gres:gpu:1"} and {r["Partition"] for r in records} == {"main"}
    assert {r["Comment"].split("_wildcards_")[0].removeprefix("rule_") for r in records} == SUBMITTED
    *first, retried = slurm_jobs(runs["study"], "train_endpoint")  # the last is the second attempt of a cancelled job
    for record in (*first, *slurm_jobs(runs["study"], "evaluate")):
        assert "mem=8000M" in record["TRES"]
    assert "mem=16000M" in retried["TRES"]
    for rule, limit in (("train_endpoint", "00:30:00"), ("evaluate", "06:00:00")):
        assert {record["TimeLimit"] for record in slurm_jobs(runs["study"], rule)} == {limit}


@pytest.mark.slurm
def test_jobs_at_the_same_time_see_devices_of_their_own(runs):
    assert {device for _, device in disturbed(runs["study"])} == {"0", "1"}


@pytest.mark.slurm
def test_a_job_that_fails_is_tried_again_with_more_memory_and_time(runs):
    failed, done = slurm_jobs(runs["study"], "align")
    assert (failed["JobState"], done["JobState"]) == ("FAILED", "COMPLETED")
    assert "mem=8000M" in failed["TRES"] and "mem=16000M" in done["TRES"]
    assert (failed["TimeLimit"], done["TimeLimit"]) == ("01:00:00", "02:00:00")


@pytest.mark.slurm
def test_a_training_that_hits_its_time_limit_is_resumed_by_the_retry(runs):
    late, done = slurm_jobs(runs["limit"])
    assert (late["JobState"], late["TimeLimit"]) == ("TIMEOUT", "00:01:00")
    assert (done["JobState"], done["TimeLimit"]) == ("COMPLETED", "00:02:00")
    assert "resumed after epoch 1 of 3" in runs["limit"].path(log_of(1)).read_text()
    uninterrupted, limit = runs["uninterrupted"].results(), runs["limit"].results()
    assert f"{endpoint(1)}".removeprefix("results/") in limit
    assert [name for name in limit if uninterrupted[name] != limit[name]] == []


@pytest.mark.slurm
def test_a_training_that_is_cancelled_or_requeued_is_resumed(runs):
    *first, last = slurm_jobs(runs["study"], "train_endpoint")
    states = sorted((r["JobState"], r["Restarts"]) for r in first)
    assert states == [("CANCELLED", "0"), ("COMPLETED", "1")], diagnosis(runs["study"])
    assert (last["JobState"], last["Restarts"]) == ("COMPLETED", "0")
    for seed in (1, 2):
        assert "resumed after epoch 1 of 3" in runs["study"].path(log_of(seed)).read_text()


@pytest.mark.slurm
def test_nothing_is_left_behind(runs):
    for project in runs.values():
        assert left_behind(project) == [] and not list(project.root.glob("results/.scratch/*"))


@pytest.mark.slurm
def test_after_ctrl_c_the_jobs_have_ended_and_the_next_run_resumes_them(runs):
    project = runs["limit"]
    run = Run.on_slurm(project, target=endpoint(2))
    try:
        run.until(lambda: len(disturbed(project)) == 2)
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
        run.ended(status=1)
        until(lambda: not left_behind(project), explain=lambda: f"{left_behind(project)}\n{diagnosis(project)}")
    finally:
        run.kill()
    assert slurm_jobs(project)[-1]["JobState"] == "CANCELLED"
    project.run("--cores", "1", target=endpoint(2))
    assert "resumed after epoch 1 of 3" in project.path(log_of(2)).read_text()
    assert project.path(endpoint(2)).read_bytes() == runs["uninterrupted"].path(endpoint(2)).read_bytes()
