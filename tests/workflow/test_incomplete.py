"""The report of an unfinished study holds the finished paths, and names the jobs that are missing and why."""

import json

import pytest
from hostile_configs import GRID, changed

from neuralign.config.catalogue import Catalogue
from neuralign.workflow.graph import jobs
from neuralign.workflow.incomplete import finished_part, outcome_of


def catalogue(**more):
    config = changed(f"{GRID}.method", ["unaligned", "aligned"])
    config["studies"]["small"]["grids"][0] |= more
    return Catalogue(config)


def without(*missing):
    """The results of all jobs are there but those of these rules with these wildcards."""
    return lambda rule, wildcards: not any(rule == r and w.items() <= wildcards.items() for r, w in missing)


def why(rule, wildcards):
    return f"{rule} failed"


def paths(study):
    return {(grid["pair"][0], grid["method"][0]) for grid in study["grids"]}


def test_a_finished_study_has_no_missing_jobs():
    study = finished_part(catalogue(), "small", lambda rule, wildcards: True, why)
    assert study["missing"] == {"paths": [4, 4], "jobs": []}
    assert paths(study) == {("1-2", "unaligned"), ("1-2", "aligned"), ("3-4", "unaligned"), ("3-4", "aligned")}
    assert study["planned"] == catalogue().studies["small"]["grids"]


def test_a_failed_seed_removes_only_its_own_paths_and_is_the_only_job_named():
    missing_jobs = [("train_endpoint", {"seed": "4"})]
    missing_jobs += [(rule, {"pair": "3-4"}) for rule in ("align", "signature", "train_curve", "evaluate")]
    study = finished_part(catalogue(), "small", without(*missing_jobs), why)
    assert paths(study) == {("1-2", "unaligned"), ("1-2", "aligned")}
    (job,) = study["missing"]["jobs"]
    assert (job["rule"], job["wildcards"]["seed"], job["why"]) == ("train_endpoint", "4", "train_endpoint failed")
    assert job["paths"] == 2 and study["missing"]["paths"] == [2, 4]


def test_a_missing_measure_removes_no_path():
    c = catalogue(measures=["signature", "bound"], plane="coarse")
    study = finished_part(c, "small", without(("signature", {"pair": "3-4"}), ("plane", {"pair": "1-2"})), why)
    assert len(study["grids"]) == 4 and study["missing"]["paths"] == [4, 4]
    has = {(g["pair"][0], g["method"][0]): (g["measures"], g["plane"]) for g in study["grids"]}
    assert has["1-2", "aligned"] == (["signature", "bound"], None)
    assert has["3-4", "aligned"] == (["bound"], "coarse")
    assert {job["rule"] for job in study["missing"]["jobs"]} == {"signature", "plane"}


def test_a_missing_merge_removes_no_path():
    c = catalogue(merge="brief")
    study = finished_part(c, "small", without(("merge", {"pair": "3-4", "alignment": "none"})), why)
    assert study["missing"]["paths"] == [4, 4] and [job["rule"] for job in study["missing"]["jobs"]] == ["merge"]
    unmerged = [(grid["pair"][0], grid["method"][0]) for grid in study["grids"] if "merge" not in grid]
    assert unmerged == [("3-4", "unaligned")]


def test_merged_networks_are_in_the_report_if_they_are_finished_and_hold_up_no_path():
    c = catalogue(members=["1-2-5", "1-2"], cohort=["mean"])
    merged_with_5 = [(rule, {"members": "1-2-5"}) for rule in ("align_cohort", "evaluate_cohort")]
    study = finished_part(c, "small", without(("train_endpoint", {"seed": "5"}), *merged_with_5), why)
    assert study["missing"]["paths"] == [4, 4]
    assert [(g["members"], g["cohort"]) for g in study["grids"] if "members" in g] == [(["1-2"], ["mean"])]
    (job,) = study["missing"]["jobs"]
    assert (job["rule"], job["wildcards"]["seed"], job["paths"]) == ("train_endpoint", "5", 0)


def test_without_any_finished_path_the_first_job_is_named():
    study = finished_part(catalogue(), "small", lambda rule, wildcards: False, why)
    assert study["grids"] == []
    assert [(job["rule"], job["paths"]) for job in study["missing"]["jobs"]] == [("fetch_data", 4)]


def test_the_report_of_the_finished_part_needs_only_results_that_are_there_and_lists_the_missing_ones():
    c = catalogue()
    there = without(("train_curve", {"pair": "3-4"}), ("evaluate", {"pair": "3-4"}))
    c.studies["small_incomplete"] = finished_part(c, "small", there, why)
    needed = list(jobs(c, "small_incomplete"))
    assert all(there(rule, wildcards) for rule, wildcards, _ in needed)
    (report,) = [job for rule, _, job in needed if rule == "report"]
    assert report.settings["missing"]["paths"] == [2, 4]
    assert report.settings["study"]["grids"][0]["pair"] == ["1-2", "3-4"], "as the study was planned"
    assert all("missing" not in job.settings for _, _, job in jobs(c, "small")), "and the finished one says nothing"


@pytest.mark.parametrize(
    ("record", "log", "expected"),
    [
        (
            {"error": "Traceback ...\nDiverged: the loss is 1e9\n", "recipe": {"key": "k"}},
            "x",
            "failed: Diverged: the loss is 1e9",
        ),
        (
            {"error": "of other settings", "recipe": {"key": "old"}},
            "epoch 3/20\n\n",
            "not finished; its log ends with: epoch 3/20",
        ),
        ({"error": "half a record"}, None, "has not run"),
        (None, "", "has not run"),
        (None, None, "has not run"),
    ],
)
def test_the_outcome_of_a_job_is_read_from_its_report_or_its_log(tmp_path, record, log, expected):
    if record is not None:
        (tmp_path / "record").write_text(json.dumps(record))
    if log is not None:
        (tmp_path / "log").write_text(log)
    assert outcome_of(tmp_path / "record", tmp_path / "log", "k") == expected
