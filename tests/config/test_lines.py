"""Problems of a config name the file and the line of their key."""

from pathlib import Path

import pytest

from neuralign.config.lines import lines_of, with_lines
from neuralign.config.problems import ConfigError

BASE = """\
datasets:
  digits: {size: 16}
regimes:
  short: &short
    endpoint: {epochs: 30,
               lr: 0.1}
  long:
    <<: *short
    curve: {epochs: 2}
studies:
  small:
    grids:
      - dataset: digits
        pair: [1-2,
               3-4]
"""
OVER = """\
# laid over
datasets:
  digits:
    sise: 8
"""


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "config.yaml", tmp_path / "over.yaml"]
    for path, text in zip(paths, (BASE, OVER), strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize(
    ("problem", "file", "line"),
    [
        ("datasets.digits.size: found 0", 0, 2),
        ("datasets.digits: unknown key 'sise'; did you mean 'size'? (allowed: size)", 1, 4),
        ("datasets.digits: the key 'use' is missing", 1, 3),  # the last file that has the entry
        ("regimes.short.endpoint.lr: found 'x'", 0, 6),
        ("regimes.long.endpoint.lr: found 'x'", 0, 6),  # where the merged value stands
        ("regimes.long.curve.schedule: missing", 0, 9),
        ("studies.small.grids[0].pair[1]: found '3-4'", 0, 15),
        ("studies.small.grids.0.pair.1: found '3-4'", 0, 15),
        ("studies.small.grids[0].method: missing", 0, 13),
        ("studies.small.grids[3]: repeats", 0, 12),
        ("studis: unknown section 'studis'", None, None),
    ],
)
def test_a_problem_names_the_line_of_its_key(files, problem, file, line):
    ((located),) = with_lines(ConfigError([problem]), files).problems
    key, _, text = problem.partition(": ")
    place = "" if file is None else f" ({files[file]}, line {line})"
    assert located == f"{key}{place}: {text}"


def test_an_unknown_section_is_found_where_it_stands(tmp_path):
    path = Path(tmp_path, "config.yaml")
    path.write_text("studies: {}\nstudis: {}\n")
    (problem,) = with_lines(ConfigError(["studis: unknown section 'studis'"]), [path]).problems
    assert problem == f"studis ({path}, line 2): unknown section 'studis'"
    path.write_text("")
    assert lines_of(path) == {}
