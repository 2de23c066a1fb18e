"""Refuses outputs of a command that cannot be written, or that would destroy its inputs or each other. Torch-free."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from neuralign.cli.configs import Config, UsageError, config_files
from neuralign.cli.entries import dataset_entry, network_entry
from neuralign.cli.interface.options import NetworkOptions
from neuralign.common.shards import checkpoint_files
from neuralign.config.references import is_hub


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Raise UsageError, which names the option, if a file that would be written is one of the inputs or another output,
    or if its folder cannot be written to.

    Args:
        outputs: {option: the file that it names}; None where it is not given.
        inputs: files, and folders of which everything is read.
    """
    inputs = list(inputs)
    options_of: dict[Path, str] = {}  # the outputs before -> their options
    for option, output in outputs.items():
        if output is None:
            continue
        first = options_of.setdefault(Path(os.path.realpath(output)), option)  # of links in a circle, too
        if first != option:
            raise UsageError(f"{option}: found {output}, which {first} writes; another name is needed")
        if output.is_dir():
            raise UsageError(f"{option}: found {output}, which is a folder; the name of a file is needed")
        existing = next(folder for folder in output.absolute().parents if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"{option}: found {output}, but {existing} is no folder that can be written to")
        if output.exists() and any(_is_part_of(output, path) for path in inputs):
            raise UsageError(f"{option}: found {output}, which is an input of this command; another name is needed")


def input_files(
    config: Config,
    configfile: Iterable[Path] | None,
    network: NetworkOptions,
    data: str | None,
    checkpoints: Sequence[str],
) -> list[Path]:
    """The files, and folders of images, that a command with these options reads, for `check_outputs`."""
    files = [*config_files(configfile), *checkpoint_paths(checkpoints)]
    module = network_entry(network, config)[1]["use"].rpartition(":")[0]
    if module.endswith(".py"):
        files.append(Path(module))
    entry = dataset_entry(data, config)[1] if data else {}
    if name := entry.get("path") or entry.get("url"):
        source = Path(name)
        files += [source / "train", source / "test"] if entry["use"] == "folder" else [source]
    return files


def checkpoint_paths(checkpoints: Iterable[str]) -> list[Path]:
    """All files of these checkpoints, shards too. Those of hubs are left out."""
    return [path for file in checkpoints if not is_hub(file) for path in checkpoint_files(file).files]


def _is_part_of(output: Path, path: Path) -> bool:
    """Whether the existing file `output` is the file `path`, or lies in the folder `path`; also through links."""
    if path.is_dir():
        return output.resolve().is_relative_to(path.resolve())
    return path.exists() and output.samefile(path)
