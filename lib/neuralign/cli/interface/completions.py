"""Completions of the shell: names that the config and the plug-ins have. Imports no torch, and reads only YAML."""

import typer

from neuralign.common.errors import UserError


def networks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Networks of the config."""
    return _names(ctx, "networks", incomplete)


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets of the config; the shell adds files if none begins like this."""
    return _names(ctx, "datasets", incomplete)


def alignments(ctx: typer.Context, incomplete: str) -> list[str]:
    """Alignments of the config."""
    return _names(ctx, "alignments", incomplete)


def studies(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies of the config."""
    return _names(ctx, "studies", incomplete)


def devices(incomplete: str) -> list[str]:
    """The CPU, and the GPUs of this machine."""
    from neuralign.workflow.running import gpus

    names = [f"cuda:{i}" for i in range(len(gpus.devices()))]
    return [name for name in ["cpu", *(["cuda"] if names else []), *names] if name.startswith(incomplete)]


def _names(ctx: typer.Context, section: str, incomplete: str) -> list[str]:
    """The names of a section of the config, with the files of --configfile, that begin with what is typed."""
    from neuralign.cli.configs import load_config

    try:
        entries = load_config(ctx.params.get("configfile")).get(section)
    except UserError:  # a config that cannot be read: the command says so when it runs; the shell has no place for it
        return []
    return [name for name in entries if name.startswith(incomplete)] if isinstance(entries, dict) else []
