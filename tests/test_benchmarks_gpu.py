"""`python -m benchmarks.gpu` runs on a CPU, loses no number, and needs few packages. No test depends on times."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import evaluation, exact, paper, row, trainings
from benchmarks.gpu.floor import Speeds, Work, work_of
from benchmarks.gpu.jobs import Call, Jobs, MissingInput
from benchmarks.gpu.result import Result
from benchmarks.pretended_gpu import pretended_gpu
from neuralign.common.tables import write_rows
from neuralign.common.tensors import save_tensors
from neuralign.workflow.job import job_name

HEADER = {"date", "commit", "source", "device", "versions", "cuda", "cudnn", "nvidia_smi", "cudnn.deterministic"}
RULES = {"align", "bound", "evaluate", "midpoint", "plane", "signature"}  # whose jobs are also done on the CPU


def content(folder: Path, section: str) -> dict:
    return json.loads((folder / f"{section}.json").read_text())


def run_here(section: str, folder: Path) -> int:
    """The exit status of one section, measured in this process."""
    with pytest.raises(SystemExit) as ended:
        command.main([section, "--device", "cpu", "--quick", "--out", str(folder)])
    return ended.value.code


def run_apart(folder: Path, *arguments: str, planted: str = "") -> subprocess.CompletedProcess:
    """A run in a process of its own, which executes the code `planted` first, as all processes that it starts do."""
    (folder / "sitecustomize.py").write_text(f"import sys\n{planted}\n")
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--quick", "--out", str(folder)]
    return subprocess.run(line, cwd=command.ROOT, env=environment, capture_output=True, text=True, check=False)


def without(*modules: str) -> str:
    """Code after which these modules cannot be imported."""
    return f"sys.modules.update(dict.fromkeys({modules!r}))"


@pytest.mark.parametrize("section", command.SECTIONS)
def test_a_section_runs_and_keeps_its_numbers(section, tmp_path):
    assert run_here(section, tmp_path) == 0
    result = content(tmp_path, section)
    assert result["status"] == "done" and not result["errors"] and result["header"].keys() >= HEADER
    for number in result["numbers"]:
        low, high = number["spread"]
        assert low <= number["median"] <= high and number["n"] > 0 and number["what"]
    assert all(check["passed"] for check in result["checks"])
    if section == "exact":
        assert {c["what"].split()[1] for c in result["checks"] if c["what"].startswith("job")} == RULES
        assert sum("tensors with other bits" in c["what"] for c in result["checks"]) == 9


PLANTED = """
import types

def killed(result, device, quick):
    import os, signal
    result.number("the last words", [1.0], "s")
    os.kill(os.getpid(), signal.SIGKILL)

def imports(result, device, quick):
    from importlib import import_module
    from benchmarks.gpu import __main__, jobs
    for section in __main__.SECTIONS:
        import_module(f"benchmarks.gpu.{section}")
    for script in (jobs.ROOT / "scripts").glob("*.py"):
        if not script.stem.startswith(("plot", "report", "tabulate")):  # of a study
            result.number(script.stem, [float(callable(jobs._main(script.stem)))], "")

sys.modules["benchmarks.gpu.steps"] = types.SimpleNamespace(measure=killed)
sys.modules["benchmarks.gpu.row"] = types.SimpleNamespace(measure=imports)
"""


def test_a_killed_section_is_noted_and_the_next_runs_without_snakemake_and_pandas(tmp_path):
    planted = without("snakemake", "pandas", "torchvision", "matplotlib") + PLANTED
    process = run_apart(tmp_path, "steps", "row", "--device", "cpu", planted=planted)
    assert process.returncode == 1 and not process.stderr
    result = content(tmp_path, "steps")
    assert result["status"] == "failed" and result["errors"][0]["error"] == "ended by SIGKILL"
    assert result["numbers"][0]["what"] == "the last words" and result["header"].keys() >= HEADER
    result = content(tmp_path, "row")
    assert result["status"] == "done" and not result["errors"]
    assert {n["what"] for n in result["numbers"]} >= RULES | {"fetch_data", "train_endpoint", "train_curve"}


def test_a_missing_package_is_named_in_one_line_before_anything_starts(tmp_path):
    process = run_apart(tmp_path, planted=without("pydantic", "pydantic_core", "sklearn", "torch"))
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr == (
        "missing: pydantic pydantic-core scikit-learn narwhals; install them, or carry their wheels in the versions of "
        "requirements.lock\n"
    )
    assert not list(tmp_path.glob("*.json"))


def test_without_a_gpu_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        SystemExit, match=r"^torch .* cannot use a GPU here; `--device cpu --quick` runs the same lines$"
    ):
        command.main(["--out", str(tmp_path)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SystemExit, match="^CUDA_VISIBLE_DEVICES names the GPU 0, which torch"):
        command.main(["--out", str(tmp_path)])


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no section step; allowed: exact, steps, together, row, evaluation"):
        command.main(["step", "--out", str(tmp_path)])


def test_a_section_that_raises_has_failed_and_keeps_its_numbers(tmp_path, monkeypatch):
    def measure(result, device, quick):
        result.number("before", [3.0, 1.0, 2.0], "ms", "a note")
        raise RuntimeError("planted")

    monkeypatch.setattr(evaluation, "measure", measure)
    assert run_here("evaluation", tmp_path) == 1
    result = content(tmp_path, "evaluation")
    assert result["status"] == "failed" and result["errors"][0]["error"] == "RuntimeError: planted"
    assert 'raise RuntimeError("planted")' in result["errors"][0]["traceback"]
    number = {"what": "before", "median": 2.0, "unit": "ms", "n": 3, "spread": [1.0, 3.0], "note": "a note"}
    assert result["numbers"] == [number]


def test_every_number_is_in_the_file_at_once_and_a_check_that_fails_fails_the_section(tmp_path):
    result = Result("steps", tmp_path, {"date": "today"})
    assert content(tmp_path, "steps")["status"] == "running"
    result.number("a", [1.0], "s")
    assert [n["what"] for n in content(tmp_path, "steps")["numbers"]] == ["a"]
    result.check("b", False, found=2, allowed=1)
    result.check("c", True, found=1, allowed=1)
    assert content(tmp_path, "steps")["status"] == "failed"
    result.finish({"clocks.sm": "1980 MHz"})
    assert content(tmp_path, "steps")["status"] == "failed"
    assert content(tmp_path, "steps")["clocks_at_the_end"] == {"clocks.sm": "1980 MHz"}


def test_work_is_counted_from_the_operations():
    a, b = torch.ones(4, 8), torch.ones(8, 2)
    work = work_of(lambda: (a @ b).t().add_(1.0))
    assert work == Work(operations=2, flops=2 * 4 * 8 * 2, bytes=4 * (32 + 16 + 8) + 4 * (8 + 8))
    assert work.per_step(Work(0, 64, 8), 2) == Work(1, 32, 140)
    speeds = Speeds({"float32": 10.0, "bfloat16": 20.0}, 5.0)
    assert (
        speeds.seconds(Work(9, 40.0, 5.0), "float32") == 4.0 and speeds.seconds(Work(9, 40.0, 15.0), "bfloat16") == 3.0
    )


def test_the_row_takes_its_numbers_from_the_config():
    c = paper.catalogue(quick=False)
    groups = row.groups_of(c, "tinyten")
    counts = {
        "train_endpoint": 6,
        "train_curve": 6,
        "align": 3,
        "signature": 3,
        "evaluate": 12,
        "midpoint": 6,
        "bound": 6,
    }
    assert {rule: sum(len(g.wildcards) for g in groups if g.rule == rule) for rule in counts} == counts
    assert sum(len(g.wildcards) for g in groups) == sum(counts.values())
    assert {(g.rule, g.epochs) for g in groups if g.epochs} == {("train_endpoint", 250), ("train_curve", 250)}
    batches = [paper.training(c, "tinyten", kind).settings["training"]["batch_size"] for kind in ("endpoint", "curve")]
    sizes = paper.sizes(c, quick=False)
    assert batches == [64, 128] and (sizes.train, sizes.test) == (50_000, 10_000)
    assert paper.evaluation(c, "tinyten", "standard").settings["protocol"]["images"] == 2048


def test_the_seconds_of_a_row_are_those_of_its_jobs(tmp_path, monkeypatch):
    """With jobs of known times: 2 s and 3 s an epoch for a training, 7 s for everything else, 1 s to start."""
    seconds = {"train_endpoint": 2.0, "train_curve": 2.0}
    monkeypatch.setattr(Jobs, "call", lambda self, rule, w: Call(rule, {}, settings_of(rule)))
    monkeypatch.setattr(row, "_start_seconds", lambda device, quick: 1.0)
    monkeypatch.setattr(
        row._Row,
        "_timed",
        lambda self, variants: [
            [2.0 * len(v) + 3.0 * v[0].settings["training"]["epochs"]] if v[0].rule in seconds else [7.0]
            for v in variants
        ],
    )

    def settings_of(rule):
        return {"training": {"epochs": 9, "batch_size": 8}} if rule in seconds else {}

    result = Result("row", tmp_path, {})
    row.measure(result, "cpu", quick=True)
    numbers = {n["what"]: n["median"] for n in result.content["numbers"]}
    others = 30 * 7.0 + 42 * 1.0
    assert numbers["TinyTen: the row, one job after the other"] == 12 * (2 + 250 * 3) + others
    assert numbers["TinyTen: the row, 2 trainings at once"] == 12 / 2 * (4 + 250 * 3) + others


def test_outputs_of_two_devices_are_compared_by_column(tmp_path):
    paths = []
    for number, loss, partners in ((0, 1.0, [0, 1, 2, 3]), (1, 1.25, [0, 1, 3, 2])):
        folder = tmp_path / str(number)
        rows = [{"t": 0.5, "attack": "clean", "loss": loss}, {"t": 1.0, "attack": f"a{number}", "loss": 2.0}]
        write_rows(rows + [rows[0]] * number, folder / "points")
        save_tensors({"g": torch.tensor(partners)}, folder / "permutation")
        paths.append({name: str(folder / name) for name in ("points", "permutation")})
    same, apart = (exact.differences(paths[0], other) for other in paths)
    assert not any(same.values())
    assert apart["loss"] == 0.25 and apart["t"] == 0.0 and apart[exact.OTHER_PARTNERS] == 0.5
    assert apart[exact.TEXTS] == 4  # one other text, and a row of three cells


def test_bits_are_compared_where_steps_are_recorded(tmp_path):
    """On a pretended GPU, whose graphs are replayed from a list of operations."""
    result, settings = (
        Result("exact", tmp_path, {}),
        paper.training(paper.catalogue(quick=True), "tinyten", "curve").settings,
    )
    with pretended_gpu():
        networks, regime = trainings.problem("tinyten", settings, "cuda"), trainings.timed_regime(settings, "float32")
        exact._same_bits(result, "a", networks, "curve", replace(regime, epochs=2), None, True, "cuda")
    assert [check["what"] for check in result.content["checks"] if not check["passed"]] == []
    assert "a: recorded, for both sizes of batches" in [check["what"] for check in result.content["checks"]]


def test_a_job_that_fails_is_noted_and_the_others_are_done(tmp_path, monkeypatch):
    def make(self, rule, wildcards):
        if rule == "evaluate":
            raise RuntimeError("planted")
        self.seconds[job_name(rule, wildcards)] = 1.0
        return {}

    monkeypatch.setattr(Jobs, "make", make)
    monkeypatch.setattr(Jobs, "call", lambda self, rule, wildcards: Call(rule, {}, {}))
    monkeypatch.setattr(exact, "do", lambda calls, folders, device: [{}])
    result = Result("exact", tmp_path, {})
    exact._every_rule(result, "cpu", quick=True)
    (failed,) = result.content["errors"]
    assert failed["what"].startswith("job evaluate") and failed["error"] == "RuntimeError: planted"
    assert result.status == "failed" and len(result.content["numbers"]) == 7 and len(result.content["checks"]) == 5


def test_a_job_after_a_failed_one_is_a_missing_input(tmp_path, monkeypatch):
    c = paper.catalogue(quick=True)
    jobs = Jobs(c, tmp_path, "cpu")
    monkeypatch.setattr("benchmarks.gpu.jobs.do", lambda *arguments: 1 / 0)
    wildcards = {"dataset": "cifar10", "network": "tinyten", "regime": "standard", "seed": "1"}
    with pytest.raises(MissingInput, match='"fetch_data", {"dataset": "cifar10"}. has failed'):
        jobs.make("train_endpoint", wildcards)
    with pytest.raises(ZeroDivisionError):
        jobs.make("fetch_data", {"dataset": "cifar10"})
