"""Python attributes of modules are restored after a run, whatever containers hold them."""

from collections import OrderedDict, deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from neuralign.networks.caches import modules_in_evaluation, preserved_attributes


class Keeping(nn.Module):
    """A module with one attribute, which a call changes."""

    def __init__(self, kept, act):
        super().__init__()
        self.kept, self.act, self.functional = kept, act, nn.functional
        self.child = nn.Linear(2, 2)

    def forward(self, x):
        self.act(self)
        self.new = x + 1
        return x


def append(module):
    module.kept[0].append(torch.ones(1))


CASES = {
    "attribute": (lambda: None, lambda m: setattr(m, "kept", torch.ones(1))),
    "flag": (lambda: False, lambda m: setattr(m, "kept", True)),
    "deleted": (lambda: 5, lambda m: delattr(m, "kept")),
    "dictionary": (dict, lambda m: m.kept.update(a=torch.ones(1))),
    "popped": (lambda: {"a": 1}, lambda m: m.kept.pop("a")),
    "list": (lambda: [1, 2], lambda m: m.kept.append(torch.ones(1))),
    "set": (lambda: {1}, lambda m: m.kept.add(2)),
    "queue": (lambda: deque([1], maxlen=2), lambda m: m.kept.extend((2, 3))),
    "tuple": (lambda: ([1], 2), append),
    "nested": (lambda: {"a": [1, {"b": (2, [3])}]}, lambda m: m.kept["a"][1]["b"][1].append(4)),
    "object": (lambda: SimpleNamespace(x=SimpleNamespace(y=1)), lambda m: setattr(m.kept.x, "y", torch.ones(1))),
}


@pytest.mark.parametrize("name", CASES)
def test_attributes_and_their_contents_are_restored(name):
    make, act = CASES[name]
    module = Keeping(make(), act)
    held, weight, functional = module.kept, module.child.weight, dict(vars(nn.functional))
    with preserved_attributes(module.modules()) as restore:
        module(torch.ones(1))
        assert module.new == 2
        restore()
        assert module.kept is held and held == make() and not hasattr(module, "new")
        module(torch.ones(1))
    assert module.kept is held and held == make() and not hasattr(module, "new")
    assert module.child.weight is weight and dict(vars(nn.functional)) == functional


def test_attributes_are_restored_after_an_error_too():
    module = Keeping([], lambda m: m.kept.append(1))
    with pytest.raises(ZeroDivisionError), preserved_attributes([module]):
        module(torch.ones(1))
        raise ZeroDivisionError
    assert module.kept == [] and not hasattr(module, "new")


class Frozen(OrderedDict):
    """A configuration that refuses to be changed, as that of every module of the diffusers package."""

    def __init__(self, name, items):
        super().__init__(items)

    def update(self, *args, **kwargs):
        raise TypeError("frozen")


def test_a_container_that_refuses_changes_stays_as_it_is():
    kept = Frozen("a", {"width": 1, "sizes": [1]})
    module = Keeping(kept, lambda m: m.kept["sizes"].append(2))
    with preserved_attributes([module]):
        module(torch.ones(1))
    assert module.kept is kept and dict(kept) == {"width": 1, "sizes": [1]}


def test_a_container_that_holds_itself_is_restored():
    kept: dict[str, object] = {"a": 1}
    kept["self"] = kept
    module = Keeping(kept, lambda m: m.kept.update(b=2))
    with preserved_attributes([module]):
        module(torch.ones(1))
    assert kept.keys() == {"a", "self"} and kept["self"] is kept


def test_modes_hooks_children_and_parameters_are_not_restored():
    module = Keeping(None, lambda m: None)
    with preserved_attributes(module.modules()):
        module.eval()
        module.register_forward_hook(lambda *_: None)
        module.child.weight = nn.Parameter(torch.zeros(2, 2))
        module.other = nn.Linear(1, 1)
    assert not module.training and len(module._forward_hooks) == 1
    assert module.child.weight.sum() == 0 and module.other is not None


def test_only_modules_in_evaluation_mode_are_found():
    network = nn.Sequential(Keeping(None, lambda m: None), nn.Linear(1, 1)).train()
    network[1].eval()
    assert modules_in_evaluation(network) == [network[1]]
