"""Neuron alignment and mode connectivity for any PyTorch network.

The packages, in the order in which they build on each other: common, config, datasets, networks, symmetry, curves,
training, alignment, evaluation, report, workflow, cli. `api` has the calls for programs of your own.
"""


def __getattr__(name: str) -> str:
    """`__version__`, as pyproject.toml has it: of this checkout, else of the installed package.

    It is read when it is asked for and is no text in this file, which every recipe digests: a new version is no reason
    to compute results again.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import tomllib
    from importlib.metadata import version
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else version(__name__)
