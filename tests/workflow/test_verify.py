"""`neuralign verify` reports every edit of results and notes, and `--trace` lists all jobs that a number comes from.

The fixtures hold the results of the smoke study with real recipes, notes and keys. Only the outputs are made up: each
is a line of text, so that the whole study takes seconds and needs no torch.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest

from neuralign.cli import main
from neuralign.common.files import PACKAGE, note_path, sha256
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.workflow.graph import job
from neuralign.workflow.job import ref
from neuralign.workflow.provenance.consistency import Results, disagreements
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.running.notes import digest, flat, key_of, seeds
from neuralign.workflow.running.run import perform

REPOSITORY = PACKAGE.parents[1]
OVERLAY = "smoke.yaml"
ENDPOINT = "train_endpoint/small_digits-tiny-plain-1/network.txt"
CURVE = "train_curve/matched-bezier-1-small_digits-tiny-1-2-plain/bends.txt"
TABLE = "tabulate/smoke/accuracy.csv"
SETTING = {"dataset": "small_digits", "network": "tiny", "regime": "plain"}
ROWS = [
    SETTING | {"method": "endpoints", "accuracy_mean": "98.5", "n_pairs": "2"},
    SETTING | {"method": "linear_unaligned", "accuracy_mean": "50.5", "n_pairs": "2"},
    SETTING | {"method": "smoke_matched", "accuracy_mean": "97.5", "n_pairs": "2"},
]
CONTRASTS = [SETTING | {"method": "smoke_matched", "baseline": "smoke_none", "difference": "1"}]


def catalogue():
    """The config files of the working directory, checked."""
    return Catalogue(read_config([Path("config.yaml"), Path(OVERLAY)]))


def output_paths(rule, wildcards):
    """{output: its path} of a job: a text file, or a CSV file for a table."""
    names = {
        "tabulate": ["accuracy.csv", "robust.csv", "contrasts.csv", "paths.csv", "points.csv"],
        "tabulate_claims": ["published.csv", "claims.csv", "alignments.csv"],
        "tabulate_theory": ["theory.csv", "theory_paths.csv"],
        "plot": ["png.txt"],
        "report": ["html.txt"],
        "plane": ["grid.txt", "marks.txt"],
        "train_endpoint": ["network.txt", "history.txt"],
        "train_curve": ["bends.txt", "history.txt"],
        "align": ["permutation.txt", "moved.txt"],
        "fetch_data": ["data.txt"],
        "evaluate": ["points.txt"],
        "signature": ["signature.txt"],
        "midpoint": ["midpoint.txt"],
        "bound": ["bound.txt", "layers.txt"],
    }[rule]
    folder = "-".join(v.replace("/", "-") for _, v in sorted(wildcards.items()))
    return {name.split(".")[0]: f"results/{rule}/{folder}/{name}" for name in names}


def fake_job(recipe, word):
    """Run a job with made-up outputs: a table of ROWS or CONTRASTS, or a line with the word and the path."""

    def main(**arguments):
        for name, output in recipe["outputs"].items():
            rows = {"accuracy": ROWS, "contrasts": CONTRASTS}.get(name)
            if rows is None:
                Path(output).write_text(f"{word} {output}\n")
                continue
            with open(output, "w", newline="") as file:
                table = csv.DictWriter(file, rows[0])
                table.writeheader()
                table.writerows(rows)

    perform(main, recipe)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the config and all results of the smoke study."""
    root = tmp_path_factory.mktemp("verify")
    shutil.copy(REPOSITORY / "config.yaml", root)
    shutil.copy(REPOSITORY / "tests" / OVERLAY, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("neuralign.workflow.running.notes.git", lambda *_: "c" * 40)
        smoke = catalogue()
        recipes, done = Recipes(smoke, output_paths), set()

        def make(needed):
            if (needed.rule, needed.wildcards) in done:
                return
            done.add((needed.rule, needed.wildcards))
            for more in job(smoke, needed.rule, dict(needed.wildcards)).inputs.values():
                for each in more if isinstance(more, list) else [more]:
                    make(each)
            fake_job(recipes.of(needed.rule, dict(needed.wildcards)), "made")

        make(ref("report", "html", study="smoke"))
    return root


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """A copy of these results that a test may edit; the working directory is its parent."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Path("results")


def problems(results):
    """{kind of problem: paths of the artefacts}."""
    kinds = {}
    for finding in disagreements(Results(results)):
        kinds.setdefault(finding.kind, set()).add(finding.path)
    return kinds


def run(capsys, *arguments):
    """(exit status, standard output and error) of `neuralign verify`."""
    status = main(["verify", *arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def read_note(path):
    return json.loads(Path(note_path(path)).read_text())


def edit_note(path, *, seal=True, fit_key=False, **changes):
    """Change values of a note; `seal` makes its digest fit again, `fit_key` its key."""
    note = read_note(path) | changes
    if fit_key:
        note["key"] = key_of(note)
    if seal:
        note["digest"] = digest(note)
    Path(note_path(path)).write_text(json.dumps(note))


def made_from(results, path):
    """The results that have this one among their inputs."""
    return {
        p for p, note in Results(results).notes.items() for _, _, e in flat(note["inputs"]) if e["path"].endswith(path)
    }


# ---- problems


def test_unchanged_results_have_no_problems(results, capsys):
    status, text = run(capsys, "results", "--configfile", OVERLAY)
    assert status == 0 and text.endswith("no problems\n") and "not compared" not in text
    made = [p for p in results.rglob("*") if p.is_file() and ".scratch" not in p.parts and p.suffix != ".json"]
    assert f"{len(made)} artefacts" in text and len(made) > 60


def test_a_changed_artefact_is_the_only_problem_reported(results, capsys):
    number = len(made_from(results, ENDPOINT))
    with (results / ENDPOINT).open("a") as file:
        file.write(" ")
    assert problems(results) == {"artefact changed": {ENDPOINT}} and number > 3
    status, text = run(capsys, "results", "--configfile", OVERLAY)
    assert status == 1 and "problems: 1" in text and f"{number} results were made from what it was" in text


def test_every_changed_artefact_is_reported(results):
    artefacts = Results(results).artefacts
    for path in artefacts:
        content = bytearray((results / path).read_bytes())
        content[len(content) // 2] ^= 1
        (results / path).write_bytes(content)
    assert problems(results) == {"artefact changed": set(artefacts)}


def test_an_edit_of_any_value_of_a_note_is_reported(results):
    for name, value in read_note(results / ENDPOINT).items():
        before = Path(note_path(results / ENDPOINT)).read_text()
        edit_note(results / ENDPOINT, seal=False, **{name: [value]})
        assert problems(results) == {"note edited": {ENDPOINT}}, name
        Path(note_path(results / ENDPOINT)).write_text(before)
    note = json.loads(before)
    Path(note_path(results / ENDPOINT)).write_text(json.dumps(note, indent=7))
    assert problems(results) == {}, "white space does not change the content of a note"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"key": 1}', "[" * 100_000, "\0"])
def test_a_note_that_cannot_be_parsed_is_reported(results, text):
    Path(note_path(results / ENDPOINT)).write_text(text)
    assert problems(results) == {"note edited": {ENDPOINT}}


def test_malformed_inputs_of_a_note_are_reported_although_its_digest_fits(results):
    for inputs in (
        {},
        {"data": "results/x"},
        {"data": [{"path": "x", "sha256": "y"}]},
        {"other": read_note(results / ENDPOINT)},
    ):
        edit_note(results / ENDPOINT, inputs=inputs)
        assert problems(results)["note edited"] == {ENDPOINT}, inputs


def test_a_changed_setting_contradicts_the_key_of_its_note(results):
    settings = read_note(results / ENDPOINT)["settings"]
    settings["training"]["lr"] = 0.5
    edit_note(results / ENDPOINT, settings=settings)
    assert problems(results) == {"note edited": {ENDPOINT}}


def test_a_changed_setting_and_key_contradict_the_notes_of_results_made_from_it(results):
    settings = read_note(results / ENDPOINT)["settings"]
    settings["training"]["lr"] = 0.5
    edit_note(results / ENDPOINT, fit_key=True, settings=settings)
    assert problems(results) == {"chain broken": made_from(results, ENDPOINT)}


def test_restored_results_of_older_code_stand_on_data_that_were_made_again_byte_for_byte(results):
    """`restore` brings no dataset; that which newer code makes has another key."""
    read = read_note(results / ENDPOINT)["inputs"]["data"]["path"]
    edit_note(results / read.removeprefix("results/"), fit_key=True, code={"other": "1"})
    readers = problems(results)["chain broken"]
    assert ENDPOINT in readers
    for reader in readers:
        edit_note(results / reader, restored_as="0" * 20)
    assert problems(results) == {}


def test_results_made_from_a_replaced_artefact_are_stale_although_its_note_fits(results):
    (results / CURVE).write_text("other")
    edit_note(results / CURVE, sha256=sha256(results / CURVE))
    assert problems(results) == {"stale": made_from(results, CURVE)}
    assert any(reader.startswith("evaluate/") for reader in made_from(results, CURVE))


def test_results_made_from_a_result_that_was_made_again_are_stale(results):
    recipes = Recipes(catalogue(), output_paths)
    fake_job(recipes.of("train_endpoint", SETTING | {"seed": "1"}), "differently")
    assert set(problems(results)) == {"stale"} and problems(results)["stale"] >= made_from(results, ENDPOINT)


def test_a_missing_note_and_a_missing_artefact_are_reported(results):
    Path(note_path(results / ENDPOINT)).unlink()
    (results / CURVE).unlink()
    assert problems(results) == {"note missing": {ENDPOINT}, "artefact missing": {CURVE}}
    (results / ENDPOINT).write_text("other")
    assert problems(results)["stale"] == made_from(results, ENDPOINT), (
        "their notes hold the checksum of the lost artefact"
    )


def test_a_file_without_a_note_is_reported(results):
    (results / "studies").mkdir()
    (results / "studies" / "by_hand.csv").write_text("1")
    assert problems(results) == {"note missing": {"studies/by_hand.csv"}}


@pytest.mark.parametrize("name", ["studies/config.yaml", "endpoints/notes.md", "notes.md"])
def test_other_pages_and_configs_need_a_note(results, name):
    (results / name).parent.mkdir(exist_ok=True)
    (results / name).write_text("")
    assert problems(results) == {"note missing": {name}}


def test_recipes_downloads_temporary_files_and_published_results_need_no_notes(results):
    for name in (
        "recipes/x.json",
        "data/archives/x.tar",
        "published/other/x.csv",
        ".scratch/k/x",
        ".x.csv.abcdefgh.csv",
        "README.md",
        "config.yaml",
    ):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("")
    assert problems(results) == {}


def test_a_result_copied_over_another_is_reported(results):
    for each in (str, note_path):
        shutil.copy(results / each(ENDPOINT.replace("-1/", "-3/")), results / each(ENDPOINT))
    kinds = problems(results)
    assert kinds["note misplaced"] == {ENDPOINT} and kinds["stale"] == kinds["chain broken"] == made_from(
        results, ENDPOINT
    )


def test_notes_that_disagree_about_an_artefact_are_reported_where_it_was_not_copied(results):
    """The note of a curve has another checksum of the endpoint than other notes; the endpoint itself is missing."""
    shutil.rmtree(results / "train_endpoint")
    assert problems(results) == {}
    note = read_note(results / CURVE)
    note["inputs"]["target"]["sha256"] = "0" * 64
    edit_note(results / CURVE, inputs=note["inputs"])
    assert problems(results) == {"chain broken": {ENDPOINT}}


def test_results_of_different_commits_of_a_repository_are_reported(results, capsys):
    name, old, new = "hf-hub:me/net", "1" * 40, "2" * 40
    edit_note(results / ENDPOINT, hub={name: old}, started="2026-01-01T00:00:00+00:00")
    assert problems(results) == {}
    status, text = run(capsys, "results", "--ignore-config")
    assert status == 0 and f"named without a commit, so that nothing is due if a hub changes them: {name}\n" in text
    edit_note(results / CURVE, hub={name: new}, started="2026-01-02T00:00:00+00:00")
    (finding,) = disagreements(Results(results))
    text = f"made from {name} when that was commit {old[:12]}; {CURVE} was made from {new[:12]}: name a commit"
    assert finding == ("chain broken", ENDPOINT, text)


def test_an_artefact_replaced_together_with_its_note_is_not_detected(results):
    """A limit that docs/provenance.md states."""
    page = results / "report/smoke/html.txt"
    page.write_text("better")
    assert "artefact changed" in problems(results)
    edit_note(page, sha256=sha256(page))
    assert problems(results) == {}


# ---- copies, changed configs, wrong arguments


def test_a_part_of_the_results_can_be_verified_in_another_folder(results, tmp_path, monkeypatch, capsys):
    shutil.copytree(results / "tabulate", tmp_path / "sent" / "tabulate")
    monkeypatch.chdir(tmp_path)
    status, text = run(capsys, "sent")
    assert status == 0 and "missing, so not compared: 8 inputs" in text
    assert "not compared with the config and code: 5 results" in text
    (tmp_path / "sent" / TABLE).write_text("")
    assert run(capsys, "sent")[0] == 1


def test_results_of_a_changed_config_are_out_of_date(results, capsys):
    overlay = Path(OVERLAY)
    overlay.write_text(
        overlay.read_text().replace("epochs: 2, batch_size: 256, lr: 0.05", "epochs: 2, batch_size: 256, lr: 0.06")
    )
    status, text = run(capsys, "results", "--configfile", OVERLAY, "--json")
    report = json.loads(text)
    assert status == 1 and {f["kind"] for f in report["findings"]} == {"out of date"}
    late = {f["path"] for f in report["findings"]}
    assert {ENDPOINT, CURVE, TABLE} <= late and not any("hardened" in p and "/smoke" not in p for p in late)
    assert not any(p.startswith("fetch_data") for p in late)
    assert run(capsys, "results", "--ignore-config")[0] == 0


def test_results_that_the_config_does_not_plan_are_listed_but_no_problem(results, capsys):
    status, text = run(capsys, "results", "--json")
    assert status == 0 and ENDPOINT in json.loads(text)["not_in_config"]


def test_wrong_arguments_have_exit_status_2_and_a_message(results, capsys):
    Path("empty").mkdir()
    for arguments, message in {
        ("nowhere",): "nowhere: no such folder",
        ("empty",): "no notes of origin here",
        ("results/tabulate",): "a subfolder of a results folder",
        ("results", "--where", "a=b"): "--where and --column need --trace",
        ("results", "--trace", "results/nothing.csv"): "no artefact with a note of origin",
        ("results", "--trace", ENDPOINT, "--where", "a=b"): "rows and columns can only be chosen from a table (.csv)",
        ("results", "--trace", TABLE, "--where", "method"): "write column=value",
        ("results", "--trace", TABLE, "--where", "methods=x"): "no column 'methods'; it has dataset, network",
        ("results", "--trace", TABLE, "--where", "method=x"): "no row with method=x",
        ("results", "--trace", TABLE, "--column", "x"): "no column 'x'",
        ("results", "--configfile", "nowhere.yaml"): "nowhere.yaml",
    }.items():
        status, text = run(capsys, *arguments)
        assert status == 2 and message in text, (arguments, text)


# ---- traces


def trace(capsys, artefact, *arguments):
    """The jobs that an artefact comes from, each once."""
    status, text = run(capsys, "results", "--configfile", OVERLAY, "--json", "--trace", artefact, *arguments)
    assert status == 0, text
    return [node for node in json.loads(text)["trace"]["nodes"] if not node["again"]]


def evaluated_methods(nodes):
    """(alignment, curve) of the evaluations among these jobs."""
    return {(n["wildcards"]["alignment"], n["wildcards"]["curve"]) for n in nodes if n["rule"] == "evaluate"}


def test_the_trace_of_a_row_holds_every_job_down_to_the_data(results, capsys):
    nodes = trace(capsys, f"results/{TABLE}", "--where", "regime=plain", "method=smoke_matched")
    assert [n["rule"] for n in nodes][:2] == ["tabulate", "evaluate"]
    counted = {rule: sum(n["rule"] == rule for n in nodes) for rule in {n["rule"] for n in nodes}}
    assert counted == {"tabulate": 1, "evaluate": 2, "train_curve": 2, "align": 2, "train_endpoint": 3, "fetch_data": 1}
    assert evaluated_methods(nodes) == {("matched", "bezier")}
    for node in nodes:
        assert (
            node["sha256"] == sha256(results / node["artefact"])
            and node["commit"] == "c" * 40
            and node["device"] == "CPU"
        )
    assert {n["seeds"]["train_endpoint"] for n in nodes if n["rule"] == "train_endpoint"} == {1, 2, 3}


def test_the_trace_of_a_row_holds_only_evaluations_of_its_methods(results, capsys):
    assert evaluated_methods(trace(capsys, TABLE, "--where", "method=linear_unaligned")) == {("none", "linear")}
    everything = {("none", "linear"), ("none", "bezier"), ("matched", "bezier")}
    assert evaluated_methods(trace(capsys, TABLE, "--where", "method=endpoints")) == everything, (
        "every path contributes its endpoints"
    )
    assert evaluated_methods(trace(capsys, TABLE)) == everything
    both = trace(capsys, "tabulate/smoke/contrasts.csv", "--where", "method=smoke_matched")
    assert evaluated_methods(both) == {("matched", "bezier"), ("none", "bezier")}, "a contrast compares two methods"


def test_a_figure_and_the_report_can_be_traced_too(results, capsys):
    nodes = trace(capsys, "plot/signature_hardened-smoke/png.txt")
    assert {n["rule"] for n in nodes} == {"plot", "signature", "align", "train_endpoint", "fetch_data"}
    assert {n["rule"] for n in trace(capsys, "report/smoke/html.txt")} >= {
        "report",
        "plot",
        "tabulate_claims",
        "plane",
    }


def test_a_trace_is_printed_with_one_line_for_each_job(results, capsys):
    status, text = run(
        capsys,
        "results",
        "--configfile",
        OVERLAY,
        "--trace",
        TABLE,
        "--where",
        "method=smoke_matched",
        "--column",
        "accuracy_mean",
    )
    lines = text.splitlines()
    assert status == 0 and lines[0] == TABLE and lines[1].endswith("method=smoke_matched  accuracy_mean=97.5")
    (curve,) = [line for line in lines if "bends: train_curve" in line and "pair=1-2" in line]
    assert "seed(train_curve)=1" in curve and "commit cccccccc" in curve and sha256(results / CURVE)[:12] in curve
    assert curve.endswith("ok") and f"commits: {'c' * 40}" in text


def test_a_trace_reports_the_problems_of_its_jobs_and_no_others(results, capsys):
    arguments = ("results", "--ignore-config", "--trace", TABLE, "--where")
    (results / CURVE).write_text("other")
    status, text = run(capsys, *arguments, "method=smoke_matched")
    assert status == 1 and "WRONG: artefact changed" in text and f"artefact changed  {CURVE}" in text
    assert run(capsys, *arguments, "method=linear_unaligned")[0] == 0
    (results / CURVE).unlink()
    Path(note_path(results / CURVE)).unlink()
    status, text = run(capsys, *arguments, "method=smoke_matched")
    assert status == 0 and f"bends: {CURVE}  not here" in text
    Path(note_path(results / TABLE)).write_text("{}")
    assert "its note of origin is not intact" in run(capsys, *arguments, "method=smoke_matched")[1]


def test_seeds_are_named_after_what_they_seed():
    settings = {"seed": 3, "protocol": {"seed": 0, "points": 5}, "data": {"deep": {"seed": 7}}, "lr": 0.1}
    assert seeds("train_curve", settings) == {"train_curve": 3, "protocol": 0, "deep": 7}
