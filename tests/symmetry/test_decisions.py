"""Decisions: where Python reads values of a run, another input may take another branch."""

import copy
import ctypes
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from awkward import Net, conv
from torch import Tensor, nn

from neuralign.symmetry.explain import explain
from neuralign.symmetry.tracing.trace import trace

REASON = "the network reads a value that depends on its input"

# ways to read the first of some values, or how many of them are large
READS: dict[str, Callable[[Tensor], float]] = {
    "item": lambda y: y[0].item(),
    "float": lambda y: float(y[0]),
    "bool": lambda y: 1.0 if y[0] > 0.35 else 0.0,
    "numpy": lambda y: y.numpy()[0],
    "numpy of a copy": lambda y: y.detach().cpu().numpy()[0],
    "numpy by force": lambda y: y.numpy(force=True)[0],
    "numpy of a view": lambda y: y.view(-1, 2).numpy()[0, 0],
    "numpy of data": lambda y: y.data.numpy()[0],
    "tolist": lambda y: y.tolist()[0],
    "asarray": lambda y: np.asarray(y)[0],
    "array": lambda y: np.array([y.numpy()])[0, 0],
    "dlpack": lambda y: np.from_dlpack(y)[0],
    "memory": lambda y: ctypes.c_float.from_address(y.data_ptr()).value,
    "memoryview": lambda y: memoryview(y.numpy())[0],
    "and back": lambda y: torch.from_numpy(y.numpy().copy())[0].item(),
    "pickle": lambda y: pickle.loads(pickle.dumps(y))[0].item(),
    "deepcopy": lambda y: copy.deepcopy(y)[0].item(),
    "iteration": lambda y: [value.item() for value in y][0],
    "equal": lambda y: float(torch.equal(y.clamp(min=0.35), y)),
    "allclose": lambda y: float(torch.allclose(y, torch.zeros_like(y), atol=0.35)),
    "how many are not zero": lambda y: float(len((y > 0.35).nonzero())),
    "how many where": lambda y: float(torch.where(y > 0.35)[0].numel()),
    "how many of a mask": lambda y: float(y[y > 0.35].shape[0]),
    "how many selected": lambda y: float(y.masked_select(y > 0.35).size(0)),
    "how many alike": lambda y: float(len(y.round().unique())),
}


class Early(nn.Module):
    """Takes an early exit if the first channel is bright."""

    def __init__(self, read: Callable[[Tensor], float]):
        super().__init__()
        self.a, self.b, self.read = conv(3, 8), conv(8, 8), read
        self.exit, self.head = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.read(x.detach().mean((0, 2, 3))) > 0.35:
            return self.exit(x.mean((2, 3)))
        return self.head(self.b(x).relu().mean((2, 3)))


def dark() -> Tensor:
    return 0.2 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", READS)
def test_no_group_is_free_where_python_reads_a_number(name: str) -> None:
    torch.manual_seed(0)
    facts = explain(Early(READS[name]), dark())
    assert not facts["groups"]
    assert any(REASON in row["reason"] or "has no rule" in row["reason"] for row in facts["frozen"])


def test_a_decision_in_evaluation_mode_alone_fixes_everything() -> None:
    class Exiting(Early):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            if not self.training:
                return super().forward(x)
            x = self.a(x).relu()
            return self.exit(x.mean((2, 3))), self.head(self.b(x).relu().mean((2, 3)))

    assert not trace(Exiting(READS["tolist"]), dark()).spec.free


def test_a_decision_in_training_mode_alone_fixes_only_what_that_reaches() -> None:
    class Checking(Early):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.a(x).relu()
            main = self.head(self.b(x).relu().mean((2, 3)))
            if not self.training:
                return main
            return main if self.read(x.detach().mean((0, 2, 3))) > 0.35 else main + self.exit(x.mean((2, 3)))

    symmetry = trace(Checking(READS["tolist"]), dark())
    assert symmetry.spec.free == ("b",)
    assert REASON in symmetry.frozen["exit.weight[1]"] and REASON in symmetry.frozen["a.weight[0]"]


@pytest.mark.parametrize(
    "act",
    [
        lambda n, x: x * float(np.asarray(n.scale.detach())[0]),  # of a parameter, the same for all inputs
        lambda n, x: x.view(len(x), *x.shape[1:]),
        lambda n, x: x * n.scale.numel(),
        lambda n, x: x + torch.as_tensor(np.ones(1, dtype=np.float32)).to(x),
    ],
)
def test_values_that_do_not_depend_on_the_input_fix_nothing(act: Callable[[nn.Module, Tensor], Tensor]) -> None:
    layers = {"a": conv(3, 6), "scale": nn.Parameter(torch.ones(1)), "fc": nn.Linear(6, 5)}
    network = Net(lambda n, x: n.fc(act(n, n.a(x)).relu().mean((2, 3))), **layers)
    facts = explain(network, dark())
    assert facts["certified"] and facts["groups"] == {"a": 6}
