"""Every tensor in what a network returns is an output, in whatever container it lies."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from awkward import Net, conv
from tiny import pictures
from torch import Tensor, nn

from neuralign.common.errors import UserError
from neuralign.datasets.images import as_float
from neuralign.networks.outputs import output_tensors
from neuralign.symmetry.explain import explain


@dataclass
class Answer:
    logits: Tensor
    extra: Any = None


class Holder:
    def __init__(self, *tensors: Tensor):
        self.tensors = {"all": list(tensors)}
        self.itself = self


class Slotted:
    __slots__ = ("maps", "unset")

    def __init__(self, maps: Tensor):
        self.maps = maps


class SlottedWithMore(Slotted):
    """Has a `__dict__` beside the slots that it inherits."""

    def __init__(self, maps: Tensor):
        super().__init__(maps)
        self.name = "more"


class Cache(Holder):
    """Looks like a cache of keys and values, as transformers has them."""

    def update(self) -> None: ...

    def get_seq_length(self) -> int:
        return 1


def returning(act: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    """A network of two layers that returns `act(logits, maps of the second layer)`."""

    def do(n: nn.Module, x: Tensor) -> Any:
        maps = n.b(n.a(x).relu()).relu()
        return act(n.fc(maps.mean((2, 3))), maps)

    return Net(do, a=conv(3, 6), b=conv(6, 7), fc=nn.Linear(7, 5))


def image() -> Tensor:
    return as_float(pictures(side=8).pixels[:2])


LOGITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dataclass": lambda logits, maps: Answer(logits, "a word"),
    "plain things beside": lambda logits, maps: (logits, None, 1, 2j, b"", torch.float32, {"a": [logits]}),
    "object": lambda logits, maps: Holder(logits),
    "cache": lambda logits, maps: {"logits": logits, "past": Cache(maps)},
    "cache in a dataclass": lambda logits, maps: Answer(logits, (Cache(maps),)),
}
MAPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dataclass": lambda logits, maps: Answer(logits, {"maps": maps}),
    "object": lambda logits, maps: (logits, Holder(maps)),
    "object within": lambda logits, maps: Answer(logits, Holder(logits, maps)),
    "slots": lambda logits, maps: [logits, Slotted(maps)],
    "slots and attributes": lambda logits, maps: [logits, SlottedWithMore(maps)],
    "namespace": lambda logits, maps: SimpleNamespace(logits=logits, inner=SimpleNamespace(maps=maps)),
}


@pytest.mark.parametrize("name", LOGITS)
def test_containers_that_hold_logits_alone_leave_layers_free(name: str) -> None:
    facts = explain(returning(LOGITS[name]), image())
    assert facts["groups"] == {"a": 6, "b": 7} and facts["certified"]


@pytest.mark.parametrize("name", MAPS)
def test_activations_that_are_returned_are_fixed(name: str) -> None:
    facts = explain(returning(MAPS[name]), image())
    assert facts["groups"] == {"a": 6} and facts["certified"]
    assert {"axis": "b.weight[0]", "reason": "it is the network's output"} in facts["frozen"]


@pytest.mark.parametrize(
    "act, kind",
    [
        (lambda logits, maps: (logits, lambda: maps), "function"),
        (lambda logits, maps: (logits, nn.ReLU()), "ReLU"),
        (lambda logits, maps: (logits, iter([maps])), "list_iterator"),
    ],
)
def test_outputs_that_may_hide_tensors_are_refused(act: Callable[[Tensor, Tensor], Any], kind: str) -> None:
    with pytest.raises(UserError, match=f"the network returns a {kind}; tensors, or tuples, lists, mappings"):
        explain(returning(act), image())


def test_heads_have_the_order_of_the_output() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    assert [len(head) for head in output_tensors((two, {"b": one, "a": Answer(three)}))] == [2, 1, 3]
