"""Neuron alignment and mode connectivity for any PyTorch network.

The packages, in the order in which they build on each other: common, config, datasets, networks, symmetry, curves,
training, alignment, evaluation, merging, report, workflow, cli. `api` has the calls for programs of your own, which are
names of this package, too: `neuralign.align` and others.
"""


def __getattr__(name: str) -> object:
    """The calls of `neuralign.api`, imported when one is asked for; and `__version__`.

    Programs that only make tables so import no torch, and a recipe, which digests this file, depends on no other. The
    version is that of pyproject.toml in a checkout, else of the installed package, and no text in this file: a new
    version is no reason to compute results again.
    """
    from importlib import import_module

    if name != "__version__":
        if name.startswith("_") or name not in (calls := import_module("neuralign.api")).__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(calls, name)
    import tomllib
    from importlib.metadata import version
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"]) if project.is_file() else version(__name__)
