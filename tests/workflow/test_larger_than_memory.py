"""The jobs of a study whose datasets do not fit into memory make the same bytes as those whose datasets do."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from workflow_project import REPOSITORY

from benchmarks.gpu.jobs import Jobs
from neuralign.common import memory
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import read_config
from neuralign.datasets import batches, on_disk
from neuralign.workflow.graph import jobs

CONFIG = REPOSITORY / "config.yaml"
TRAINING = {"epochs": 1, "batch_size": 32, "lr": 0.05}
GRID = {"dataset": "small", "network": "little", "regime": "plain", "pair": "1-2", "curve_seed": 1}
GRID |= {"evaluation": "three"}
IMAGES: dict[str, Any] = {
    "datasets": {
        "small": {"use": "digits", "size": 12, "test_fraction": 0.8, "augment": [{"use": "crop", "pad": 0.125}]}
    },
    "networks": {"little": {"use": "tinyten", "width": 2}},
    "regimes": {"plain": {"endpoint": TRAINING, "curve": TRAINING}},
    "alignments": {
        "early": {"use": "correlation", "images": 200, "stop": 0.5},
        "even": {"use": "correlation", "images": 50, "balanced": True},
        "searched": {"use": "pam", "epochs": 1, "batch_size": 64, "candidates": 1, "scoring_batches": 1},
    },
    "methods": {
        "by_early": {"alignment": "early", "curve": "bezier"},
        "by_even": {"alignment": "even", "curve": "linear"},
        "by_searched": {"alignment": "searched", "curve": "linear"},
    },
    "evaluations": {"three": {"points": 3, "batch_size": 100, "images": 100, "full_passes": 2}},
    "planes": {"three": {"points": 2, "batch_size": 100}},
    "merges": {"few": {"repairs": ["reset", "repair"], "points": 3, "batch_size": 100, "images": 100}},
    "studies": {
        "large": {
            "title": "Large",
            "grids": [
                GRID | {"method": ["by_early"], "plane": "three", "measures": ["signature", "midpoint", "bound"]},
                GRID | {"method": ["by_even", "by_searched"], "merge": "few"},
            ],
        }
    },
}
WORDS: dict[str, Any] = {
    "datasets": {"small": {"use": "text", "path": "words.txt", "context": 12}},
    "networks": {"little": {"use": "gpt", "width": 8, "depth": 1, "heads": 2}},
    "regimes": {
        "plain": {
            "objective": {"use": "next_token"},
            "normalise": False,
            "endpoint": TRAINING | {"optimiser": {"use": "adamw"}},
            "curve": TRAINING,
        }
    },
    "alignments": {"heads": {"use": "correlation", "images": 32, "attention": True}},
    "methods": {"by_heads": {"alignment": "heads", "curve": "bezier"}},
    "evaluations": {"three": {"points": 3, "batch_size": 16}},
    "studies": {
        "large": {
            "title": "Large",
            "grids": [GRID | {"method": ["by_heads"]}],
        }
    },
}


def outputs(overlay: dict[str, Any], folder: Path) -> dict[str, bytes]:
    """{path below the folder: content} of all that the jobs of the study make, but for its tables and figures."""
    (folder.parent / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    c = Catalogue(read_config([CONFIG, folder.parent / "overlay.yaml"]))
    done = Jobs(c, folder, "cpu")
    made = [done.make(rule, wildcards) for rule, wildcards, _ in jobs(c, "large") if "study" not in wildcards]
    paths = [Path(path) for of_job in made for path in of_job.values()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("overlay", [IMAGES, WORDS], ids=["images", "words"])
def test_all_jobs_make_the_same_bytes_from_data_on_disk(
    overlay: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("\n".join(f"{a} and {b} make {a + b};" for a in range(20) for b in range(10)))
    monkeypatch.setattr(batches, "AT_ONCE", 64)
    monkeypatch.delenv(memory.BUDGET, raising=False)
    expected = outputs(overlay, tmp_path / "in memory")
    read, count = on_disk.StoredTensor.read, 0

    def counted(tensor: on_disk.StoredTensor, rows: Any) -> Any:
        nonlocal count
        count += len(rows)
        return read(tensor, rows)

    monkeypatch.setattr(on_disk.StoredTensor, "read", counted)
    monkeypatch.setenv(memory.BUDGET, "0")
    actual = outputs(overlay, tmp_path / "on disk")
    assert actual.keys() == expected.keys() and len(actual) >= 9
    assert [name for name in expected if actual[name] != expected[name]] == []
    assert count > 2000
