"""A dataset as one safetensors file: images and labels with mean and std of the pixels, or arrays with their facts."""

from pathlib import Path
from typing import Any

from neuralign.datasets.splits import prepare
from neuralign.datasets.storage import save
from neuralign.workflow.running.run import run


def main(data: str, *, dataset: dict[str, Any]) -> None:
    archives = Path(data).parent / "archives"  # shared by all datasets, so an archive is downloaded once
    save(prepare(dataset, archives), data)


if __name__ == "__main__":
    run(main)
