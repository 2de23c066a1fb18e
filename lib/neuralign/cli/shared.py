"""What the commands share: options for a network and its data, and the config entries made from them. Torch-free."""

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from neuralign.common.errors import UserError
from neuralign.common.files import sha256
from neuralign.common.shards import INDEX, checkpoint_files
from neuralign.common.workflow_files import WORKFLOW
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.checking.hub_names import parse
from neuralign.config.files import lay_over, read_config
from neuralign.config.lines import with_lines
from neuralign.config.references import is_foreign, is_hub
from neuralign.config.schema import AlignmentKeys, NetworkKeys

REGIME = "command_line"  # name of the regime with what the options say of training and normalisation
CLASSES = 10  # of a network of the config, where neither data nor tokens say how many
Config = dict[str, Any]


class UsageError(UserError):
    """Arguments that contradict each other, or that name something that does not exist."""


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add NETWORK and its options to the parser of a command."""
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help="package.module:name, folder/file.py:name, timm/<model>, hf-hub:<repository>, torchvision:<weights>, or a "
        "network of the config",
    )
    group = parser.add_argument_group("the network")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword argument of NETWORK, the value as JSON (else text); may be repeated",
    )
    group.add_argument(
        "--attention", action="store_true", help="also permute attention heads, and channels within heads"
    )
    add_configfile(parser)


def add_configfile(parser: argparse.ArgumentParser) -> None:
    """Add --configfile, which `load_config` reads."""
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="laid over the default config, and over config.yaml of a folder made by `neuralign init`, one after the "
        "other, as Snakemake does",
    )


def add_cores(parser: argparse.ArgumentParser) -> None:
    """Add --cores."""
    parser.add_argument(
        "--cores",
        type=count_or_all,
        default="all",
        help="number of CPU cores that jobs may use at a time (default: all)",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """--results."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="folder of the workflow's results (default: %(default)s)",
    )


def add_example(parser: argparse.ArgumentParser) -> None:
    """Add --input and --tokens: the random inputs on which `run_on_example` runs a network."""
    parser.add_argument(
        "--input",
        type=example_input,
        action="append",
        metavar="[NAME=]N,...[:VALUES]",
        help="shape of an input (default: 2,3,32,32), with the name of the argument for inputs passed by name; VALUES "
        "are whole numbers, such as 0..999, or bool (default: normally distributed numbers); may be repeated",
    )
    parser.add_argument("--tokens", type=count, metavar="N", help="the one input is whole numbers below N, not pixels")


def add_data(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --data, and the resizing and normalisation of its images."""
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="a folder with train/<class>/<image> and test/<class>/<image>, a .npz with x_train, y_train, x_test and "
        "y_test, or a dataset of the config",
    )
    group.add_argument("--size", type=count, help="resize images to this height and width (default: not resized)")
    group.add_argument(
        "--mean",
        type=numbers,
        metavar="R,G,B",
        help="mean of pixels in [0, 1] with which NETWORK was trained (default: of the data)",
    )
    group.add_argument("--std", type=numbers, metavar="R,G,B", help="standard deviation, likewise")
    group.add_argument("--no-normalise", action="store_true", help="NETWORK takes pixels in [0, 1] as they are")


def add_inside(parser: argparse.ArgumentParser) -> None:
    """Add --inside: where in checkpoints the tensors of the network are."""
    parser.add_argument(
        "--inside",
        metavar="WHERE",
        help="where in the checkpoints the tensors of the network are, such as model_ema (default: the only place)",
    )


def count(text: str) -> int:
    """A type for argparse: a whole number from 1."""
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, a whole number from 1 is needed")
    return int(text)


def count_or_all(text: str) -> str:
    """A type for argparse: a whole number from 1, or `all`, as text."""
    if text != "all" and not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, a whole number from 1 or `all` is needed")
    return text


def noise_level(text: str) -> float:
    """A type for argparse: a finite number from 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, a number from 0 is needed")
    return number


def numbers(text: str) -> list[float]:
    """A type for argparse: numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, numbers such as 0.485,0.456,0.406 are needed") from None


def sizes(text: str) -> list[int]:
    """A type for argparse: the shape of an input, batch axis first."""
    shape = [count(part) for part in text.split(",")]
    if len(shape) < 2:
        raise argparse.ArgumentTypeError(f"found {text!r}, a shape such as 1,3,32,32 is needed")
    return shape


class ExampleInput(NamedTuple):
    """One input of a network, to be drawn at random."""

    shape: list[int]
    name: str = ""  # of the argument; "" if it is passed by position
    values: tuple[int, int] | None = None  # smallest and largest whole number; None: normally distributed numbers
    is_bool: bool = False


DEFAULT_INPUT = [ExampleInput([2, 3, 32, 32])]


def example_input(text: str) -> ExampleInput:
    """A type for argparse: one input of a network, such as `1,3,64,64` or `input_ids=1,16:0..999`."""
    parts = re.fullmatch(r"(?:([A-Za-z_]\w*)=)?([^=:]*)(?::(?:(bool)|([0-9]{1,18})\.\.([0-9]{1,18})))?", text)
    if not parts or (parts[4] and int(parts[4]) > int(parts[5])):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, an input such as 1,3,64,64, tokens=1,16:0..999 or mask=1,16:bool is needed"
        )
    name, shape, is_bool, smallest, largest = parts.groups()
    numbers = [count(part) for part in shape.split(",")] if name else sizes(shape)
    return ExampleInput(numbers, name or "", (int(smallest), int(largest)) if smallest else None, bool(is_bool))


def image_shape(text: str) -> tuple[int, int, int]:
    """A type for argparse: channels, height, width."""
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"found {text!r}, channels,height,width are needed, such as 3,32,32")
    return count(parts[0]), count(parts[1]), count(parts[2])


def workflow_file(name: str) -> Path:
    """A file of the workflow. Raises UsageError for a copy of the package that is without it."""
    path = WORKFLOW / name
    if not path.is_file():
        raise UsageError(f"no {path}: this copy of neuralign lacks its workflow; install the wheel, or a checkout")
    return path


def folder_config() -> list[Path]:
    """config.yaml of the working directory, if that is a folder made by `neuralign init`; else nothing."""
    config, snakefile = Path("config.yaml"), Path("Snakefile")
    if not (config.is_file() and snakefile.is_file()) or WORKFLOW.samefile(Path()):
        return []
    return [config] if "neuralign" in snakefile.read_text() else []


def load_config(arguments: argparse.Namespace) -> Config:
    """The default config, and laid over it that of the folder and the files of --configfile; {} without any of them."""
    return read_config(_config_files(arguments))


def load_catalogue(arguments: argparse.Namespace) -> Catalogue:
    """The catalogue of `load_config`. Raises ConfigError, whose problems have the files and lines of their keys."""
    try:
        return Catalogue(load_config(arguments))
    except ConfigError as error:
        raise with_lines(error, _config_files(arguments)) from None


def _config_files(arguments: argparse.Namespace) -> list[Path]:
    if missing := [f for f in arguments.configfile if not f.is_file()]:
        raise UsageError(f"--configfile: no such file as {missing[0]}")
    default = WORKFLOW / "config.yaml"
    return [*([default] if default.is_file() else []), *folder_config(), *arguments.configfile]


def check_study(catalogue: Catalogue, study: str) -> None:
    """Raise `UsageError` if the config has no study of this name."""
    if study not in catalogue.studies:
        raise UsageError(f"no study {study!r} in the config (allowed: {', '.join(catalogue.studies)})")


def network_entry(arguments: argparse.Namespace, config: Config) -> tuple[str, Config]:
    """(the name, the entry) of NETWORK for the section `networks` of a config."""
    network, options = arguments.network, dict(map(_parse_option, arguments.option))
    values = {"input_size": "size", "mean": "mean", "std": "std"}  # key of the entry -> name of the argument
    keys = {key: getattr(arguments, name) for key, name in values.items() if getattr(arguments, name, None) is not None}
    if is_hub(network):
        return _unused_name(parse(network).name, config, "networks"), {"use": network, "options": options, **keys}
    if is_foreign(network):
        module, _, attribute = network.rpartition(":")
        use = f"{Path(module).absolute()}:{attribute}" if module.endswith(".py") else network
        return _unused_name(attribute, config, "networks"), {"use": use, "options": options, **keys}
    entries = config.get("networks") or {}
    if network not in entries:
        raise UsageError(
            f"NETWORK: found {network!r}; package.module:name, folder/file.py:name, a name of a hub or a network of "
            f"the config is needed ({', '.join(entries) or 'it has none'})"
        )
    entry = {"use": network, **(entries[network] or {})}
    changes = {"options": {**entry.get("options", {}), **options}} if is_foreign(entry["use"]) else options
    return network, {**entry, **changes, **keys}


def dataset_entry(arguments: argparse.Namespace, config: Config) -> tuple[str, Config]:
    """(the name, the entry) of --data for the section `datasets` of a config."""
    data, path, entries = arguments.data, Path(arguments.data), config.get("datasets") or {}
    if data in entries:
        return data, {"use": data, **(entries[data] or {})}
    if path.is_dir():
        return _unused_name(path.absolute().name, config, "datasets"), {"use": "folder", "path": str(path.absolute())}
    if path.suffix == ".npz" and path.is_file():
        return _unused_name(path.stem, config, "datasets"), {"use": "npz", "path": str(path.absolute())}
    raise UsageError(
        f"--data: found {data!r}; a folder, a .npz file or a dataset of the config is needed ({', '.join(entries)})"
    )


def alignment_plugins(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Config]:
    """{name: `use` and options of its plug-in} of alignments of the config.

    Keys of all alignments, such as `start`, are left out: only the workflow can do what they say.
    """
    config = load_config(arguments)
    entries = {name: entry for name, entry in (config.get("alignments") or {}).items() if entry is not None}
    c, plugins = extended_catalogue(config, {}), {}
    for name in names:
        if name not in entries:
            raise UsageError(f"no alignment {name!r} in the config (allowed: {', '.join(entries)})")
        entry = c.entry("alignments", name)
        plugins[name] = {key: value for key, value in entry.items() if key not in AlignmentKeys.model_fields}
    return plugins


def build_network(arguments: argparse.Namespace, channels: int, classes: int = CLASSES, device: str = "cpu") -> Any:
    """NETWORK as a model on `device`, with weights of seed 0 and without normalisation.

    `classes` are those of a network of the config; a callable has its own default.
    """
    import torch

    from neuralign.networks.model import build

    config = load_config(arguments)
    name, entry = network_entry(arguments, config)
    c = extended_catalogue(config, {"networks": {name: entry}})
    plugin = {k: v for k, v in c.entry("networks", name).items() if k not in NetworkKeys.model_fields}
    torch.manual_seed(0)
    with torch.device(device):
        return build(plugin, classes=None if is_foreign(plugin["use"]) else classes, channels=channels)


def example_inputs(arguments: argparse.Namespace) -> Any:
    """The random inputs of --input and --tokens, from seed 0: a tensor, a list of several, a mapping of named ones."""
    import torch

    from neuralign.common.seeding import stream
    from neuralign.datasets.batches import count_examples

    inputs = _described_inputs(arguments)
    names = [given.name for given in inputs]
    if any(names) and (not all(names) or len(set(names)) < len(names)):
        found = ", ".join(name or "one without a name" for name in names)
        raise UsageError(f"--input: found {found}; either every input or none has a name, and each another")
    draws = stream(0, "example input")

    def draw(given: ExampleInput) -> torch.Tensor:
        if given.is_bool:
            return torch.randint(2, given.shape, generator=draws).bool()
        if given.values:
            return torch.randint(given.values[0], given.values[1] + 1, given.shape, generator=draws)
        return torch.randn(given.shape, generator=draws)

    tensors = list(map(draw, inputs))
    count_examples(tensors)  # raises UserError if they differ in it
    return dict(zip(names, tensors, strict=True)) if any(names) else tensors if len(tensors) > 1 else tensors[0]


def _described_inputs(arguments: argparse.Namespace) -> list[ExampleInput]:
    """The inputs of --input, with the values of --tokens."""
    inputs: list[ExampleInput] = arguments.input or DEFAULT_INPUT
    if not arguments.tokens:
        return inputs
    if len(inputs) > 1 or inputs[0].name or inputs[0].values or inputs[0].is_bool:
        raise UsageError("--tokens: it is for one --input of a shape alone; write NAME=N,...:0..999 instead")
    return [inputs[0]._replace(values=(0, arguments.tokens - 1))]


def example_shapes(arguments: argparse.Namespace) -> Any:
    """The shape of the one input of --input, or the shapes of several as a list, of named ones as {name: shape}."""
    inputs = arguments.input or DEFAULT_INPUT
    if inputs[0].name:
        return {given.name: given.shape for given in inputs}
    return [given.shape for given in inputs] if len(inputs) > 1 else inputs[0].shape


def run_on_example(arguments: argparse.Namespace, action: Any, device: str = "cpu") -> Any:
    """The value of `action(network, example, attention=...)`, on NETWORK and random inputs, both from seed 0.

    Where inputs are whole numbers, a network of the config has a class for each of them, for they are its tokens.
    """
    import torch

    from neuralign.datasets.batches import move, tensors_of
    from neuralign.networks.foreign_networks import NetworkError, summary
    from neuralign.networks.model import evaluation_outputs

    example = move(example_inputs(arguments), torch.device(device))
    shape = next(tensors_of(example)).shape
    classes = max((given.values[1] + 1 for given in _described_inputs(arguments) if given.values), default=CLASSES)
    network = build_network(arguments, shape[1] if len(shape) > 1 else 1, classes, device).network
    evaluation_outputs(network, example)  # raises UserError if the network does not take these inputs
    try:
        return action(network, example, attention=arguments.attention)
    except UserError:
        raise
    except Exception as error:  # it runs code of the user, which may raise anything
        raise NetworkError(f"{arguments.network}: the tracer cannot run it: {summary(error)}") from error


def alignment_entry(arguments: argparse.Namespace, config: Config) -> tuple[str, dict[str, Config]]:
    """(the name of the alignment for --method, the entries to lay over the section `alignments` for it).

    With --attention this is a copy of the entry of the config with `attention: true`.
    """
    name = arguments.method
    entry = (config.get("alignments") or {}).get(name)
    if not arguments.attention or entry is None:
        return name, {}
    return f"{name}_attention", {f"{name}_attention": {"use": name, **entry, "attention": True}}


def checkpoint_entries(arguments: argparse.Namespace, files: Iterable[str]) -> dict[str, Config]:
    """{name: entry} for checkpoint files in the section `checkpoints`, in their order, named after the files."""
    entries: dict[str, Config] = {}
    for file in files:
        path = Path(file)
        if not is_hub(file):
            checkpoint_files(file)  # raises UserError if it does not exist or is no checkpoint
        entry = {"file": location(file)} | ({"inside": arguments.inside} if arguments.inside else {})
        stem = parse(file).with_tag if is_hub(file) else path.parent.name if path.name.endswith(INDEX) else path.stem
        name = stem = config_name(stem)
        for i in range(2, 1000):
            if entries.get(name, entry) == entry:
                break
            name = f"{stem}_{i}"
        entries[name] = entry
    return entries


def location(file: str) -> str:
    """The absolute path of a checkpoint file, or the name of one of a hub, as the config has it."""
    return file if is_hub(file) else str(Path(file).absolute())


def file_digests(file: str) -> dict[str, Any]:
    """A checkpoint's file with its digest, or with the digests of its index and shards; of a hub also its revision."""
    if is_hub(file):
        from neuralign.networks.foreign_checkpoints import locate

        return locate(file)[1]
    files = checkpoint_files(file).files
    if len(files) == 1:
        return {"file": file, "sha256": sha256(files[0])}
    return {"file": file, "shards": {shard.name: sha256(shard) for shard in files}}


def config_name(text: str) -> str:
    """`text`, changed so that every section of the config accepts it as a name."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", text)
    return name if re.match("[A-Za-z]", name) else f"n{name}"


def _unused_name(text: str, config: Config, section: str) -> str:
    """A name made from `text` that no entry of the section has; entries of the same name would be merged."""
    name = config_name(text)
    while name in (config.get(section) or {}):
        name = f"my_{name}"
    return name


def extended_catalogue(config: Config, overlay: Mapping[str, Any]) -> Catalogue:
    """The catalogue of a config with an overlay. Raises ConfigError."""
    merged = json.loads(json.dumps(config))
    lay_over(merged, overlay)
    return Catalogue(merged)


def regime_entry(*, normalise: bool, training: Config | None = None) -> Config:
    """The entry REGIME of the section `regimes`. Without `training`, for commands that train nothing."""
    training = training or {"epochs": 1, "batch_size": 1, "lr": 1.0}
    return {"endpoint": dict(training), "curve": dict(training), "normalise": normalise}


def _parse_option(text: str) -> tuple[str, Any]:
    """(name, value) of the text NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise UsageError(f"--option: found {text!r}, NAME=VALUE is needed, such as num_classes=10")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
