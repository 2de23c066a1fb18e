"""Completions of the shell: names that the config, the plug-ins and the files of the user have. Imports no torch."""

from collections.abc import Callable
from glob import glob
from pathlib import Path

import typer

from neuralign.common.errors import UserError

FILES = 20  # so many files of Python are looked into


def networks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Networks of the config, and the functions and classes of the user's files, as `nets.py:Net`."""
    return [*_names(ctx, "networks", incomplete), *_objects(incomplete)]


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets of the config and .npz files; the shell adds other files if none begins like this."""
    return [*_names(ctx, "datasets", incomplete), *sorted(glob(f"{incomplete}*.npz"))]


def finished_studies(incomplete: str) -> list[str]:
    """The folders of finished studies."""
    folders = [str(file.parents[1]) for file in sorted(Path("results", "studies").glob("*/tables/accuracy.csv"))]
    return [folder for folder in folders if folder.startswith(incomplete)]


def alignments(*also: str) -> Callable[[typer.Context, str], list[str]]:
    """A completion by the alignments of the config, plug-ins, and other words that may stand in their place."""
    from_plugins = plugins("alignments", *also)

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return list(dict.fromkeys([*_names(ctx, "alignments", incomplete), *from_plugins(incomplete)]))

    return complete


def studies(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies of the config."""
    return _names(ctx, "studies", incomplete)


def words(*allowed: str) -> Callable[[str], list[str]]:
    """A completion by one of these words."""
    return lambda incomplete: [word for word in allowed if word.startswith(incomplete)]


def plugins(kind: str, *also: str) -> Callable[[str], list[str]]:
    """A completion by the plug-ins of a kind, and other words that may stand in their place."""

    def complete(incomplete: str) -> list[str]:
        from neuralign.config import signatures

        return [name for name in [*also, *signatures.names(kind)] if name.startswith(incomplete)]

    return complete


def devices(incomplete: str) -> list[str]:
    """The CPU, and the GPUs of this machine."""
    from neuralign.workflow.running import gpus

    names = [f"cuda:{i}" for i in range(len(gpus.devices()))]
    return [name for name in ["cpu", *(["cuda"] if names else []), *names] if name.startswith(incomplete)]


def _objects(incomplete: str) -> list[str]:
    """The functions and classes of files of Python whose `file.py:name` begins like this."""
    from neuralign.config.references import definitions

    names = []
    for file in sorted(glob(f"{incomplete.partition(':')[0].removesuffix('.py')}*.py"))[:FILES]:
        try:
            names += [f"{file}:{name}" for name in definitions(Path(file))]
        except UserError:  # its syntax is wrong
            continue
    return [name for name in names if name.startswith(incomplete)]


def _names(ctx: typer.Context, section: str, incomplete: str) -> list[str]:
    """The names of a section of the config, with the files of --configfile, that begin with what is typed."""
    from neuralign.cli.configs import load_config

    try:
        entries = load_config(ctx.params.get("configfile")).get(section)
    except UserError:  # a config that cannot be read: the command says so when it runs; the shell has no place for it
        return []
    if not isinstance(entries, dict):
        return []
    nulls_count = section != "alignments"  # where null stands for no alignment, which no option takes
    return [name for name in entries if name.startswith(incomplete) and (nulls_count or entries[name] is not None)]
