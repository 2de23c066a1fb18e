"""One dataset as a memory-mappable safetensors file: uint8 images, int64 labels, class names, pixel mean and std."""

from pathlib import Path
from typing import Any

from neuralign.config.plugins import plugin
from neuralign.datasets.checks import check
from neuralign.datasets.reading.locations import described
from neuralign.datasets.storage import save
from neuralign.workflow.running.run import run


def main(data: str, *, dataset: dict[str, Any]) -> None:
    archives = Path(data).parent / "archives"  # beside the datasets: entries with the same archive share a download
    made = plugin("datasets", dataset)(archives)
    check(made, described(dataset))
    save(made, data)


if __name__ == "__main__":
    run(main)
