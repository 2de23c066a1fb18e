"""A merged network as a file for other programs: an ordinary state_dict, and a card that says what it is."""

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.common.files import atomic
from neuralign.common.tensors import save_when_computed
from neuralign.networks.model import State

SUFFIXES = (".safetensors", ".pt", ".pth")


def check_suffix(path: Path, argument: str) -> None:
    """Raise UserError, which names the argument, unless a checkpoint can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{argument}: found {path}; .safetensors, .pt or .pth is needed")


def write_checkpoint(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a state_dict as safetensors or by torch.save, by the suffix of `path`; PyTorch alone can load it."""
    if path.suffix == ".safetensors":
        save_when_computed(tensors, path)
        return
    with atomic(path) as temporary:
        torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)


def network_with(network: nn.Module, state: State) -> nn.Module:
    """A copy of the network, in its mode, with the tensors of a state."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in chain(twin.named_parameters(), twin.named_buffers()):
            tensor.copy_(state[name])
    return twin


def write_card(path: Path, network: str, inputs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Path:
    """Write the card of the checkpoint at `path` beside it, as `<name>.md`, and return where it is.

    Args:
        path: of the checkpoint.
        network: what builds the network.
        inputs: {name, and what else is known: file, digest} of each network that was merged.
        report: of the merge, as of `neuralign.api.merge`.
    """
    card = path.with_name(f"{path.name}.md")
    with atomic(card) as temporary:
        temporary.write_text(_card(path, network, inputs, report))
    return card


def _card(path: Path, network: str, inputs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> str:
    name = path.name
    lines = [f"# {name}", "", f"A merge of {len(inputs)} networks, made by neuralign. {_capital(report['sentence'])}."]
    lines += ["", "## What it was made of", ""]
    for weight, given in zip(report["shares"], inputs, strict=True):
        details = ", ".join(f"{key} `{value}`" for key, value in given.items() if key != "name")
        lines.append(f"* {given['name']}, weight {weight:.6g}" + (f": {details}" if details else ""))
    lines += ["", "## How", "", f"* network: `{network}`", f"* alignment to {inputs[0]['name']}: {_method(report)}"]
    lines.append(f"* repair: {report['repair']}")
    lines.append(f"* data: {_data(report)}")
    change = f"the alignment changes outputs and gradients by at most {report['certificate']:.1e} of their size"
    lines += [f"* certificate: {change}; the merge itself is another function", "", "## Measured", ""]
    lines += _table(inputs, report) if "merged" in report else ["Nothing, for there were no labelled data."]
    lines += ["", "## How to load it", "", "```python", *_loading(name), "```", ""]
    return "\n".join(lines)


def _method(report: Mapping[str, Any]) -> str:
    frame = f", in one frame of all networks by the cohort method {report['cohort']}" if report["cohort"] else ""
    return f"{report['method']}{frame}"


def _data(report: Mapping[str, Any]) -> str:
    counts = report["examples"]
    if not counts:
        return "none; the weights alone were compared"
    used = f"{counts['fit']} examples to align and repair, {counts['validation']} to choose between methods"
    return f"{used}; {'labels were used' if report['data'] == 'labels' else 'no labels'}"


def _table(inputs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> list[str]:
    """A table of all metrics, as lines of Markdown."""
    rows = {given["name"]: row for given, row in zip(inputs, report["inputs"], strict=True)}
    rows |= {"merge": report["merged"]} | (
        {"ensemble of the inputs": report["ensemble"]} if "ensemble" in report else {}
    )
    columns = list(report["merged"])
    lines = [f"On n = {report['n']} {report['measured_on']} examples:", "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.4g}" if c in row else "" for c in columns) + " |")
    return lines


def _loading(name: str) -> list[str]:
    """Code that loads the checkpoint without this library."""
    if name.endswith(".safetensors"):
        return ["from safetensors.torch import load_file", "", f'network.load_state_dict(load_file("{name}"))']
    return ["import torch", "", f'network.load_state_dict(torch.load("{name}", weights_only=True))']


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
