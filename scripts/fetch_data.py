"""One dataset as a memory-mappable safetensors file: uint8 images, int64 labels, class names, pixel mean and std."""

from pathlib import Path
from typing import Any

from neuralign.data.checks import check
from neuralign.data.sources import described
from neuralign.data.storage import save
from neuralign.job import run
from neuralign.plugins import plugin


def main(data: str, *, dataset: dict[str, Any]) -> None:
    archives = Path(data).parent / "archives"  # beside the datasets: entries with the same archive share a download
    made = plugin("data", dataset)(archives)
    check(made, described(dataset))
    save(made, data)


if __name__ == "__main__":
    run(main)
