"""Costs counted by hand, the number of runs of the paper's grid, and what the plan prints."""

import json
from collections import Counter

import pytest
import torch
import yaml
from workflow_project import REPOSITORY

from neuralign.cli import main
from neuralign.common.memory import SHARE
from neuralign.config.catalogue import Catalogue
from neuralign.report.costs import undisturbed_seconds
from neuralign.workflow.planning import estimator, plan
from neuralign.workflow.planning.costs import (
    JOB_MEMORY,
    Counts,
    Sizes,
    TimedTraining,
    attack_work,
    disk,
    memory,
    network_key,
    rate,
    table,
    work,
)
from neuralign.workflow.running.gpus import devices
from neuralign.workflow.running.notes import processor
from neuralign.workflow.study_jobs import figures

CIFAR = Sizes(50_000, 10_000, 3, 32, 10)
PGD5 = {"use": "pgd", "steps": 5, "restarts": 1}
MACS = 11.36e6  # of TinyTen on 32x32 images, forward


def petaflop(passes):
    return passes * 2 * MACS / 1e15


@pytest.fixture(scope="module")
def catalogue():
    return Catalogue(yaml.safe_load((REPOSITORY / "config.yaml").read_text()))


@pytest.mark.parametrize(
    ("attack", "passes"),
    [(None, 0), (PGD5, 10), ({"steps": 20}, 40), ({"steps": 20, "restarts": 3}, 3 * 40 + 3)],
)
def test_an_attack_costs_two_passes_a_step_and_one_to_compare_restarts(attack, passes):
    assert attack_work(attack) == passes


@pytest.mark.parametrize(
    ("epochs", "attack", "published"),
    [(250, None, 0.85), (200, PGD5, 3.0)],  # PFLOP of a curve of TinyTen on CIFAR, standard and robust
)
def test_training_costs_what_was_counted_for_the_paper(epochs, attack, published):
    settings = {"training": {"epochs": epochs, "batch_size": 128}, "attack": attack}
    assert work("train_curve", settings, CIFAR) == epochs * 50_000 * (13 if attack else 3)
    assert petaflop(work("train_endpoint", settings, CIFAR)) == pytest.approx(published, abs=0.06)


def test_the_processes_of_a_training_share_its_work_and_need_memory_each():
    alone = {"training": {"epochs": 10, "batch_size": 64}, "attack": PGD5}
    assert work("train_curve", alone | {"gpus": 4}, CIFAR) == work("train_curve", alone, CIFAR) / 4
    counts = Counts(1000, 10, 5000)
    outputs = memory("train_curve", alone, CIFAR, Counts(0, 0, 5000)) - CIFAR.bytes
    alone_needs, four_need = (memory("train_curve", s, CIFAR, counts) for s in (alone, alone | {"gpus": 4}))
    assert four_need == 4 * (alone_needs - outputs) + outputs


def test_an_evaluation_is_a_pass_for_the_statistics_and_one_for_each_test_image():
    protocol = {"points": 65, "images": None, "batch_size": 512}
    assert petaflop(work("evaluate", {"protocol": protocol, "attacks": {}}, CIFAR)) == pytest.approx(0.09, abs=0.005)
    small = {"protocol": protocol | {"points": 3, "images": 100}, "attacks": {"a": PGD5}}
    assert work("evaluate", small, CIFAR) == 3 * 100 + (3 + 2) * (1 + 11) * 10_000
    few = {"protocol": protocol | {"images": 1000, "full_passes": 5}, "attacks": {}}
    assert work("evaluate", few, CIFAR) == 65 * 1000 + 5 * 51_000 + 67 * 10_000
    few["protocol"]["images"] = 50_000
    assert work("evaluate", few, CIFAR) == 65 * 50_000 + 67 * 10_000
    assert work("evaluate", few, CIFAR, has_buffers=False) == 67 * 10_000


def test_the_passes_of_planes_and_alignments_are_counted():
    protocol = {"points": 17, "images": None}
    assert petaflop(work("plane", {"protocol": protocol}, CIFAR)) == pytest.approx(0.39, abs=0.01)
    few = {"protocol": protocol | {"images": 1000, "full_passes": 5}}
    assert work("plane", few, CIFAR) == 289 * 11_000 + 25 * 51_000
    assert work("align", {"method": {"images": 10_000}}, CIFAR) == 20_000
    assert work("align", {"method": {"images": 10_000}, "attack": PGD5}, CIFAR) == 220_000
    assert work("align", {"method": {"seed": 0}}, CIFAR) == 0
    search = {"epochs": 20, "batch_size": 100, "scoring_batches": 10, "candidates": 32, "rounds": 1}
    assert work("align", {"method": search}, CIFAR) == 20 * 50_000 * 3 + (2 + 34) * 1000
    assert work("tabulate", {}, CIFAR) == 0


def test_disk_and_memory_are_counted():
    counts = Counts(parameters=100, buffers=20, activations=1000)
    assert disk("fetch_data", {}, CIFAR, None) == 60_000 * (3 * 32 * 32 + 8)
    assert disk("train_endpoint", {}, CIFAR, counts) == 4 * 120
    assert disk("train_curve", {"curve": {"bends": 2}}, CIFAR, counts) == 4 * 200
    assert disk("train_endpoint", {}, CIFAR, None) is None and disk("evaluate", {}, CIFAR, counts) == 0
    training = memory("train_endpoint", {"training": {"batch_size": 10}}, CIFAR, counts)
    assert training == CIFAR.bytes + 4 * (800 + 2 * 10 * 1000)
    assert memory("evaluate", {"protocol": {"batch_size": 10}}, CIFAR, counts) == CIFAR.bytes + 4 * (1600 + 10 * 1000)


def test_of_data_that_stay_on_disk_no_more_counts_than_a_job_would_hold():
    counts, large = Counts(parameters=100, buffers=20, activations=1000), Sizes(2_000_000, 10, 3, 64, 10)
    held = SHARE * JOB_MEMORY * 1e6
    assert large.bytes > 2e10 and memory("fetch_data", {}, large, None) == held == 4e9
    assert memory("train_endpoint", {"training": {"batch_size": 10}}, large, counts) == held + 4 * (800 + 20_000)
    rules = (REPOSITORY / "rules" / "common.smk").read_text()
    assert rules.count(str(JOB_MEMORY)) == 2  # for jobs with networks


def test_the_state_of_the_optimiser_counts():
    counts, training = Counts(parameters=100, buffers=20, activations=1000), {"batch_size": 10}
    with_sgd = memory("train_endpoint", {"training": training}, CIFAR, counts)
    with_adamw = memory("train_endpoint", {"training": training | {"optimiser": {"use": "adamw"}}}, CIFAR, counts)
    assert with_adamw == with_sgd + 4 * 2 * 2 * 100  # two means, and as much again during a step


def test_a_rate_is_the_median_over_all_passes():
    assert rate([(10, 100), (20, 50), (1, 0)]) == pytest.approx(0.1) and rate([]) is None
    assert rate([(1, 10), (3, 10)]) == pytest.approx(0.2) and rate([(1, 10)]) == pytest.approx(0.1)
    assert rate([(590, 1), (507, 1), (815, 1), (5882, 1), (572, 1)]) == 590, "the fourth was paused"


def test_the_grid_of_the_paper_has_the_published_number_of_runs(catalogue):
    standard = [(rule, w) for rule, w, _ in plan.jobs(catalogue, "paper") if w.get("regime") == "standard"]
    main = Counter(rule for rule, w in standard if w.get("alignment", "none") in ("none", "correlation"))
    assert (main["train_endpoint"], main["align"], main["train_curve"]) == (54, 27, 54)


def test_a_study_of_straight_lines_has_no_figure_of_curves(catalogue):
    lines, demo = figures(catalogue, "cifar10_recipes"), figures(catalogue, "demo")
    assert "accuracy_short" in lines and not [name for name in lines if name.startswith("curves")]
    assert {"accuracy_demo", "curves_demo", "curves_demo_robust"} <= demo.keys()


def test_without_any_timing_the_plan_says_what_it_does_not_know(tmp_path, capsys):
    assert main(["plan", "paper", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "?: unknown, because no such job is finished and the network is not calibrated; add --calibrate" in printed
    assert "finished jobs ran on: none; calibration: none" in printed
    line = next(x for x in printed.splitlines() if x.startswith("train_endpoint"))
    assert line.split()[1:4] == ["90", "0", "?"] and line.endswith("unknown")


def test_the_plan_is_printed_for_programs_too(tmp_path, capsys):
    """Of the default study, as no other is named, and of the config with another laid over it."""
    overlay = tmp_path / "other.yaml"
    overlay.write_text("default_study: demo_full\n")
    assert main(["plan", "--results", str(tmp_path), "--configfile", str(overlay), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["study"] == "demo_full" and facts["devices"] == [] and facts["calibration"] is None
    assert {"rule": "train_endpoint", "done": 0, "hours": None, "source": "unknown"}.items() <= next(
        row for row in facts["rows"] if row["rule"] == "train_endpoint"
    ).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["papper"], "no study 'papper' in the config (allowed: demo, demo_full"),
        (["demo", "--configfile", "nowhere.yaml"], "--configfile: no such file as nowhere.yaml"),
        (["demo", "--configfile", "wrong.yaml"], "wrong.yaml: is empty; a mapping of names to values is needed"),
        (["demo", "--configfile", "typo.yaml"], "unknown section"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("")
    (tmp_path / "typo.yaml").write_text("studys: {}\n")
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("neuralign plan: error: ") and message in printed.err


def test_recipes_and_published_results_are_not_read_as_notes(tmp_path):
    note = {"rule": "tabulate", "wildcards": {}, "key": "x"}
    for place in ("recipes", "published/other/recipes", "published/other"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "x.csv.json").write_text(json.dumps(note))
    assert estimator.read_notes(tmp_path) == {}
    (tmp_path / "x.csv.json").write_text(json.dumps(note))
    assert list(estimator.read_notes(tmp_path).values()) == [note]


def test_a_calibration_is_kept_for_later_plans(catalogue, tmp_path, monkeypatch):
    measured = {"device": "x", "networks": {}}
    monkeypatch.setattr("neuralign.workflow.planning.calibration.calibrate", lambda trainings: measured)
    plan.Plan(catalogue, "demo", tmp_path).calibrate()
    assert plan.Plan(catalogue, "demo", tmp_path).estimator.calibration == measured


KNOWN = {"parameters": 1, "buffers": 0, "activations": 1, "train": 0.1, "forward": 0.0}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "Input should be "),
        (json.dumps({"device": "x", "networks": [1]}), "networks: Input should be "),
        (json.dumps({"device": "x", "networks": {"n": KNOWN | {"train": float("nan")}}}), "networks: n: train: Input"),
        (json.dumps({"device": "x", "networks": {"n": KNOWN | {"train": "fast"}}}), "networks: n: train: Input"),
        (json.dumps({"device": "x", "networks": {"n": KNOWN | {"train": -1}}}), "networks: n: train: Input"),
        (json.dumps({"device": "x", "networks": {"n": {"train": 0.1}}}), "networks: n: parameters: Field required"),
        (json.dumps({"networks": {"n": KNOWN}}), "device: Field required"),
        (b"\xff\xfe", "Invalid JSON: "),
    ],
)
def test_a_damaged_calibration_is_named_and_counts_as_none(catalogue, tmp_path, monkeypatch, caplog, content, problem):
    file = tmp_path / ".calibration.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    study = plan.Plan(catalogue, "demo", tmp_path)
    assert {row["source"] for row in study.rows()} <= {"unknown", "seconds each, not counted"}
    (message,) = caplog.messages
    assert message.startswith(f"{file}: is no calibration, so nothing is known from it ({problem}")
    assert message.endswith("; `neuralign plan STUDY --calibrate` measures again and replaces it")
    caplog.clear()
    measured = {"device": "x", "networks": {}}
    monkeypatch.setattr("neuralign.workflow.planning.calibration.calibrate", lambda trainings: measured)
    assert main(["plan", "demo", "--results", str(tmp_path), "--calibrate"]) == 0
    assert not caplog.messages and json.loads(file.read_text()) == measured


def test_hours_come_from_notes_and_count_what_is_done(catalogue, tmp_path):
    first = plan.Plan(catalogue, "demo", tmp_path)
    trainings = [(w, j) for rule, w, j in first.jobs if rule == "train_endpoint"]
    recipes = plan.Recipes.without_paths(catalogue)
    wildcards, job = trainings[0]
    sizes = first.estimator.sizes_of(wildcards, job.settings)
    assert (sizes.train + sizes.test, sizes.side) == (1797, 16)
    passes = work("train_endpoint", job.settings, sizes)
    note = {"rule": "train_endpoint", "wildcards": wildcards, "settings": job.settings, "device": "CPU"}
    note |= {"seconds": passes / 1000, "key": recipes.of("train_endpoint", wildcards)["key"]}
    (tmp_path / "x.safetensors.json").write_text(json.dumps(note))
    rows = {row["rule"]: row for row in plan.Plan(catalogue, "demo", tmp_path).rows()}
    due = sum(work("train_endpoint", j.settings, sizes) for _, j in trainings) - passes
    row = rows["train_endpoint"]
    assert row["done"] == 1 and row["jobs"] == len(trainings)
    assert row["hours"] == pytest.approx(due / 1000 / 3600)
    assert row["source"].startswith("train_endpoint jobs done")
    # the same with another key is not done, but tells the time all the same
    (tmp_path / "x.safetensors.json").write_text(json.dumps(note | {"key": "other"}))
    again = {row["rule"]: row for row in plan.Plan(catalogue, "demo", tmp_path).rows()}["train_endpoint"]
    assert again["done"] == 0 and again["hours"] == pytest.approx((due + passes) / 1000 / 3600)


def test_hours_come_from_a_calibration(catalogue, tmp_path):
    job = next(j for rule, _, j in plan.jobs(catalogue, "demo") if rule == "train_endpoint")
    sizes = plan.Plan(catalogue, "demo", tmp_path).estimator.sizes("digits")
    key = json.dumps([job.settings["model"]["network"], 1, 16, 10], sort_keys=True)
    known = {"parameters": 100, "buffers": 10, "activations": 50, "train": 0.001, "forward": 0.0005}
    (tmp_path / ".calibration.json").write_text(json.dumps({"device": "x", "networks": {key: known}}))
    made = plan.Plan(catalogue, "demo", tmp_path)
    row = {row["rule"]: row for row in made.rows()}["train_endpoint"]
    total = sum(work("train_endpoint", j.settings, sizes) for rule, _, j in made.jobs if rule == "train_endpoint")
    assert row["hours"] == pytest.approx(total * 0.001 / 3600) and row["source"] == "calibration"
    assert row["disk"] == row["jobs"] * 4 * 110
    text = table([row])
    assert text.splitlines()[0].split()[:3] == ["rule", "jobs", "done"] and text.splitlines()[-1].startswith("total")


def test_times_of_this_machine_come_before_a_calibration_and_that_before_times_of_others(catalogue, tmp_path):
    wildcards, job = next((w, j) for rule, w, j in plan.jobs(catalogue, "demo") if rule == "train_endpoint")
    sizes = plan.Plan(catalogue, "demo", tmp_path).estimator.sizes("digits")
    passes = work("train_endpoint", job.settings, sizes)

    def estimate(**facts):
        note = {"rule": "train_endpoint", "wildcards": wildcards, "settings": job.settings, "device": "CPU", "key": "x"}
        (tmp_path / "x.safetensors.json").write_text(json.dumps(note | {"seconds": 8.0, "threads": 1} | facts))
        return plan.Plan(catalogue, "demo", tmp_path).estimator.seconds("train_endpoint", wildcards, job.settings)

    assert estimate() == (pytest.approx(8.0), "train_endpoint jobs done elsewhere")  # an old note names no processor
    assert estimate(processor="another") == (pytest.approx(8.0), "train_endpoint jobs done elsewhere")
    key = json.dumps([job.settings["model"]["network"], 1, 16, 10], sort_keys=True)
    known = {"parameters": 100, "buffers": 10, "activations": 50, "train": 2.0 / passes, "forward": 0.0005}
    (tmp_path / ".calibration.json").write_text(json.dumps({"device": "x", "networks": {key: known}}))
    assert estimate(processor="another") == (pytest.approx(2.0), "calibration")
    if not devices():  # where there is a GPU, notes of jobs on the CPU are of other circumstances
        assert estimate(processor=processor()) == (pytest.approx(8.0), "train_endpoint jobs done")
        assert estimate(processor=processor(), cpu_use=0.25) == (pytest.approx(2.0), "train_endpoint jobs done")


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({"device": "CPU", "threads": 1, "cpu_use": 0.25}, 2.0),  # paused, or beside other programs
        ({"device": "CPU", "threads": 1, "cpu_use": 1.02}, 8.0),
        ({"device": "CPU", "threads": 1}, 8.0),
        ({"device": "CPU", "threads": 4, "cpu_use": 0.25}, 8.0),  # threads wait for each other on a quiet machine too
        ({"device": "A GPU", "threads": 1, "cpu_use": 0.25}, 8.0),
    ],
)
def test_time_without_a_processor_does_not_count(facts, seconds):
    assert undisturbed_seconds({"seconds": 8.0} | facts) == seconds


def test_times_of_one_precision_are_not_used_for_another(tmp_path):
    """Neither notes nor calibrations of another precision say how long a training takes."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    config["regimes"]["demo"]["endpoint"]["precision"] = "bfloat16"
    catalogue = Catalogue(config)
    made = plan.Plan(catalogue, "demo", tmp_path)
    assert sorted((t.network["use"], t.precision) for t in made.trainings_to_time()) == [
        ("tinyten", "bfloat16"),
        ("tinyten", "float32"),
    ]
    place, job = next((w, j) for r, w, j in made.jobs if r == "train_endpoint" and w["regime"] == "demo")
    passes = work("train_endpoint", job.settings, made.estimator.sizes("digits"))
    other = json.loads(json.dumps(job.settings)) | {"training": job.settings["training"] | {"precision": "float32"}}
    note = {"rule": "train_endpoint", "wildcards": place, "settings": other, "seconds": 1.0, "key": "x"}
    (tmp_path / "x.safetensors.json").write_text(json.dumps(note))
    assert plan.Plan(catalogue, "demo", tmp_path).estimator.seconds("train_endpoint", place, job.settings) == (
        None,
        "unknown",
    )
    key = json.dumps([job.settings["model"]["network"], 1, 16, 10], sort_keys=True)
    known = {"parameters": 1, "buffers": 1, "activations": 1, "train": 0.001, "forward": 0.1}
    for more, expected in (({}, (None, "unknown")), ({"train bfloat16": 0.01}, (passes * 0.01, "calibration"))):
        networks = {"device": "x", "networks": {key: known | more}}
        (tmp_path / ".calibration.json").write_text(json.dumps(networks))
        assert (
            plan.Plan(catalogue, "demo", tmp_path).estimator.seconds("train_endpoint", place, job.settings) == expected
        )
    (tmp_path / ".calibration.json").unlink()
    (tmp_path / "x.safetensors.json").write_text(json.dumps(note | {"settings": job.settings, "seconds": 7.0}))
    assert plan.Plan(catalogue, "demo", tmp_path).estimator.seconds("train_endpoint", place, job.settings)[
        0
    ] == pytest.approx(7.0)


def test_alignments_that_train_are_timed_too(catalogue, tmp_path):
    """PAM trains in float32, also between networks that were trained in bfloat16."""
    made = plan.Plan(catalogue, "cifar10", tmp_path)
    times = {t.precision: t.batch_size for t in made.trainings_to_time()}
    assert times == {"bfloat16": 64, "float32": catalogue.entry("alignments", "pam_aligned")["batch_size"]}
    known = {"parameters": 1, "buffers": 1, "activations": 1, "train bfloat16": 0.1, "train": 0.2, "forward": 0.1}
    (key,) = {network_key(t.network, t.sizes) for t in made.trainings_to_time()}
    (tmp_path / ".calibration.json").write_text(json.dumps({"device": "x", "networks": {key: known}}))
    rows = {row["rule"]: row for row in plan.Plan(catalogue, "cifar10", tmp_path).rows()}
    assert rows["align"]["hours"] > 0 and rows["align"]["source"] == "calibration"


def test_calibration_counts_and_times_a_network(monkeypatch):
    from neuralign.workflow.planning import calibration
    from neuralign.workflow.planning.calibration import calibrate

    monkeypatch.setattr(calibration, "TARGET_SECONDS", 0.02)

    network, sizes = {"use": "tinyten", "width": 2}, Sizes(100, 10, 1, 16, 10)
    trainings = [TimedTraining(network, sizes, [], 4, precision) for precision in ("float32", "bfloat16")]
    found = calibrate(trainings)["networks"][network_key(network, sizes)]
    assert found["parameters"] > 0 and found["activations"] > 0
    assert 0 < found["forward"] < 1 and 0 < found["train"] < 1
    assert 0 < found["train bfloat16"] < 5


def test_calibration_of_a_language_model_reads_its_text(tmp_path, monkeypatch):
    from neuralign.workflow.planning import calibration

    monkeypatch.setattr(calibration, "TARGET_SECONDS", 0.02)
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    config["datasets"]["stdlib"] |= {"length": 5000, "context": 8}
    study = plan.Plan(Catalogue(config), "language", tmp_path)
    study.calibrate()
    rows = {row["rule"]: row for row in study.rows()}
    assert rows["train_endpoint"]["hours"] > 0 and rows["train_endpoint"]["source"] == "calibration"
    (measured,) = json.loads((tmp_path / ".calibration.json").read_text())["networks"].values()
    assert measured["buffers"] == 0  # so there are no statistics to be estimated
    passes = sum(
        work(rule, job.settings, study.estimator.sizes_of(wildcards, job.settings), has_buffers=False)
        for rule, wildcards, job in study.jobs
        if rule == "evaluate"
    )
    assert rows["evaluate"]["hours"] == pytest.approx(passes * measured["forward"] / 3600)


def test_on_a_gpu_the_time_to_record_a_step_does_not_count(monkeypatch):
    from neuralign.workflow.planning import calibration

    clock, runs = [0.0], []

    def run(images, size):
        runs.append((len(images), size))
        clock[0] += 5.0 + 0.002 * len(images)

    monkeypatch.setattr(calibration.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(calibration, "device", lambda: torch.device("cuda"))
    assert calibration._seconds_per_example(run, range, 64) == pytest.approx(0.002)
    assert runs == [(64, 64), (51 * 64, 64), (64, 64)]
