"""The report stands alone, says what the tables say, and copes with what is missing."""

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_frames import load_script, moved, study

from neuralign.config.metrics import CLASSIFICATION
from neuralign.report import published, summary
from neuralign.report.claims import claims
from neuralign.report.claims.evidence import Evidence, alignments
from neuralign.report.costs import one_for_each_job
from neuralign.report.interactive.paths import paths_view
from neuralign.report.page import findings, paper_tables
from neuralign.report.page import page as report
from neuralign.report.page.pictures import caption, main_picture, picture_rows, pictures

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "br", "link", "input", "hr"}
STUDY = {
    "name": "main",
    "title": "A <small> study",
    "description": "What it is.",
    "grids": [{"pair": ["1-2", "3-4"], "dataset": ["cifar10"]}, {"pair": ["5-6"]}],
    "catalogue": {"regimes": {"standard": {"training": {"epochs": 250, "lr": 0.1}, "attack": None}}, "networks": {}},
}


class Page(HTMLParser):
    """Tags with attributes, the visible text, and whether every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def note(rule="evaluate", seconds=2.0, **more):
    wildcards = {"dataset": "cifar10", "pair": "1-2"}
    return {"rule": rule, "wildcards": wildcards, "key": "abcdef0123", "commit": "c0ffee", "seconds": seconds} | more


def page(rows=None, drawn=((PNG, {"caption": "A figure."}),), notes=(), study_=STUDY, **more):
    rows = study(attacks=["clean", "pgd5"]) if rows is None else rows
    paths = summary.paths(rows)
    tables = [summary.accuracy(rows, paths), summary.robust(rows, paths), summary.contrasts(paths), paths]
    return report.render(*tables, drawn=drawn, notes=notes, study=study_, **more)


def claim_tables(rows):
    """The tables that `tabulate_claims` makes, for a study without anything but evaluations."""
    paths = summary.paths(rows)
    accuracy = summary.accuracy(rows, paths)
    return {
        "published": published.against_published(accuracy, published.published_table()),
        "claims": claims.judged(Evidence(points=rows, paths=paths)),
        "alignments": alignments(moved((0, 1, 5), "pam_aligned", "pam")),
    }


def test_the_paper_stands_beside_the_study():
    rows = study(attacks=["clean", "pgd5"])
    tables = claim_tables(rows)
    sections = paper_tables.sections(
        tables["published"], tables["claims"], [{"use": "path", "show": "curves"}], ["aligned"]
    )
    html = page(rows, alignments=paper_tables.alignment_tables(tables["alignments"]), paper=sections)
    parsed = Page(html)
    assert "The paper and this study" in parsed.text and "Of 69 published accuracies 5 were run" in parsed.text
    assert "−0.17 [" in parsed.text and "within" in parsed.text and "apart" in parsed.text  # 88.33 against 88.5
    assert "Not measured in this study" in parsed.text and "3 pairs" in parsed.text
    assert "10.0 ± 0.0 (50.0 %)" in parsed.text and "What the alignments move" in parsed.text
    assert "nan" not in parsed.text.lower()


def test_a_study_of_other_settings_folds_the_published_numbers_away():
    rows = study().assign(dataset="blobs")
    tables = claim_tables(rows)
    sections = paper_tables.sections(tables["published"], tables["claims"], [], [])
    text = Page(page(rows, paper=sections)).text
    assert "None of the 69 published accuracies is of a setting that this study runs." in text
    assert "Published numbers of networks and datasets that were not run here" in text
    assert "What the alignments move" not in text


def test_findings_are_stated_for_curves_and_for_straight_lines():
    rows = study()
    lines = rows.assign(method="linear_" + rows["method"])
    sentences = findings.sentences(summary.contrasts(summary.paths(pd.concat([lines, rows]))))
    kinds = [("trained curve" in sentence, "straight line" in sentence) for sentence in sentences]
    assert kinds == [(True, False), (False, True)]


def test_every_attack_has_its_own_rows_and_headline():
    rows = study(attacks=["clean", "pgd5", "pgd20"])
    paths = summary.paths(rows)
    for table in report.robust_tables(summary.robust(rows, paths)):
        assert [title.rpartition(" ")[2] for title, _ in table.groups] == ["pgd5", "pgd20"]
    assert [line.count("under the attack") for line in findings.sentences(summary.contrasts(paths))] == [0, 1, 1]


def test_the_page_loads_no_other_file():
    html = page()
    parsed = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name) is None or attributes[name].startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html


def test_the_figures_are_embedded_with_alternative_texts():
    (image,) = Page(page()).all("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == PNG
    assert image["alt"] == "A figure."


def test_interactive_views_stand_for_the_figures_of_their_topic_on_a_screen_and_figures_stay_for_print():
    drawn = [{"use": "path"}, {"use": "path", "column": "loss"}, {"use": "signature"}, {"use": "plane"}]
    views = [paths_view(study(), CLASSIFICATION)]
    html = page(drawn=[(PNG, drawing) for drawing in drawn], views=views)
    parsed = Page(html)
    assert len(parsed.all("img")) == 4, "for print, and for readers without JavaScript"
    rows = [attributes["class"] for attributes in parsed.all("div") if "pictures" in attributes.get("class", "")]
    assert rows == ["pictures columns2 still", "pictures columns2", "pictures columns2"]
    assert "Show the printed figures of paths and planes\ntoo (Figure 2).</label>" in html, "1 is the main one"
    assert "@media screen { .interactive:not(.printed) .still { display: none; } }" in html
    assert "@media print { .interactive .view, .interactive .views { display: none; } }" in html
    assert html == page(drawn=[(PNG, drawing) for drawing in drawn], views=views)


def test_tables_have_captions_and_scopes():
    parsed = Page(page(notes=[note()]))
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 8
    assert all(cell.get("scope") in {"col", "row", "rowgroup"} for cell in parsed.all("th"))


def test_the_numbers_are_those_of_the_tables():
    text = Page(page()).text
    deviation = np.std([85, 86, 89], ddof=1)
    assert f"86.67 ± {deviation:.2f}" in text  # worst accuracy, aligned
    assert "87.8 ± 0.1" in text  # published
    assert "Endpoints, stored statistics" in text and "89.00 ± 0.00" in text
    assert "Robustness along the path" in text and "46.67" in text
    assert "TinyTen on CIFAR-10, standard training, under pgd5" in text


def test_the_place_of_a_robust_extreme_has_its_deviation():
    rows = study(attacks=["clean", "pgd5"])
    _, extremes = report.robust_tables(summary.robust(rows, summary.paths(rows)))
    (_, ((method, *cells), *_)), *_ = extremes.groups
    assert method == "Curve, unaligned" and cells[1] == "0.50 ± 0.00" and cells[-1] == "3"


def test_the_headline_says_difference_interval_and_n():
    lines = findings.sentences(summary.contrasts(summary.paths(study())))
    assert lines == [
        "TinyTen on CIFAR-10, standard training: alignment raises the worst accuracy on the trained curve "
        "from 80.00 % to 86.67 % (paired difference +6.67 points; 95 % interval +1.50 to +11.84, n = 3 pairs). "
        "Average accuracy: 85.00 % unaligned, 88.33 % aligned (difference +3.33 points; interval +0.75 to +5.92). "
        "Loss barrier: 0.200 nats unaligned, 0.067 nats aligned (difference −0.133 nats; interval −0.237 to −0.030)."
    ]


@pytest.mark.parametrize(
    ("lift", "pairs", "words"),
    [
        ((-9, -8, -7), ("1-2", "3-4", "5-6"), "lowers the worst accuracy"),
        ((-5, -5.5, -4.5), ("1-2", "3-4", "5-6"), "no difference was found in the worst accuracy"),
        ((-9, 3, 4), ("1-2", "3-4", "5-6"), "which includes zero; n = 3 pairs"),
        ((1,), ("1-2",), "one pair does not decide whether alignment changes the worst accuracy"),
    ],
)
def test_the_headline_does_not_say_more_than_the_data(lift, pairs, words):
    (line,) = findings.sentences(summary.contrasts(summary.paths(study(pairs=pairs, lift=lift))))
    assert words in line


def contrast(low, high, **more):
    """A row of the table of contrasts about the worst accuracy, its interval around its difference."""
    setting = {"dataset": "cifar10", "network": "tinyten", "regime": "standard", "attack": "clean"}
    methods = {"method": "aligned", "baseline": "unaligned", "metric": "accuracy_min"}
    difference = {"method_mean": 81.0, "baseline_mean": 80.0, "difference": (low + high) / 2}
    return setting | methods | difference | {"ci_low": low, "ci_high": high, "n_pairs": 3} | more


@pytest.mark.parametrize(
    ("low", "high", "claims_a_change"),
    [(-1, 3, False), (-3, 1, False), (0, 2, False), (-2, 0, False), (0, 0, False), (0.5, 2, True), (-2, -0.5, True)],
)
def test_a_change_is_stated_only_where_the_interval_excludes_zero(low, high, claims_a_change):
    (line,) = findings.sentences(pd.DataFrame([contrast(low, high)]))
    assert ("raises" in line or "lowers" in line) == claims_a_change
    assert ("no difference was found" in line) != claims_a_change
    assert "(paired difference" in line and "n = 3 pairs" in line
    assert "Average" not in line and "barrier" not in line, "the table has neither"


def test_a_finding_says_which_further_intervals_include_zero_and_has_none_for_one_pair():
    (line,) = findings.sentences(summary.contrasts(summary.paths(study(lift=(-5, -5.5, -4.5)))))
    assert line.endswith("(difference −0.000 nats; interval −0.025 to +0.025, which includes zero).")
    (line,) = findings.sentences(summary.contrasts(summary.paths(study(pairs=("1-2",), lift=(1,)))))
    assert "Average accuracy: 85.00 % unaligned, 88.00 % aligned (difference +3.00 points). Loss" in line


def test_a_change_that_rounds_to_zero_is_not_called_a_rise():
    (line,) = findings.sentences(pd.DataFrame([contrast(0.001, 0.005)]))
    assert "alignment hardly changes the worst accuracy" in line


def test_comparisons_are_counted_by_what_was_found():
    line = {"method": "linear_aligned", "baseline": "linear_unaligned"}
    rows = [contrast(1, 2), contrast(-1, 2), contrast(-2, -1), contrast(1, 2, **line)]
    assert findings.overview(pd.DataFrame(rows)) == [
        "Worst accuracy on the trained curve, in 3 comparisons: alignment raises it in 1, alignment lowers it in 1, "
        "no difference was found in 1."
    ]


def test_findings_after_the_eighth_are_folded():
    rows = pd.concat([study().assign(dataset=f"blobs{i}") for i in range(11)])
    parsed = Page(page(rows))
    assert "3 more comparisons" in parsed.text and "more comparisons" not in Page(page()).text


def test_the_main_figure_is_the_first_along_the_path_on_clean_images():
    shown = pictures(
        [
            (PNG, {"use": "training"}),
            (PNG, {"use": "path", "attack": "pgd5"}),
            (PNG, {"use": "path"}),
            (PNG, {"use": "path"}),
        ]
    )
    assert main_picture(shown).number == 3
    assert main_picture(shown[:2]) is None
    html = page(drawn=[(PNG, {"use": "training"}), (PNG, {"use": "path", "caption": "The story."})])
    assert html.index("The story.") < html.index("What is measured") < html.index("Cross-entropy (left)")
    assert html.count('alt="The story."') == 1


def test_figures_of_one_topic_stand_side_by_side_and_wide_ones_alone():
    def png(width):
        return PNG[:16] + width.to_bytes(4, "big") + PNG[20:]

    path, attacked = {"use": "path"}, {"use": "path", "attack": "pgd5"}
    drawn = [(png(700), path)] * 3 + [(png(900), attacked)] * 2 + [(png(1200), {"use": "theory"})]
    rows = picture_rows(pictures(drawn))
    assert [(columns, [p.number for p in row]) for columns, row in rows] == [(3, [1, 2, 3]), (2, [4, 5]), (1, [6])]


def test_one_pair_shows_no_deviation():
    text = Page(page(study(pairs=["1-2"]))).text
    assert "one pair: no spread to estimate" in text
    assert "Robustness along the path" not in text
    assert "nan" not in text.lower()


def test_the_settings_are_shown_and_escaped():
    html = page()
    text = Page(html).text
    assert "A &lt;small&gt; study" in html and "What it is." in text
    assert "training (epochs 250; lr 0.1); attack none" in text
    assert "pair 1-2, 3-4; dataset cifar10" in text and "catalogue" not in text


def test_notes_give_the_times_and_the_origin():
    notes = [note(), note(seconds=4), note("align", 1.5, device="H100", started="2026-01-02", versions={"numpy": "2"})]
    text = Page(page(notes=[*notes, note(dirty=True), note(modified=True), {}])).text
    table = report.time_table(notes)
    align, evaluate = ["align", "1", "1.5", "1.5", "1.5 to 1.5"], ["evaluate", "2", "6.0", "3.0", "2.0 to 4.0"]
    assert table.groups == [("", [align, evaluate])]
    assert "c0ffee (2 results with uncommitted changes)" in text
    assert all(word in text for word in ("H100", "numpy 2", "2026-01-02", "abcdef0123", "cifar10, pair 1-2"))
    assert "not recorded" in Page(page()).text


def test_a_job_with_several_files_counts_once():
    files = [note("merge", 3.0, artefact=f"robust{part}.csv") for part in ("", ".barrier", ".layers")]
    other = note("merge", 5.0) | {"wildcards": {"pair": "3-4"}}
    table = report.time_table(one_for_each_job([*files, other]))
    assert table.groups == [("", [["merge", "2", "8.0", "4.0", "3.0 to 5.0"]])]


def test_published_columns_are_there_where_there_are_values():
    rows = study()
    other = rows.assign(dataset="blobs")
    for table, n in ((rows, 10), (other, 8)):
        main = report.main_table(summary.accuracy(table, summary.paths(table)))
        assert len(main.head) == n and ("published" in main.head) == (n == 10)
        assert {len(row) for _, part in main.groups for row in part} == {n}


def test_a_page_without_comparisons_says_so():
    rows = study()
    assert "nothing to compare" in Page(page(rows[rows["method"] == "aligned"], drawn=[])).text


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (-1.005, 1, True, "−1.0"),
        (2, 2, True, "+2.00"),
        (np.nan, 2, False, "–"),
        (-2555049.473, 3, False, "−2,555,049"),
    ],
)
def test_numbers_are_rounded_and_have_separators(value, digits, sign, text):
    assert report.number(value, digits, sign=sign) == text


def test_the_script_reads_tables_figures_and_the_notes_there_are(tmp_path, monkeypatch):
    rows = study()
    paths = summary.paths(rows)
    tables = [summary.accuracy(rows, paths), summary.robust(rows, paths), summary.contrasts(paths), paths, rows]
    tables += [t.iloc[:0] if name == "alignments" else t for name, t in claim_tables(rows).items()]
    names = ["accuracy", "robust", "contrasts", "paths", "points", "published", "claims", "alignments"]
    inputs = {name: str(tmp_path / f"{name}.csv") for name in names}
    for name, table in zip(names, tables, strict=True):
        table.to_csv(inputs[name], index=False)
    (tmp_path / "a.png").write_bytes(PNG)
    for name in ("x", "x.layers"):  # of one job
        (tmp_path / f"{name}.csv.json").write_text(json.dumps(note(seconds=1234.5, artefact=name)))
    html = tmp_path / "out" / "report.html"
    script = load_script("report", monkeypatch)
    script.main(
        **inputs,
        figures=[str(tmp_path / "a.png")],
        artefacts=[str(tmp_path / name) for name in ("x.csv", "x.layers.csv", "gone.csv")],
        html=str(html),
        study=STUDY,
        drawings=[{"use": "path", "column": "loss", "attack": "pgd5", "beside_clean": True}],
    )
    parsed = Page(html.read_text(encoding="utf-8"))
    assert "Test loss along the path" in parsed.all("img")[0]["alt"]
    assert "86.67" in parsed.text and "c0ffee" in parsed.text
    assert "1,234.5 to 1,234.5" in parsed.text and "2,469.0" not in parsed.text
    assert "nan" not in parsed.text.lower()
    assert [attributes.get("id") for attributes in parsed.all("figure")] == ["view-paths", None]
    assert [p.name for p in html.parent.iterdir()] == ["report.html"]
    assert caption({"caption": "Mine."}) == "Mine." and caption({"use": "new"}) == "New."


def test_merged_networks_stand_beside_their_members():
    place = {"dataset": "digits", "network": "tinyten", "regime": "demo"}
    run = place | {"members": "1-2", "cohort": "mean", "evaluation": "demo"}
    measured = [("aligned mean", 90, 0.5), ("unaligned mean", 30, 2.0), ("1", 94, 0.2), ("2", 96, 0.4)]
    columns = ["model", "accuracy", "loss"]
    networks = pd.DataFrame(measured, columns=columns).assign(attack="clean", statistics="reestimated", images=300)
    stored = networks.tail(2).assign(statistics="stored", accuracy=1)
    facts = pd.DataFrame({"member": [1, 2], "certificate": [0, 1e-15]}).assign(
        agreement_before=0.25, agreement=0.75, steps=3, images=0
    )
    (row,) = summary.cohorts(run, pd.concat([networks, stored]), facts)
    assert list(row)[: len(summary.MERGED)] == summary.MERGED
    assert (row["members_accuracy"], row["best_accuracy"], row["members_loss"]) == (95, 96, pytest.approx(0.3))
    assert (row["certificate"], row["images_read"], row["images"]) == (1e-15, 0, 300)
    text = "".join(Page(page(cohorts=pd.DataFrame([row]))).text.split())
    assert "Onenetworkoutofseveral" in text
    assert "networks1-290.0030.0095.0096.000.5002.0000.3000.2500.750" in text
    assert "One network out of several" not in page()
    (without,) = summary.cohorts(run, networks, facts[["member", "certificate"]])  # nothing could be aligned
    assert np.isnan(without["agreement"]) and np.isnan(without["images_read"])
