"""The entries of a config that stand for what the options of a command say. Torch-free."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralign.cli.configs import Config, UsageError, extended_catalogue
from neuralign.cli.inner_parts import inner_parts
from neuralign.cli.interface.options import ImageOptions, NetworkOptions
from neuralign.common.files import sha256
from neuralign.common.shards import INDEX, checkpoint_files
from neuralign.config.checking.hub_names import parse
from neuralign.config.problems import did_you_mean
from neuralign.config.references import ObjectError, is_foreign, is_hub
from neuralign.config.schema import AlignmentKeys, NetworkKeys
from neuralign.config.signatures import is_known, names, schema

REGIME = "command_line"  # name of the regime with what the options say of training and normalisation
NO_IMAGES = ImageOptions()  # of commands without data


def network_entry(network: NetworkOptions, config: Config, images: ImageOptions = NO_IMAGES) -> tuple[str, Config]:
    """(the name, the entry) of NETWORK for the section `networks` of a config."""
    name, options = network.network, dict(map(_parse_option, network.option or ()))
    _check_normalisation(images)
    values = {"input_size": images.size, "mean": images.mean, "std": images.std}
    keys = {key: value for key, value in values.items() if value is not None}
    if is_hub(name):
        return _unused_name(parse(name).name, config, "networks"), {"use": name, "options": options, **keys}
    if is_foreign(name):
        module, _, attribute = name.rpartition(":")
        use = f"{Path(module).absolute()}:{attribute}" if module.endswith(".py") else name
        return _unused_name(attribute, config, "networks"), {"use": use, "options": options, **keys}
    entries = config.get("networks") or {}
    if name not in entries:
        raise UsageError(
            f"NETWORK: found {name!r}; package.module:name, folder/file.py:name, a name of a hub or a network of the "
            f"config is needed ({', '.join(entries) or 'it has none'})"
        )
    entry = {"use": name, **(entries[name] or {})}
    changes = {"options": {**entry.get("options", {}), **options}} if is_foreign(entry["use"]) else options
    return name, {**entry, **changes, **keys}


def network_plugin(network: NetworkOptions, config: Config) -> Config:
    """`use` and options of NETWORK, where no data say more."""
    name, entry = network_entry(network, config)
    c = extended_catalogue(config, {"networks": {name: entry}})
    return {key: value for key, value in c.entry("networks", name).items() if key not in NetworkKeys.model_fields}


def network_as_given(network: NetworkOptions, plugin: Config) -> Config:
    """`use` and options of NETWORK for a reader: code of the user by the name that the user gave it."""
    return {**plugin, "use": network.network} if is_foreign(network.network) else plugin


def data_as_given(data: str, config: Config) -> Config:
    """The entry of --data for a reader: files of the user by the path that the user gave them."""
    entry = dataset_entry(data, config)[1]
    return entry if data in (config.get("datasets") or {}) else {**entry, "path": data}


def dataset_entry(data: str, config: Config) -> tuple[str, Config]:
    """(the name, the entry) of --data for the section `datasets` of a config."""
    path, entries = Path(data), config.get("datasets") or {}
    if data in entries:
        return data, {"use": data, **(entries[data] or {})}
    if path.is_dir():
        return _unused_name(path.absolute().name, config, "datasets"), {"use": "folder", "path": str(path.absolute())}
    if path.suffix == ".npz" and path.is_file():
        return _unused_name(path.stem, config, "datasets"), {"use": "npz", "path": str(path.absolute())}
    raise UsageError(
        f"--data: found {data!r}; a folder, a .npz file or a dataset of the config is needed ({', '.join(entries)})"
    )


def augmentations(data: str | None, config: Config) -> list[Config]:
    """The entries of the augmentations of --data. Raises UsageError if there are none."""
    augment: list[Config] = (dataset_entry(data, config)[1].get("augment") if data else None) or []
    if not augment:
        raise UsageError("--augmented: needs --data with a dataset of the config that has `augment`")
    return augment


def alignment_entry(
    option: str, given: str, config: Config, *, attention: bool = False, also: Sequence[str] = ()
) -> tuple[str, dict[str, Config]]:
    """(the name of the alignment that an option says, the entries to lay over the section `alignments` for it).

    It is an entry of the config, else a plug-in by its name, else the user's `./file.py:name` or `package.module:name`.
    With `attention` it is a copy with `attention: true`. Raises UsageError if it is none of these. `also`: other values
    of the option, for the message.
    """
    extended_catalogue(config, {})  # raises ConfigError if the section is no mapping of mappings
    entries = {name: entry for name, entry in (config.get("alignments") or {}).items() if entry is not None}
    if given in entries:
        name, new, entry = given, False, {"use": given, **entries[given]}
    elif is_known("alignments", given):
        name, new, entry = _unused_name(given.rpartition(":")[2], config, "alignments"), True, {"use": given}
        try:
            schema("alignments", given)
        except ObjectError as error:
            raise UsageError(f"{option}: {error}") from error
    else:
        allowed = list(dict.fromkeys([*also, *entries, *names("alignments")]))
        raise UsageError(
            f"{option}: found {given!r}{did_you_mean(given, allowed)} (allowed: {', '.join(allowed)}, ./file.py:name "
            "and package.module:name)"
        )
    if attention:
        return f"{name}_attention", {f"{name}_attention": {**entry, "attention": True}}
    return name, {name: entry} if new else {}


def alignment_plugins(option: str, given: Iterable[str], config: Config) -> dict[str, Config]:
    """{what is given: `use` and options of its plug-in} of the alignments that an option says (`alignment_entry`).

    Keys of all alignments, such as `start`, are left out: only the workflow can do what they say.
    """
    return {text: _parts_of_alignment(option, text, config)[0] for text in given}


def lone_alignment(
    option: str, given: str, config: Config, *, attention: bool, also: Sequence[str]
) -> dict[str, Config]:
    """As `alignment_plugins`, of one alignment that is to be all that its entry says; {} for one of the words `also`.

    Raises UsageError if its entry has a key that only the workflow can do, or permutes heads without `attention`.
    """
    if given in also:
        return {}
    plugin, common = _parts_of_alignment(option, given, config, also)
    for key in ("start", "augmented", "attacked"):
        if common[key]:
            raise UsageError(
                f"{option}: {given!r} has {key!r} in the config, which only align, connect and studies do; one without "
                "is needed here"
            )
    if common["attention"] and not attention:
        raise UsageError(f"{option}: {given!r} has `attention: true` in the config; --attention is needed with it")
    return {given: plugin}


def _parts_of_alignment(option: str, given: str, config: Config, also: Sequence[str] = ()) -> tuple[Config, Config]:
    """(`use` and options of the plug-in, keys that all alignments have) of the alignment that an option says."""
    name, overlay = alignment_entry(option, given, config, also=also)
    entry = extended_catalogue(config, {"alignments": overlay}).entry("alignments", name)
    common = {key: entry.pop(key) for key in AlignmentKeys.model_fields}
    return entry, common


def checkpoint_entries(files: Sequence[str], inside: str | None) -> dict[str, Config]:
    """{name: entry} for checkpoint files in the section `checkpoints`, in their order, named after the files."""
    entries: dict[str, Config] = {}
    for file in files:
        if not is_hub(file):
            checkpoint_files(file)  # raises UserError if it does not exist or is no checkpoint
    for file, part in zip(files, inner_parts(files, inside), strict=True):
        path = Path(file).absolute()
        entry = {"file": location(file)} | ({"inside": part} if part else {})
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


def _check_normalisation(images: ImageOptions) -> None:
    """Raise UsageError unless --mean and --std have equally many numbers."""
    found = [len(numbers or ()) for numbers in (images.mean, images.std)]
    if found[0] != found[1]:
        raise UsageError(f"--mean, --std: found {found[0]} and {found[1]} numbers; each needs one for every channel")


def _unused_name(text: str, config: Config, section: str) -> str:
    """A name made from `text` that no entry of the section has; entries of the same name would be merged."""
    name = config_name(text)
    while name in (config.get(section) or {}):
        name = f"my_{name}"
    return name


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
