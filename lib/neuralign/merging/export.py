"""A network as a file for other programs: an ordinary state_dict, and a card that says what it is."""

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.files import atomic
from neuralign.common.tensors import save_when_computed
from neuralign.networks.model import Model, State

UNLABELLED = "Nothing, for there were no labelled data."
SUFFIXES = (".safetensors", ".pt", ".pth")


def check_suffix(path: Path, argument: str) -> None:
    """Raise UserError, which names the argument, unless a checkpoint can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{argument}: found {path}; .safetensors, .pt or .pth is needed")


def card_path(path: Path) -> Path:
    """Where the card of the checkpoint at `path` is."""
    return path.with_name(f"{path.name}.md")


def write_checkpoint(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a state_dict as safetensors or by torch.save, by the suffix of `path`; PyTorch alone can load it."""
    if path.suffix == ".safetensors":
        save_when_computed(tensors, path)
        return
    with atomic(path) as temporary, temporary.open("wb") as file:  # by its path, a full disk would be no OSError
        torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def write_network(network: nn.Module, state: State, path: Path) -> None:
    """Write a state of the network as its state_dict has it: with all names of tied tensors, and what is saved only."""
    write_checkpoint(network_with(network, state).state_dict(), path)


def network_with(network: nn.Module, state: State) -> nn.Module:
    """A copy of the network, in its mode, with the tensors of a state."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in chain(twin.named_parameters(), twin.named_buffers()):
            tensor.copy_(state[name])
    return twin


def normalisation_of(model: Model) -> dict[str, Any]:
    """{"mean", "std": numbers of each channel} by which a model normalises pixels in [0, 1]; empty if it does not."""
    if model.mean is None or model.std is None:
        return {}
    return {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}


def describe_normalisation(normalisation: Mapping[str, Sequence[float]]) -> str:
    """A line of a card: how the network takes its inputs. `normalisation`: as of `normalisation_of`."""
    if not normalisation:
        return "inputs: as they are, without normalisation"
    mean, std = ([round(x, 6) for x in normalisation[name]] for name in ("mean", "std"))
    return f"inputs: pixels x in [0, 1], as (x - mean) / std with mean {mean} and std {std}"


def write_card(
    path: Path,
    network: str,
    inputs: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    prefix: str | None = "",
) -> Path:
    """Write the card of the merge at `path` beside it, as `<name>.md`, and return where it is.

    Args:
        path: of the checkpoint.
        network: what builds the network.
        inputs: {name, and what else is known: file, digest} of each network that was merged.
        report: of the merge, as of `neuralign.api.merge`.
        settings: what else it takes to make the merge again, which the card has as YAML.
        prefix: what the names of the checkpoint begin with, and the network's do not; None if they differ otherwise.
    """
    made_of = [_details(given, f", weight {share:.6g}") for share, given in zip(report["shares"], inputs, strict=True)]
    change = f"the alignment changes outputs and gradients by at most {report['certificate']:.1e} of their size"
    how = [
        f"network: `{network}`",
        *([describe_normalisation(report["normalisation"])] if report["examples"] else []),
        f"alignment to {inputs[0]['name']}: {_method(report)}",
        f"units that may be permuted: {report['units']}",
        f"repair: {report['repair']}",
        f"data: {_data(report)}",
        f"certificate: {change}; the merge itself is another function",
    ]
    return _write_card(path, f"A merge of {len(inputs)} networks", made_of, how, inputs, report, settings, prefix)


def write_point_card(
    path: Path,
    how: Sequence[str],
    settings: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
) -> Path:
    """Write the card of a network on a curve, as `write_card` does.

    Args:
        path: of the checkpoint.
        how: lines on how it was made.
        settings: of the network and the curve, which the card has as YAML.
        inputs: {name, and what else is known: file, digest} of the networks at the ends.
        report: of its measurement, as of `merging.verdict.judge`.
    """
    made_of = [_details(given) for given in inputs]
    return _write_card(path, "A network on a trained curve", made_of, how, inputs, report, settings)


def _write_card(
    path: Path,
    what: str,
    made_of: Sequence[str],
    how: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    prefix: str | None = "",
) -> Path:
    sentence = report["sentence"]
    lines = [f"# {path.name}", "", f"{what}, made by neuralign. {sentence[0].upper()}{sentence[1:]}."]
    for title, items in {"What it was made of": made_of, "How": how}.items():
        lines += ["", f"## {title}", "", *(f"* {item}" for item in items)]
    if settings:
        lines += ["", "## Settings", "", "```yaml", *yaml.safe_dump(settings, sort_keys=False).splitlines(), "```"]
    lines += ["", "## Measured", ""]
    lines += _measured([i["name"] for i in inputs], report) if "merged" in report else [UNLABELLED]
    lines += ["", "## How to load it", "", "```python", *_loading(path.name, prefix), "```", ""]
    card = card_path(path)
    with atomic(card) as temporary:
        temporary.write_text("\n".join(lines))
    return card


def _details(given: Mapping[str, Any], more: str = "") -> str:
    """The name of a network with what else is known of it; mappings, such as digests of shards, are a list below."""
    known = {key: value for key, value in given.items() if key != "name"}
    details = ", ".join(f"{key} `{value}`" for key, value in known.items() if not isinstance(value, Mapping))
    below = [f"  * `{k}`: `{v}`" for value in known.values() if isinstance(value, Mapping) for k, v in value.items()]
    return "\n".join([f"{given['name']}{more}" + (f": {details}" if details else ""), *below])


def _method(report: Mapping[str, Any]) -> str:
    heads = ", also of heads" if report["attention"] and report["method"] != "none" else ""
    frame = f", in one frame of all networks by the cohort method {report['cohort']}" if report["cohort"] else ""
    return f"{report['method']}{heads}{frame}"


def _data(report: Mapping[str, Any]) -> str:
    counts = report["examples"]
    if not counts:
        return "none; the weights alone were compared"
    used = f"{counts['fit']} examples to align and repair, {counts['validation']} to choose between methods"
    return f"{used}; {'labels were used' if report['data'] == 'labels' else 'no labels'}"


def metrics_table(names: Sequence[str], report: Mapping[str, Any]) -> list[list[str]]:
    """The metrics that `merging.verdict.judge` reports, as cells: a heading, and a row for each network and ensemble.

    `names`: of the inputs. The error is left out, for the accuracy says the same.
    """
    rows = [*zip(names, report["inputs"], strict=True), (report["what"], report["merged"])]
    rows += [("ensemble of the inputs", report["ensemble"])] if "ensemble" in report else []
    columns = [name for name in report["merged"] if name != "error"]
    return [["", *columns], *([name, *(f"{row[c]:.4g}" if c in row else "" for c in columns)] for name, row in rows)]


def _measured(names: Sequence[str], report: Mapping[str, Any]) -> list[str]:
    """The table of metrics as lines of Markdown, and on what they were measured."""
    heading, *rows = metrics_table(names, report)
    table = [heading, ["---"] * len(heading), *rows]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return [f"On n = {report['n']} {report['measured_on']} examples:", "", *lines]


def _loading(name: str, prefix: str | None) -> list[str]:
    """Code that loads the checkpoint without this library."""
    if name.endswith(".safetensors"):
        module, state = "from safetensors.torch import load_file", f'load_file("{name}")'
    else:
        module, state = "import torch", f'torch.load("{name}", weights_only=True)'
    if prefix is None:
        comment = (
            "# the names have wrappers in them, as in the first checkpoint: the network has to be wrapped likewise"
        )
        return [module, "", comment, f"network.load_state_dict({state})"]
    if not prefix:
        return [module, "", f"network.load_state_dict({state})"]
    renamed = f'{{name.removeprefix("{prefix}"): tensor for name, tensor in state.items()}}'
    return [module, "", f"state = {state}", f"network.load_state_dict({renamed})"]
