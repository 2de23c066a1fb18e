"""What has been tampered with is found, whatever it is; and a number is walked back to the data.

The results here are those of the smoke study with everything real but the content: recipes, notes, keys and paths'
names; every output is a line of text, so that the whole study takes seconds and no torch.
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
PLACE = "small_digits-tiny-plain"
ENDPOINT = f"train_endpoint/{PLACE}-1/network.txt"
CURVE = "train_curve/matched-bezier-1-small_digits-tiny-1-2-plain/bends.txt"
TABLE = "tabulate/smoke/accuracy.csv"
SETTING = {"dataset": "small_digits", "network": "tiny", "regime": "plain"}
ROWS = [
    SETTING | {"method": "endpoints", "accuracy_mean": "98.5", "n_pairs": "2"},
    SETTING | {"method": "linear_unaligned", "accuracy_mean": "50.5", "n_pairs": "2"},
    SETTING | {"method": "smoke_matched", "accuracy_mean": "97.5", "n_pairs": "2"},
]
CONTRASTS = [SETTING | {"method": "smoke_matched", "baseline": "smoke_none", "difference": "1"}]


def configured():
    """The config of the working directory."""
    return Catalogue(read_config([Path("config.yaml"), Path(OVERLAY)]))


def paths(rule, wildcards):
    """A place for every output, of text or, for tables, CSV."""
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
    place = "-".join(v.replace("/", "-") for _, v in sorted(wildcards.items()))
    return {name.split(".")[0]: f"results/{rule}/{place}/{name}" for name in names}


def pretend(recipe, word):
    """Do a job of any rule: a table for a table, a line for anything else."""

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
        catalogue = configured()
        recipes, done = Recipes(catalogue, REPOSITORY / "scripts", paths), set()

        def make(needed):
            if (needed.rule, needed.wildcards) in done:
                return
            done.add((needed.rule, needed.wildcards))
            for more in job(catalogue, needed.rule, dict(needed.wildcards)).inputs.values():
                for each in more if isinstance(more, list) else [more]:
                    make(each)
            pretend(recipes.of(needed.rule, dict(needed.wildcards)), "made")

        make(ref("report", "html", study="smoke"))
    return root


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """A copy of it to tamper with; the working directory is around it."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Path("results")


def found(results):
    """{kind: paths} of what is wrong."""
    kinds = {}
    for finding in disagreements(Results(results)):
        kinds.setdefault(finding.kind, set()).add(finding.path)
    return kinds


def run(capsys, *arguments):
    """(exit status, all that is printed) of the command."""
    status = main(["verify", *arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def read(path):
    return json.loads(Path(note_path(path)).read_text())


def rewrite(path, *, seal=True, fit_key=False, **changes):
    """Edit a note, with or without its digest and key made to fit."""
    note = read(path) | changes
    if fit_key:
        note["key"] = key_of(note)
    if seal:
        note["digest"] = digest(note)
    Path(note_path(path)).write_text(json.dumps(note))


def readers(results, path):
    """The results made from one directly."""
    return {
        p for p, note in Results(results).notes.items() for _, _, e in flat(note["inputs"]) if e["path"].endswith(path)
    }


# ---- what is found


def test_untouched_results_are_as_their_notes_say(results, capsys):
    status, text = run(capsys, "results", "--configfile", OVERLAY)
    assert status == 0 and text.endswith("no problems\n") and "not compared" not in text
    made = [p for p in results.rglob("*") if p.is_file() and ".scratch" not in p.parts and p.suffix != ".json"]
    assert f"{len(made)} artefacts" in text and len(made) > 60


def test_a_changed_artefact_is_found_and_only_it(results, capsys):
    number = len(readers(results, ENDPOINT))
    with (results / ENDPOINT).open("a") as file:
        file.write(" ")
    assert found(results) == {"artefact changed": {ENDPOINT}} and number > 3
    status, text = run(capsys, "results", "--configfile", OVERLAY)
    assert status == 1 and "problems: 1" in text and f"{number} results were made from what it was" in text


def test_whichever_artefacts_are_changed_all_are_found(results):
    artefacts = Results(results).artefacts
    for path in artefacts:
        content = bytearray((results / path).read_bytes())
        content[len(content) // 2] ^= 1
        (results / path).write_bytes(content)
    assert found(results) == {"artefact changed": set(artefacts)}


def test_any_edit_of_a_note_is_found(results):
    for name, value in read(results / ENDPOINT).items():
        before = Path(note_path(results / ENDPOINT)).read_text()
        rewrite(results / ENDPOINT, seal=False, **{name: [value]})
        assert found(results) == {"note edited": {ENDPOINT}}, name
        Path(note_path(results / ENDPOINT)).write_text(before)
    note = json.loads(before)
    Path(note_path(results / ENDPOINT)).write_text(json.dumps(note, indent=7))
    assert found(results) == {}, "white space is no content"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"key": 1}', "[" * 100_000, "\0"])
def test_a_note_that_is_none_is_found(results, text):
    Path(note_path(results / ENDPOINT)).write_text(text)
    assert found(results) == {"note edited": {ENDPOINT}}


def test_a_note_of_the_right_digest_and_the_wrong_shape_is_found(results):
    for inputs in (
        {},
        {"data": "results/x"},
        {"data": [{"path": "x", "sha256": "y"}]},
        {"other": read(results / ENDPOINT)},
    ):
        rewrite(results / ENDPOINT, inputs=inputs)
        assert found(results)["note edited"] == {ENDPOINT}, inputs


def test_another_setting_in_a_note_does_not_fit_its_key(results):
    settings = read(results / ENDPOINT)["settings"]
    settings["training"]["lr"] = 0.5
    rewrite(results / ENDPOINT, settings=settings)
    assert found(results) == {"note edited": {ENDPOINT}}


def test_another_setting_with_its_key_does_not_fit_the_notes_of_what_was_made_from_it(results):
    settings = read(results / ENDPOINT)["settings"]
    settings["training"]["lr"] = 0.5
    rewrite(results / ENDPOINT, fit_key=True, settings=settings)
    assert found(results) == {"chain broken": readers(results, ENDPOINT)}


def test_a_changed_artefact_with_a_note_that_fits_is_not_what_others_were_made_from(results):
    (results / CURVE).write_text("other")
    rewrite(results / CURVE, sha256=sha256(results / CURVE))
    assert found(results) == {"stale": readers(results, CURVE)}
    assert any(reader.startswith("evaluate/") for reader in readers(results, CURVE))


def test_a_result_made_again_leaves_what_was_made_from_it_stale(results):
    recipes = Recipes(configured(), REPOSITORY / "scripts", paths)
    pretend(recipes.of("train_endpoint", SETTING | {"seed": "1"}), "differently")
    assert set(found(results)) == {"stale"} and found(results)["stale"] >= readers(results, ENDPOINT)


def test_what_is_missing_is_found(results):
    Path(note_path(results / ENDPOINT)).unlink()
    (results / CURVE).unlink()
    assert found(results) == {"note missing": {ENDPOINT}, "artefact missing": {CURVE}}
    (results / ENDPOINT).write_text("other")
    assert found(results)["stale"] == readers(results, ENDPOINT), "their notes say what it was"


def test_a_file_that_no_job_has_made_is_found(results):
    (results / "studies").mkdir()
    (results / "studies" / "by_hand.csv").write_text("1")
    assert found(results) == {"note missing": {"studies/by_hand.csv"}}


def test_plans_downloads_scratch_and_results_of_others_need_no_notes(results):
    for name in (
        "recipes/x.json",
        "data/archives/x.tar",
        "published/other/x.csv",
        ".scratch/k/x",
        ".x.csv.abcdefgh.csv",
        "README.md",
    ):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("")
    assert found(results) == {}


def test_a_result_put_in_the_place_of_another_is_found(results):
    for each in (str, note_path):
        shutil.copy(results / each(ENDPOINT.replace("-1/", "-3/")), results / each(ENDPOINT))
    kinds = found(results)
    assert kinds["note misplaced"] == {ENDPOINT} and kinds["stale"] == kinds["chain broken"] == readers(
        results, ENDPOINT
    )


def test_a_broken_chain_is_found_without_the_artefact_it_breaks_at(results):
    """The curve is of one endpoint, its evaluation of another; the endpoint itself has not been copied."""
    shutil.rmtree(results / "train_endpoint")
    assert found(results) == {}
    note = read(results / CURVE)
    note["inputs"]["target"]["sha256"] = "0" * 64
    rewrite(results / CURVE, inputs=note["inputs"])
    assert found(results) == {"chain broken": {ENDPOINT}}


def test_who_rewrites_everything_is_not_found_out(results):
    """As docs/provenance.md says."""
    page = results / "report/smoke/html.txt"
    page.write_text("better")
    assert "artefact changed" in found(results)
    rewrite(page, sha256=sha256(page))
    assert found(results) == {}


# ---- copies, parts, the config


def test_a_copy_and_a_part_of_it_can_be_verified_anywhere(results, tmp_path, monkeypatch, capsys):
    shutil.copytree(results / "tabulate", tmp_path / "sent" / "tabulate")
    monkeypatch.chdir(tmp_path)
    status, text = run(capsys, "sent")
    assert status == 0 and "missing, so not compared: 8 inputs" in text
    assert "not compared with the config and code: 5 results" in text
    (tmp_path / "sent" / TABLE).write_text("")
    assert run(capsys, "sent")[0] == 1


def test_results_of_other_settings_are_out_of_date(results, capsys):
    overlay = Path(OVERLAY)
    overlay.write_text(
        overlay.read_text().replace("epochs: 2, batch_size: 256, lr: 0.05", "epochs: 2, batch_size: 256, lr: 0.06")
    )
    status, text = run(capsys, "results", "--configfile", OVERLAY, "--json")
    told = json.loads(text)
    assert status == 1 and {f["kind"] for f in told["findings"]} == {"out of date"}
    late = {f["path"] for f in told["findings"]}
    assert {ENDPOINT, CURVE, TABLE} <= late and not any("hardened" in p and "/smoke" not in p for p in late)
    assert not any(p.startswith("fetch_data") for p in late)
    assert run(capsys, "results", "--ignore-config")[0] == 0


def test_results_that_the_config_does_not_know_are_only_counted(results, capsys):
    status, text = run(capsys, "results", "--json")
    assert status == 0 and ENDPOINT in json.loads(text)["not_in_config"]


def test_a_wrong_command_has_a_status_of_its_own(results, capsys):
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


# ---- from a number to the data


def traced(capsys, artefact, *arguments):
    """The nodes below an artefact, once each."""
    status, text = run(capsys, "results", "--configfile", OVERLAY, "--json", "--trace", artefact, *arguments)
    assert status == 0, text
    return [node for node in json.loads(text)["trace"]["nodes"] if not node["again"]]


def methods(nodes):
    """The alignments and curves of the evaluations among them."""
    return {(n["wildcards"]["alignment"], n["wildcards"]["curve"]) for n in nodes if n["rule"] == "evaluate"}


def test_a_row_is_walked_back_to_the_data(results, capsys):
    nodes = traced(capsys, f"results/{TABLE}", "--where", "regime=plain", "method=smoke_matched")
    assert [n["rule"] for n in nodes][:2] == ["tabulate", "evaluate"]
    counted = {rule: sum(n["rule"] == rule for n in nodes) for rule in {n["rule"] for n in nodes}}
    assert counted == {"tabulate": 1, "evaluate": 2, "train_curve": 2, "align": 2, "train_endpoint": 3, "fetch_data": 1}
    assert methods(nodes) == {("matched", "bezier")}
    for node in nodes:
        assert (
            node["sha256"] == sha256(results / node["artefact"])
            and node["commit"] == "c" * 40
            and node["device"] == "CPU"
        )
    assert {n["seeds"]["train_endpoint"] for n in nodes if n["rule"] == "train_endpoint"} == {1, 2, 3}


def test_rows_are_of_the_runs_they_name(results, capsys):
    assert methods(traced(capsys, TABLE, "--where", "method=linear_unaligned")) == {("none", "linear")}
    everything = {("none", "linear"), ("none", "bezier"), ("matched", "bezier")}
    assert methods(traced(capsys, TABLE, "--where", "method=endpoints")) == everything, "every path has endpoints"
    assert methods(traced(capsys, TABLE)) == everything
    both = traced(capsys, "tabulate/smoke/contrasts.csv", "--where", "method=smoke_matched")
    assert methods(both) == {("matched", "bezier"), ("none", "bezier")}, "a contrast is of two methods"


def test_a_figure_and_the_report_are_walked_back_too(results, capsys):
    nodes = traced(capsys, "plot/signature_hardened-smoke/png.txt")
    assert {n["rule"] for n in nodes} == {"plot", "signature", "align", "train_endpoint", "fetch_data"}
    assert {n["rule"] for n in traced(capsys, "report/smoke/html.txt")} >= {
        "report",
        "plot",
        "tabulate_claims",
        "plane",
    }


def test_the_chain_can_be_read(results, capsys):
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


def test_what_is_wrong_on_the_chain_is_told_and_what_is_wrong_elsewhere_is_not(results, capsys):
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
