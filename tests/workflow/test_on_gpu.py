"""Every rule, alignment method and library call on a pretended GPU, with the numbers of the CPU."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, pictures, randomised
from torch import Tensor, nn

from benchmarks.alignment import alignment_problem
from benchmarks.gpu import exact
from benchmarks.gpu.result import Result
from benchmarks.pretended_gpu import pretended_gpu
from neuralign.alignment.common_frame.cohort import Cohort, certificates
from neuralign.alignment.common_frame.objective import join
from neuralign.alignment.problem import certify
from neuralign.api import align, connect, evaluate
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.datasets.arrays import Arrays
from neuralign.datasets.images import Images
from neuralign.networks.model import Model
from neuralign.symmetry.tracing.trace import trace_model

CHEAP: dict[str, dict[str, Any]] = {
    "pam": {"epochs": 2, "batch_size": 6, "candidates": 4, "scoring_batches": 2, "rounds": 2, "bend_epochs": 1},
    "sinkhorn": {"steps": 2, "batch_size": 6, "iterations": 5},
    "straight_through": {"epochs": 1, "batch_size": 6, "scoring": 6},
}


def both(action: Callable[[str], Any]) -> list[Any]:
    """The results of an action on the CPU and on the GPU."""
    with pretended_gpu():
        return [action(device) for device in ("cpu", "cuda")]


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def test_every_rule_that_computes_with_networks(tmp_path: Path) -> None:
    result = Result("exact", tmp_path, {})
    with pretended_gpu() as seen:
        exact._every_rule(result, "cuda", quick=True)
    assert result.content["errors"] == []
    assert {check["what"].split()[1] for check in result.content["checks"] if not check["found"]} == {
        "align", "bound", "evaluate", "midpoint", "plane", "signature",
    }  # fmt: skip
    assert seen.launches.total() > 10_000


@pytest.mark.parametrize("use", plugins("alignments"))
def test_every_alignment_method(use: str) -> None:
    def aligned(device: str) -> dict[str, Tensor]:
        images = pictures(side=32)
        problem = alignment_problem(
            {"use": "tinyten", "width": 2}, Images(images.pixels.to(device), images.labels.to(device)), device
        )
        permutation = plugin("alignments", {"use": use, **CHEAP.get(use, {})})(problem)
        assert certify(problem, permutation) < 1e-9
        return on_cpu(permutation)

    assert_same(*both(aligned))


@pytest.mark.parametrize("use", plugins("cohorts"))
def test_every_alignment_of_several_networks(use: str) -> None:
    def aligned(device: str) -> dict[str, Tensor]:
        draws = torch.Generator().manual_seed(0)
        rows = torch.randn(12, 5, generator=draws, dtype=torch.float64).to(device)
        examples = Arrays(rows, torch.arange(12, device=device) % 3)
        layers = [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
        model = Model(nn.Sequential(*layers).double(), None, None).to(torch.device(device))
        states = [{n: t.to(device) for n, t in randomised(model.network, seed).items()} for seed in range(3)]
        inner = plugin("alignments", {"use": "correlation", "images": 6})
        cohort = Cohort(model, trace_model(model, examples), states, inner, examples)
        permutations = plugin("cohorts", {"use": use})(cohort)
        assert max(proof.error for proof in certificates(cohort, permutations)) < 1e-9
        return on_cpu(join(permutations))

    assert_same(*both(aligned))


def test_the_calls_of_the_library(tinyten: Model) -> None:
    network, images = tinyten.network, pictures()
    a, b = (randomised(network, seed) for seed in (1, 2))

    def computed(device: str) -> dict[str, Tensor]:
        moved = network.to(device)
        states = [{name: tensor.to(device) for name, tensor in state.items()} for state in (a, b)]
        here = Images(images.pixels.to(device), images.labels.to(device))
        aligned = align(moved, *states, here, "correlation")
        path = connect(moved, states[0], aligned.state, here, "bezier", epochs=2, batch_size=5)
        middle = path(0.5)
        assert {t.device.type for t in [*aligned.state.values(), *middle.values()]} == {device}
        return on_cpu(aligned.state) | {f"middle {name}": tensor for name, tensor in on_cpu(middle).items()}

    assert_same(*both(computed))


@pytest.mark.parametrize("network_on, states_on, images_on", [("cuda", "cpu", "cpu"), ("cpu", "cuda", "cuda")])
def test_the_calls_of_the_library_on_mixed_devices(
    tinyten: Model, network_on: str, states_on: str, images_on: str
) -> None:
    images = pictures()
    a, b = (randomised(tinyten.network, seed) for seed in (1, 2))
    expected = align(tinyten.network, a, b, images, "correlation").state
    with pretended_gpu():
        network = tinyten.network.to(network_on)
        states = [{name: tensor.to(states_on) for name, tensor in state.items()} for state in (a, b)]
        there = Images(images.pixels.to(images_on), images.labels.to(images_on))
        aligned = align(network, *states, there, "correlation")
        middle = connect(network, states[0], aligned.state, there, "bezier", epochs=1, batch_size=5)(0.5)
        assert all(torch.isfinite(t).all() for t in middle.values() if t.is_floating_point())
        actual = on_cpu(aligned.state)
    assert_same(actual, expected)


class Language(nn.Module):
    """A language model with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 11)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.hidden(self.embedding(input_ids)).relu())}


def test_batches_of_a_loader_are_moved_to_the_gpu() -> None:
    tokens = torch.randint(11, (24, 7), generator=torch.Generator().manual_seed(0))
    batches = [({"input_ids": part[:, :-1]}, part[:, 1:]) for part in tokens.split(8)]
    states = [randomised(Language(), seed) for seed in (1, 2)]

    def computed(device: str) -> dict[str, Tensor]:
        network = Language().to(device)
        aligned = align(network, *states, batches)
        middle = connect(network, states[0], aligned.state, batches, loss="next_token", epochs=2)(0.5)
        values = evaluate(network, middle, batches, loss="next_token")
        return on_cpu(middle) | {name: torch.tensor(value) for name, value in values.items()}

    assert_same(*both(computed))
