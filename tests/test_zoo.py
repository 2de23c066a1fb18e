"""The table of networks of other libraries: its check and its page report errors. Needs no timm or transformers."""

import dataclasses
import sys

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo import __main__ as command
from benchmarks.zoo import independent
from benchmarks.zoo.networks import TIMM, TRANSFORMERS, Sample, images, sentences
from benchmarks.zoo.page import page
from neuralign.symmetry.tracing.trace import trace


class Block(nn.Module):
    """Two convolutions with a batch norm; dropout; a head; beside the logits something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor | str]:
        x = self.b(self.norm(self.a(x)).relu()).relu()
        return {"logits": self.head(self.drop(x.mean((2, 3)))), "kind": "block"}


def made() -> Sample:
    torch.manual_seed(0)
    return Sample(Block(), images(8))


def test_the_check_holds_for_what_is_traced_and_notices_a_tensor_left_behind():
    changes = independent.differences(made)
    assert changes["evaluation"] < 1e-12 and changes["training"] < 1e-12
    assert changes["noticed"] == 1


@pytest.mark.parametrize("left_out", ["norm.running_var", "norm.weight", "head.weight"])
def test_the_check_contradicts_a_symmetry_that_forgets_a_tensor(left_out, monkeypatch):
    def wrong(network: nn.Module, example: Tensor, *, attention: bool):
        right = trace(network, example, attention=attention)
        axes = {name: axis for name, axis in right.spec.axes.items() if name != left_out}
        return dataclasses.replace(right, spec=dataclasses.replace(right.spec, axes=axes))

    monkeypatch.setattr(independent, "trace", wrong)
    assert independent.differences(made)["evaluation"] > 1e-4


def test_a_buffer_that_training_leaves_in_the_old_order_is_a_contradiction(monkeypatch):
    """In training mode the running statistics are no part of the outputs, but they are compared too."""

    class Forgetful(Block):
        def forward(self, x):
            outputs = super().forward(x)
            if self.training:
                self.norm.running_mean.copy_(torch.arange(6.0))
            return outputs

    monkeypatch.setattr(independent, "trace", lambda network, example, **how: trace(Block(), example, **how))
    changes = independent.differences(lambda: Sample(Forgetful(), images(8)))
    assert changes["evaluation"] < 1e-12 and changes["training"] > 0.1


def test_inputs_are_new_and_more_than_the_trace_sees():
    assert independent.INPUTS == 3
    assert sentences(3, 1).shape == (3, 12) and not torch.equal(sentences(2, 0), sentences(3, 1)[:2])


def test_the_lists_have_enough_networks():
    assert len(TIMM) == 41 and len(TRANSFORMERS) >= 15


def row(**facts):
    measured = dict.fromkeys(command.COLUMNS) | {"library": "timm", "version": "1.0", "torch": "2.0", "certified": True}
    numbers = {"parameters": 2e6, "groups": 3, "permutable": 0.9, "fixed": 0, "outputs": 1e-15, "gradients": 1e-15}
    return measured | numbers | {"seconds": 0.1, "evaluation": 1e-15, "training": 1e-15, "reason": "", **facts}


def test_the_page_names_contradictions_and_failures():
    failed = {name: None for name in row()} | {"library": "timm", "network": "c", "version": "1.0", "torch": "2.0"}
    rows = [row(network="a"), row(network="b", training=1e-3), failed | {"failure": "it takes too long"}]
    text = page(pd.DataFrame(rows, columns=command.COLUMNS), {"timm": ["a", "b", "c", "d"]})
    assert "3 networks of timm 1.0 with torch 2.0. Certified: 2" in text
    assert "Independent check: 1 of 2 within 1e-09." in text and "**Contradicted**: b." in text
    assert "- c: not examined: it takes too long" in text and "Not measured: d." in text
    assert "1e-03 **!**" in text and "with attention |" not in text


def test_missing_libraries_are_named_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "installed", lambda: {"torchvision": "0"})
    monkeypatch.setattr(sys, "argv", ["zoo", "timm", "transformers", "--out", str(tmp_path)])
    command.main()
    assert capsys.readouterr().out == (
        "not installed, so left out: timm, transformers (pip install timm transformers)\n"
    )
    assert (tmp_path / "zoo.md").read_text().startswith("# Networks of torchvision, timm and transformers\n")
