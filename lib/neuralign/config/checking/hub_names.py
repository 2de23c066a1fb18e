"""Names of networks and checkpoints of hubs, checked without importing a library of theirs and without the network.

timm/<model>[.<tag>]                          a model of timm, and the weights of this tag
hf-hub:<repository>[@<revision>][:<file>]     a repository of Hugging Face, and a file in it
torchvision:<Model>_Weights.<name>            weights of torchvision, and the network that they are for
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from neuralign.common.errors import UserError
from neuralign.config.problems import did_you_mean

PATTERNS = {  # hub -> the form of its names
    "timm": r"timm/(?P<name>\w+)(\.(?P<tag>[\w.-]+))?",
    "hf-hub": r"hf-hub:(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>\w[\w./-]*))?(:(?P<file>\w[\w./-]*))?",
    "torchvision": r"torchvision:(?P<name>\w+_Weights)\.(?P<tag>\w+)",
}
FORMS = {
    "timm": "timm/<model> or timm/<model>.<tag>",
    "hf-hub": "hf-hub:<repository>, with @<revision> and :<file> behind it if need be,",
    "torchvision": "torchvision:<Model>_Weights.<name>",
}
LIBRARIES = {"timm": "timm", "hf-hub": "huggingface_hub", "torchvision": "torchvision"}  # hub -> module
DISTRIBUTIONS = {"timm": "timm", "hf-hub": "timm", "torchvision": "torchvision"}  # hub -> whose code networks are


class HubName(NamedTuple):
    """A name taken apart; what it does not say is ""."""

    hub: str
    name: str  # of the model, the repository or the class of weights
    tag: str = ""
    revision: str = ""
    file: str = ""

    @property
    def with_tag(self) -> str:
        """The name and the tag, as timm and torchvision write them."""
        return f"{self.name}.{self.tag}" if self.tag else self.name


def hub_of(name: str) -> str:
    """The hub that a name begins with."""
    return "timm" if name.startswith("timm/") else name.partition(":")[0]


def parse(name: str) -> HubName:
    """A name of a hub, taken apart. Raises UserError if it has another form than the names of its hub."""
    hub = hub_of(name)
    parts = re.fullmatch(PATTERNS[hub], name)
    if not parts or any(".." in (parts.groupdict().get(key) or "") for key in ("revision", "file")):  # parts of paths
        advice = f"; a file in a folder of this name is written ./{name}" if hub == "timm" else ""
        raise UserError(f"found {name!r}; {FORMS[hub]} is needed{advice}")
    return HubName(hub, **{key: value or "" for key, value in parts.groupdict().items()})


def check_name(name: str) -> None:
    """Raise UserError if the hub's library is not installed, or if it has no network of this name.

    Tags of timm and repositories are left to the job or command that loads them.
    """
    parts = parse(name)
    folder = library_folder(name, LIBRARIES[parts.hub])
    if parts.hub == "timm" and parts.name not in (models := _timm_models(folder)):
        advice = f"; a file in a folder of this name is written ./{name}" if "." in name else ""
        raise UserError(f"{name}: timm has no model {parts.name!r}{did_you_mean(parts.name, models)}{advice}")
    if parts.hub == "torchvision":
        weights = _torchvision_weights(folder)
        if parts.name not in weights:
            raise UserError(f"{name}: torchvision has no {parts.name}{did_you_mean(parts.name, weights)}")
        if parts.tag not in weights[parts.name]:
            raise UserError(f"{name}: {parts.name} has {', '.join(weights[parts.name])}, and no {parts.tag}")


def check_network(name: str) -> None:
    """The same for a name of a network, which is no name of a file."""
    check_name(name)
    if file := parse(name).file:
        raise UserError(f"{name}: names the file {file}; a network is named without one")
    if hub_of(name) == "hf-hub":
        library_folder(name, "timm")  # which builds it


def library_folder(name: str, library: str) -> Path:
    """Where the library that a name of a hub needs is installed. Raises UserError if it is not."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: needs {library}, which is not installed: pip install 'neuralign[hub]'")
    return Path(spec.origin).parent


@cache
def _timm_models(folder: Path) -> frozenset[str]:
    """Names of the models that the code of timm registers."""
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("models/*.py")]
    return frozenset(
        name for text in texts for name in re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)
    )


@cache
def _torchvision_weights(folder: Path) -> dict[str, list[str]]:
    """{name of a class of weights: names of its weights} in the code of torchvision."""
    weights: dict[str, list[str]] = {}
    for path in folder.glob("models/**/*.py"):
        classes = re.split(
            r"^class (\w+_Weights)\(WeightsEnum\):$", path.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        for name, body in zip(classes[1::2], classes[2::2], strict=True):
            weights[name] = re.findall(r"^    ([A-Z]\w*) = ", body.partition("\n\n\n")[0], re.MULTILINE)
    return weights
