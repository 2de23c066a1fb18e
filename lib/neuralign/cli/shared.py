"""What the commands share: the options for a network and its data, and the config that these make. Torch-free."""

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.common.shards import INDEX, checkpoint_files
from neuralign.config.catalogue import Catalogue
from neuralign.config.files import lay_over, read_config
from neuralign.config.references import is_object
from neuralign.config.schema import AlignmentKeys, NetworkKeys

CHECKOUT = PACKAGE.parents[1]  # of the repository, with its workflow and its config
REGIME = "command_line"  # how networks are trained and normalised that a command is about
Config = dict[str, Any]


class UsageError(UserError):
    """Arguments that do not go together, or name what there is not."""


def add_network(parser: argparse.ArgumentParser) -> None:
    """NETWORK and what may be said of it."""
    parser.add_argument(
        "network", metavar="NETWORK", help="package.module:name, folder/file.py:name, or one of the config"
    )
    group = parser.add_argument_group("the network")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword argument of NETWORK, the value as JSON (else text); may be repeated",
    )
    group.add_argument("--attention", action="store_true", help="also permute heads of attentions and channels within")
    add_configfile(parser)


def add_configfile(parser: argparse.ArgumentParser) -> None:
    """--configfile, which `config` reads."""
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="laid over config.yaml of the checkout, one after the other, as Snakemake does",
    )


def add_example(parser: argparse.ArgumentParser) -> None:
    """The input that a network is run on, which `example` makes."""
    parser.add_argument(
        "--input", type=sizes, default=[2, 3, 32, 32], metavar="N,...", help="its shape (default: 2,3,32,32)"
    )
    parser.add_argument("--tokens", type=count, metavar="N", help="the input are whole numbers below N")


def add_data(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--data, and how the network sees it."""
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="a folder with train/<class>/<image> and test/<class>/<image>, a .npz with x_train, y_train, x_test and "
        "y_test, or a dataset of the config",
    )
    group.add_argument("--size", type=count, help="resize images to this side; left out: as they are")
    group.add_argument(
        "--mean",
        type=numbers,
        metavar="R,G,B",
        help="of pixels in 0 .. 1, as NETWORK was trained; left out: the data's",
    )
    group.add_argument("--std", type=numbers, metavar="R,G,B", help="likewise")
    group.add_argument("--no-normalise", action="store_true", help="NETWORK takes pixels in 0 .. 1 as they are")


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """Where in checkpoints a network lies."""
    parser.add_argument(
        "--inside", metavar="WHERE", help="where in the checkpoints the tensors are, if several places fit: model_ema"
    )


def count(text: str) -> int:
    """A type for argparse: a whole number from 1."""
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, a whole number from 1 is wanted")
    return int(text)


def level(text: str) -> float:
    """A type for argparse: a finite number from 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, a number from 0 is wanted")
    return found


def numbers(text: str) -> list[float]:
    """A type for argparse: numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, numbers such as 0.485,0.456,0.406 are wanted") from None


def sizes(text: str) -> list[int]:
    """A type for argparse: the shape of an input, batch first."""
    found = [count(part) for part in text.split(",")]
    if len(found) < 2:
        raise argparse.ArgumentTypeError(f"found {text!r}, a shape such as 1,3,32,32 is wanted")
    return found


def shape(text: str) -> tuple[int, int, int]:
    """A type for argparse: channels, height, width."""
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"found {text!r}, channels,height,width are wanted, such as 3,32,32")
    return count(parts[0]), count(parts[1]), count(parts[2])


def config(arguments: argparse.Namespace) -> Config:
    """The config of the checkout, and what --configfile lays over it; empty if there is neither."""
    if missing := [f for f in arguments.configfile if not f.is_file()]:
        raise UsageError(f"--configfile: no such file as {missing[0]}")
    own = CHECKOUT / "config.yaml"
    return read_config([*([own] if own.is_file() else []), *arguments.configfile])


def network(arguments: argparse.Namespace, known: Config) -> tuple[str, Config]:
    """A name for NETWORK, and its entry for the config."""
    given, options = arguments.network, dict(map(_option, arguments.option))
    keys = {"input_size": getattr(arguments, "size", None)}
    keys |= {key: getattr(arguments, key, None) for key in ("mean", "std")}
    keys = {key: value for key, value in keys.items() if value is not None}
    if is_object(given):
        place, _, attribute = given.rpartition(":")
        use = f"{Path(place).absolute()}:{attribute}" if place.endswith(".py") else given
        return _free(attribute, known, "networks"), {"use": use, "options": options, **keys}
    entries = known.get("networks") or {}
    if given not in entries:
        raise UsageError(
            f"NETWORK: found {given!r}; package.module:name, folder/file.py:name or a network of the config is wanted "
            f"({', '.join(entries) or 'which has none'})"
        )
    entry = {"use": given, **(entries[given] or {})}
    inner = {"options": {**entry.get("options", {}), **options}} if is_object(entry["use"]) else options
    return given, {**entry, **inner, **keys}


def data(arguments: argparse.Namespace, known: Config) -> tuple[str, Config]:
    """A name for --data, and its entry for the config."""
    given, path, entries = arguments.data, Path(arguments.data), known.get("datasets") or {}
    if given in entries:
        return given, {"use": given, **(entries[given] or {})}
    if path.is_dir():
        return _free(path.absolute().name, known, "datasets"), {"use": "folder", "path": str(path.absolute())}
    if path.suffix == ".npz" and path.is_file():
        return _free(path.stem, known, "datasets"), {"use": "npz", "path": str(path.absolute())}
    raise UsageError(
        f"--data: found {given!r}; a folder, a .npz file or a dataset of the config is wanted ({', '.join(entries)})"
    )


def methods(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Config]:
    """The entries of these alignments in the config, without what only a study can give them."""
    known = config(arguments)
    found = {name: entry for name, entry in (known.get("alignments") or {}).items() if entry is not None}
    c, out = catalogue(known, {}), {}
    for name in names:
        if name not in found:
            raise UsageError(f"no alignment {name!r} in the config (allowed: {', '.join(found)})")
        entry = c.entry("alignments", name)
        out[name] = {key: value for key, value in entry.items() if key not in AlignmentKeys.model_fields}
    return out


def build(arguments: argparse.Namespace, channels: int) -> Any:
    """NETWORK with fresh weights of seed 0 and no normalisation; its number of classes is its own default, or 10."""
    import torch

    from neuralign.networks.model import build

    known = config(arguments)
    name, entry = network(arguments, known)
    c = catalogue(known, {"networks": {name: entry}})
    found = {k: v for k, v in c.entry("networks", name).items() if k not in NetworkKeys.model_fields}
    torch.manual_seed(0)
    return build(found, classes=None if is_object(found["use"]) else 10, channels=channels)


def on_example(arguments: argparse.Namespace, action: Any) -> Any:
    """`action(network, example, attention=...)` on NETWORK with fresh weights and a random input of seed 0."""
    import torch

    from neuralign.common.seeding import stream
    from neuralign.networks.foreign_networks import NetworkError, summary
    from neuralign.networks.model import outputs

    network, draws = build(arguments, arguments.input[1]).network, stream(0, "example input")
    if arguments.tokens:
        example = torch.randint(arguments.tokens, arguments.input, generator=draws)
    else:
        example = torch.randn(arguments.input, generator=draws)
    outputs(network, example)  # refuses an input that it does not take
    try:
        return action(network, example, attention=arguments.attention)
    except UserError:
        raise
    except Exception as error:  # the code is anybody's, and so are its errors
        raise NetworkError(f"{arguments.network} cannot be run as it is traced: {summary(error)}") from error


def alignment(arguments: argparse.Namespace, known: Config) -> tuple[str, dict[str, Config]]:
    """A name for --method, and what is to be laid over the alignments of the config."""
    name = arguments.method
    entry = (known.get("alignments") or {}).get(name)
    if not arguments.attention or entry is None:
        return name, {}
    return f"{name}_attention", {f"{name}_attention": {"use": name, **entry, "attention": True}}


def checkpoints(arguments: argparse.Namespace, files: Iterable[str]) -> dict[str, Config]:
    """{name: entry} of checkpoint files, in their order, named after the files."""
    found: dict[str, Config] = {}
    for file in files:
        entry = {"file": str(Path(file).absolute())} | ({"inside": arguments.inside} if arguments.inside else {})
        checkpoint_files(file)  # refuses what is not there, or no checkpoint by its first bytes
        path = Path(file).absolute()
        name = stem = label(path.parent.name if path.name.endswith(INDEX) else path.stem)
        for i in range(2, 1000):
            if found.get(name, entry) == entry:
                break
            name = f"{stem}_{i}"
        found[name] = entry
    return found


def label(text: str) -> str:
    """A name that the config accepts for anything, also for a checkpoint."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "_", text)
    return plain if re.match("[A-Za-z]", plain) else f"n{plain}"


def _free(text: str, known: Config, section: str) -> str:
    """A name that no entry of the config has, into which this one would be merged."""
    name = label(text)
    while name in (known.get(section) or {}):
        name = f"my_{name}"
    return name


def catalogue(known: Config, overlay: Mapping[str, Any]) -> Catalogue:
    """The config with an overlay, checked."""
    merged = json.loads(json.dumps(known))
    lay_over(merged, overlay)
    return Catalogue(merged)


def regime(normalise: bool, training: Config | None = None) -> Config:
    """Of what is asked on the command line; without `training` nothing is trained."""
    training = training or {"epochs": 1, "batch_size": 1, "lr": 1.0}
    return {"endpoint": dict(training), "curve": dict(training), "normalise": normalise}


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise UsageError(f"--option: found {text!r}, NAME=VALUE is wanted, such as num_classes=10")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
