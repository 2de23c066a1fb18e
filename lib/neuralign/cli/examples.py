"""Runs a network on random inputs, which options describe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralign.cli.configs import UsageError, load_config
from neuralign.cli.entries import network_plugin
from neuralign.cli.interface.options import ExampleOptions, NetworkOptions
from neuralign.cli.interface.parsers import ExampleInput
from neuralign.common.errors import UserError
from neuralign.config.references import is_foreign

CLASSES = 10  # of a network of the config, where neither data nor tokens say how many
DEFAULT_INPUT = [ExampleInput([2, 3, 32, 32])]
ConfigFiles = Sequence[Path] | None


def build_network(
    network: NetworkOptions, configfile: ConfigFiles, channels: int, classes: int = CLASSES, device: str = "cpu"
) -> Any:
    """NETWORK as a model on `device`, with weights of seed 0 and without normalisation.

    `classes` are those of a network of the config; a callable has its own default.
    """
    import torch

    from neuralign.networks.model import build

    plugin = network_plugin(network, load_config(configfile))
    torch.manual_seed(0)
    with torch.device(device):
        return build(plugin, classes=None if is_foreign(plugin["use"]) else classes, channels=channels)


def example_inputs(example: ExampleOptions) -> Any:
    """The random inputs of --input and --tokens, from seed 0: a tensor, a list of several, a mapping of named ones."""
    import torch

    from neuralign.common.seeding import stream
    from neuralign.datasets.batches import count_examples

    inputs = _described_inputs(example)
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


def _described_inputs(example: ExampleOptions) -> list[ExampleInput]:
    """The inputs of --input, with the values of --tokens."""
    inputs = example.input or DEFAULT_INPUT
    if not example.tokens:
        return inputs
    if len(inputs) > 1 or inputs[0].name or inputs[0].values or inputs[0].is_bool:
        raise UsageError("--tokens: it is for one --input of a shape alone; write NAME=N,...:0..999 instead")
    return [inputs[0]._replace(values=(0, example.tokens - 1))]


def example_shapes(example: ExampleOptions) -> Any:
    """The shape of the one input of --input, or the shapes of several as a list, of named ones as {name: shape}."""
    inputs = example.input or DEFAULT_INPUT
    if inputs[0].name:
        return {given.name: given.shape for given in inputs}
    return [given.shape for given in inputs] if len(inputs) > 1 else inputs[0].shape


def run_on_example(
    network: NetworkOptions, configfile: ConfigFiles, options: ExampleOptions, action: Any, device: str = "cpu"
) -> Any:
    """The value of `action(network, example, attention=...)`, on NETWORK and random inputs, both from seed 0.

    Where inputs are whole numbers, a network of the config has a class for each of them, for they are its tokens.
    """
    import torch

    from neuralign.datasets.batches import move, tensors_of
    from neuralign.networks.foreign_networks import NetworkError, summary
    from neuralign.networks.model import evaluation_outputs

    example = move(example_inputs(options), torch.device(device))
    shape = next(tensors_of(example)).shape
    classes = max((given.values[1] + 1 for given in _described_inputs(options) if given.values), default=CLASSES)
    module = build_network(network, configfile, shape[1] if len(shape) > 1 else 1, classes, device).network
    evaluation_outputs(module, example)  # raises UserError if the network does not take these inputs
    try:
        return action(module, example, attention=network.attention)
    except UserError:
        raise
    except Exception as error:  # it runs code of the user, which may raise anything
        raise NetworkError(f"{network.network}: the tracer cannot run it: {summary(error)}") from error
