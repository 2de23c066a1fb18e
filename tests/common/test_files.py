"""Files are complete or absent; recipes and notes have the paths that other code expects."""

import hashlib
import os
import subprocess
import sys

import pytest

from neuralign.common.files import PACKAGE, atomic, note_path, recipe_path, sha256
from neuralign.common.tables import write_rows

ENVIRONMENT = {"PYTHONPATH": str(PACKAGE.parent)}


def test_a_file_appears_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "x.csv"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.suffix == ".csv" and temporary.parent == path.parent
    assert path.read_text() == "half" and os.listdir(path.parent) == ["x.csv"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.csv"]


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    program = (
        "import os, sys; from neuralign.common.files import atomic\n"
        "with atomic(sys.argv[1]) as temporary: temporary.write_text('half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, path], env=ENVIRONMENT).returncode == 9
    assert path.read_text() == "old"


def test_a_file_may_be_read_by_others(tmp_path):
    """mkstemp alone would keep results private to one user."""
    mask = os.umask(0o027)
    try:
        with atomic(tmp_path / "x") as temporary:
            temporary.write_text("")
    finally:
        assert os.umask(mask) == 0o027
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"content").hexdigest()


def test_recipes_mirror_results_and_notes_lie_beside_them():
    assert recipe_path("results/endpoints/a/1.safetensors") == "results/recipes/endpoints/a/1.safetensors.json"
    assert note_path("results/endpoints/a/1.safetensors") == "results/endpoints/a/1.safetensors.json"


def test_a_table_without_rows_has_its_columns(tmp_path):
    write_rows([], tmp_path / "a.csv", ("group", "units"))
    assert (tmp_path / "a.csv").read_text() == "group,units\n"
    write_rows([{"group": "a", "units": 1}], tmp_path / "b.csv", ("units",))
    assert (tmp_path / "b.csv").read_text() == "group,units\na,1\n"
    with pytest.raises(ValueError, match="c.csv: found a table without rows; `columns` is needed for its header"):
        write_rows([], tmp_path / "c.csv")
