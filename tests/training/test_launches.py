"""On a pretended GPU, no step launches more kernels or waits more often than benchmarks/launches.csv says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks import launches, pretended_gpu
from benchmarks.launches import Action, per_step, steps
from benchmarks.problems import REGIME, Problem, pictures
from neuralign.datasets.images import as_is

STEPS = {(network, step): action for network, step, action in steps()}
RECORDED = launches.recorded()


# the other steps of ResNet32 run the same code as those of TinyTen
@pytest.mark.parametrize(
    "step", [s for s in STEPS if s[0] == "TinyTen" or s[1] in ("endpoint", "curve")], ids=", ".join
)
def test_no_step_launches_more_or_waits_more_often_than_recorded(step: tuple[str, str]) -> None:
    seen = per_step(STEPS[step])
    most_launches, most_waits = RECORDED[step]
    assert seen.launches.total() <= most_launches, f"if that is meant: python -m benchmarks.launches; {seen.launches}"
    assert seen.waits.total() <= most_waits, dict(seen.waits)
    assert not seen.float64


def test_every_step_is_recorded_and_nothing_else() -> None:
    assert RECORDED.keys() == STEPS.keys()


def test_no_step_waits_for_the_gpu() -> None:
    assert [step for step, (_, waits) in RECORDED.items() if waits] == []


class Planted(nn.Sequential):
    """A small network with a fault in its forward pass."""

    def __init__(self, fault: str):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "item":
            x = x * (1.0 if x.sum().item() > 0 else 2.0)
        if self.fault == "mask":
            x = x - x[x > 0].mean()
        if self.fault == "mixed":
            x = x + torch.ones(3, 1, 1)
        if self.fault == "float64":
            x = x.double().float()
        return super().forward(x)


def epochs(fault: str) -> Action:
    """Trains the planted network for an epoch of so many batches."""
    entry = {"use": f"{__name__}:Planted", "options": {"fault": fault}}
    regime = replace(REGIME, batch_size=launches.SIZE)

    def action(batches: int) -> None:
        images = pictures(launches.SIZE * batches, "cuda")
        Problem.of("planted", entry, "cuda").endpoint(images, regime, as_is)()

    return action


def test_a_network_without_a_fault_never_waits() -> None:
    assert not per_step(epochs("none")).waits


@pytest.mark.parametrize("fault, what", [("item", "_local_scalar_dense"), ("mask", "a mask as index")])
def test_a_wait_in_the_forward_pass_is_seen(fault: str, what: str) -> None:
    ((kind, place),) = per_step(epochs(fault)).waits
    assert kind == what and place.startswith("training/test_launches.py:")


def test_a_tensor_left_on_the_cpu_is_an_error() -> None:
    with pytest.raises(
        RuntimeError, match=r"cuda:0 \(2, 3, 32, 32\), cpu \(3, 1, 1\) in aten.add.Tensor, training/test"
    ):
        per_step(epochs("mixed"))


def test_large_tensors_in_float64_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    elements = launches.SIZE * 3 * 32 * 32
    monkeypatch.setattr(pretended_gpu, "MANY", elements)
    assert not per_step(epochs("float64")).float64
    monkeypatch.setattr(pretended_gpu, "MANY", elements - 1)
    ((operation, place),) = per_step(epochs("float64")).float64
    assert operation == "_to_copy" and place.startswith("training/test_launches.py:")
