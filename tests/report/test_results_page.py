"""docs/results.md and the results in README.md: written from the published bundles, and current."""

import json
from pathlib import Path

import pandas as pd
import pytest

from neuralign.report.page import results_page
from neuralign.report.page.results_page import (
    MARKS,
    Bundle,
    bundles,
    claims_table,
    cost_table,
    for_readme,
    page,
    readme_part,
    with_results,
)

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"
TINYTEN = Bundle(PUBLISHED / "cifar10_tinyten")


def test_the_page_and_readme_are_what_the_bundles_give():
    published = bundles(PUBLISHED)
    assert TINYTEN in published
    assert (ROOT / "docs" / "results.md").read_text() == page(published, ROOT / "docs"), "run `make results`"
    readme = (ROOT / "README.md").read_text()
    assert for_readme(published).name == "cifar10_tinyten"
    assert readme == with_results(readme, readme_part(for_readme(published), ROOT)), "run `make results`"


def test_the_numbers_are_those_of_the_tables():
    (row,) = TINYTEN.table("accuracy").query("method == 'aligned'").to_dict("records")
    cells = f"| Curve, aligned | {row['accuracy_mean']:.2f} ± {row['accuracy_mean_std']:.2f} | "
    assert cells in readme_part(TINYTEN, ROOT) and cells in page([TINYTEN], ROOT)


def test_the_first_table_says_which_study_decides_which_claim():
    table = claims_table([Bundle(PUBLISHED / "cifar10"), Bundle(PUBLISHED / "methods")])
    ((_, rows),) = table.groups
    assert table.head == ["Claim", "cifar10", "methods"]
    cells = {sentence: verdicts for sentence, *verdicts in rows}
    assert cells["Alignment lowers the loss at the middle of the straight line."] == ["supported", "supported"]
    assert cells["PAM from the unaligned pair is better than no alignment."] == ["not decided", "–"]
    assert ["–", "–"] in cells.values()  # a claim that neither measures has a row too


def test_a_chapter_lists_only_claims_that_its_study_measures():
    text = page([Bundle(PUBLISHED / "methods")], ROOT)
    assert "- **Supported**: Alignment lowers the loss at the middle of the straight line" in text
    assert "**Not measured**" not in text


def test_every_figure_and_table_that_the_page_names_exists():
    figure = TINYTEN.figure("accuracy")
    assert figure is not None and figure.exists()
    assert f"]({figure.relative_to(ROOT)})" in readme_part(TINYTEN, ROOT)
    assert Bundle(PUBLISHED / "cifar10_tinyten").table("nothing").empty


def test_hours_are_added_once_for_each_job(tmp_path):
    folder = tmp_path / "study"
    for name, rule, seconds in (("a.csv", "train", 1800), ("b.csv", "train", 1800), ("c.csv", "align", 720)):
        note = {"rule": rule, "wildcards": {"seed": "1"}, "seconds": seconds, "device": "CPU", "threads": 2}
        note |= {"cpu_use": 1.5} if rule == "train" else {}  # notes of older code do not say
        (folder / "results").mkdir(parents=True, exist_ok=True)
        (folder / "results" / f"{name}.json").write_text(json.dumps(note))
    (_, rows), *_ = cost_table(Bundle(folder).notes).groups
    assert rows == [
        ["align", "CPU, 2 threads", "1", "0.20", "–"],
        ["train", "CPU, 2 threads", "1", "0.50", "0.75"],  # two results of one job
        ["total", "", "2", "0.70", "–"],
    ]


def test_unfinished_bundles_are_left_out(tmp_path):
    (tmp_path / "half" / "endpoints").mkdir(parents=True)
    assert bundles(tmp_path) == []


def test_a_readme_without_a_place_for_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="README has no place for results"):
        with_results("# A title\n", "part")
    text = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n"
    assert with_results(text, "new") == f"before\n{MARKS[0]}\n\nnew\n\n{MARKS[1]}\nafter\n"


def test_main_writes_both_files(tmp_path):
    readme, target = tmp_path / "README.md", tmp_path / "docs" / "results.md"
    readme.write_text("\n".join(MARKS))
    results_page.main(str(PUBLISHED), str(target), str(readme))
    assert "## TinyTen on CIFAR-10" in target.read_text() and "| Curve, aligned |" in readme.read_text()
    assert isinstance(TINYTEN.table("accuracy"), pd.DataFrame)
