"""`na.merge` and `na.compare`: what they choose, find, say and refuse."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_close, generator
from torch import Tensor, nn
from torch.nn import functional as F
from workflow_project import REPOSITORY

import neuralign as na
from benchmarks.pretended_gpu import pretended_gpu
from neuralign import api
from neuralign.common.errors import UserError
from neuralign.config.signatures import plugins
from neuralign.evaluation.calibration import calibration
from neuralign.merging.comparison import are_the_same, distance
from neuralign.merging.verdict import AVERAGED, UNMEASURED, _sentence
from neuralign.symmetry.permutations import random

SLOW = {"pam", "sinkhorn", "straight_through"}  # have tests of their own


def network(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(nn.Linear(5, 12), *norms, nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))


def labelled(count: int = 160, seed: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=generator(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1)


def batches(count: int = 160, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    x, y = labelled(count, seed)
    return list(zip(x.split(40), y.split(40), strict=True))


def trained(seed: int, norm: bool = False, steps: int = 60) -> nn.Sequential:
    net, (x, y) = network(seed, norm), labelled()
    optimiser = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def permuted(net: nn.Module, seed: int = 3) -> nn.Module:
    """A copy that computes the same with its neurons in another order."""
    spec = na.trace(net, torch.randn(4, 5)).spec
    copy = network(9, norm=any(isinstance(m, nn.BatchNorm1d) for m in net))
    copy.load_state_dict(na.permute(spec, random(spec, generator(seed)), net.state_dict()))
    return copy


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.eval()
    return 100 * (net(x).argmax(1) == y).float().mean().item()


# ---- merge


@pytest.mark.parametrize("method", sorted({*plugins("alignments"), "auto"} - SLOW - {"random"}))
def test_a_network_merged_with_its_permuted_copy_is_that_network(method):
    a = trained(1, norm=True, steps=20)
    with torch.no_grad():
        b = permuted(a)
    merged = na.merge(a, b, batches=[x for x, _ in batches(80)], method=method)
    assert_close(merged.network.state_dict(), a.state_dict(), 1e-6)
    assert merged.report["certificate"] < 1e-9


def test_auto_tries_what_the_data_allow():
    a, b, x = trained(1), trained(2), labelled()[0]
    without = na.merge(a, b, example=x[:4]).report
    assert [(row["method"], row["repair"]) for row in without["tried"]] == [("none", "bias"), ("frank_wolfe", "bias")]
    assert without["data"] == "none" and without["examples"] == {} and without["sentence"] == UNMEASURED
    unlabelled = na.merge(a, b, batches=[x]).report
    assert {row["method"] for row in unlabelled["tried"]} == {"none", "frank_wolfe", "correlation"}
    assert unlabelled["data"] == "inputs" and "merged" not in unlabelled
    full = na.merge(a, b, batches=batches()).report
    assert {row["method"] for row in full["tried"]} == {"none", "frank_wolfe", "correlation", "sinkhorn"}
    assert {row["repair"] for row in full["tried"]} == {"reset", "repair"}
    assert full["data"] == "labels" and full["examples"] == {"fit": 128, "validation": 32}
    chosen = min(full["tried"], key=lambda row: row["score"])
    assert (full["method"], full["repair"]) == (chosen["method"], chosen["repair"])
    assert chosen["score"] == pytest.approx(full["merged"]["loss"], rel=1e-5), "measured where it was chosen"


def test_large_networks_are_aligned_by_weight_matching(monkeypatch):
    monkeypatch.setattr(api, "LARGE", 50)
    report = na.merge(trained(1, steps=2), trained(2, steps=2), example=torch.randn(4, 5)).report
    assert [row["method"] for row in report["tried"]] == ["none", "weights"]


def test_test_examples_decide_nothing_and_are_what_is_reported():
    a, b, (x, y) = trained(1), trained(2), labelled(300, seed=7)
    plain = na.merge(a, b, batches=batches(), method="correlation")
    merged = na.merge(a, b, batches=batches(), method="correlation", test=[(x, y)])
    assert_close(merged.network.state_dict(), plain.network.state_dict(), 0)
    report = merged.report
    assert report["measured_on"] == "test" and report["n"] == 300 and plain.report["measured_on"] == "validation"
    assert report["merged"]["accuracy"] == pytest.approx(accuracy(merged.network, x, y), abs=1e-4)
    own = [accuracy(net, x, y) for net in (a, b)]
    assert [row["accuracy"] for row in report["inputs"]] == pytest.approx(own, abs=1e-4)
    assert report["best"] == "AB"[own.index(max(own))]
    assert report["gain"] == pytest.approx(report["merged"]["accuracy"] - max(own), abs=1e-4)
    logits = ((a(x).softmax(1) + b(x).softmax(1)) / 2).log()
    assert report["ensemble"]["nll"] == pytest.approx(calibration(logits, y)["nll"], rel=1e-5)
    sign = "below" if report["gain"] < 0 else "above"
    assert f"the merge is {abs(report['gain']):.1f} points {sign} {report['best']}" in report["sentence"]
    assert f"n = {report['n']}" in report["sentence"]


def test_three_networks_with_weights_and_names():
    a, b, c = (trained(seed, steps=20) for seed in (1, 2, 3))
    merged = na.merge(
        a,
        b,
        c,
        example=torch.randn(4, 5),
        weights=[0.5, 0.25, 0.25],
        method="none",
        repair="none",
        names="xyz",
    )
    states = [net.state_dict() for net in (a, b, c)]
    mean = {n: 0.5 * states[0][n] + 0.25 * states[1][n] + 0.25 * states[2][n] for n in states[0]}
    assert_close(merged.network.state_dict(), mean, 1e-6)
    assert len(merged.permutations) == 3 and merged.report["moved"] == 0


def test_a_greedy_mean_leaves_out_what_makes_it_worse():
    a, b, useless = trained(1), trained(2), network(5)
    report = na.merge(a, permuted(a), useless, batches=batches(), method="frank_wolfe", greedy=True).report
    assert report["members"] == ["A", "B"] and report["shares"] == [0.5, 0.5, 0]
    assert report["gain"] == 0
    full = na.merge(a, b, batches=batches(), method="frank_wolfe", repair="reset", weights=[0.2, 0.8]).report
    assert full["members"] == ["A", "B"] and full["shares"] == [0.2, 0.8]


def test_the_networks_stay_as_they_are():
    a, b = trained(1, norm=True, steps=5), trained(2, norm=True, steps=5)
    before = [{n: t.clone() for n, t in net.state_dict().items()} for net in (a, b)]
    merged = na.merge(a, b, batches=batches(), method="correlation")
    for net, state in zip((a, b), before, strict=True):
        assert_close(net.state_dict(), state, 0)
    assert a.training and merged.network.training


def test_examples_of_any_structure_are_merged():
    class Two(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.one, self.head = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.head(self.one(x * scale).relu())

    data = [
        ({"x": torch.randn(10, 3, generator=generator(i)), "scale": torch.ones(10, 1)}, torch.ones(10, 1))
        for i in range(3)
    ]
    report = na.merge(Two(1), Two(2), batches=data, method="correlation", loss="squared_error").report
    assert report["metric"] == "loss", "the explained variance is no mean over examples"
    assert report["examples"] == {"fit": 24, "validation": 6} and "ensemble" not in report
    assert "of loss" in report["sentence"] or "as good as" in report["sentence"]


def test_a_merge_is_written_as_an_ordinary_checkpoint_with_a_card(tmp_path: Path):
    a, b = trained(1, norm=True, steps=20), trained(2, norm=True, steps=20)
    merged = na.merge(a, b, batches=batches(), method="correlation")
    card = merged.save(tmp_path / "merged.safetensors", names=["first", "second"]).read_text()
    plain = network(8, norm=True)
    plain.load_state_dict(load_file(tmp_path / "merged.safetensors"))
    assert_close(plain.state_dict(), merged.network.state_dict(), 0)
    assert "* first, weight 0.5" in card and "alignment to first: correlation" in card
    assert "On n = 32 validation examples:" in card and f"{merged.report['merged']['accuracy']:.4g}" in card
    assert 'load_file("merged.safetensors")' in card
    assert "* inputs: as they are, without normalisation\n" in card
    assert merged.save(tmp_path / "merged.pt").name == "merged.pt.md"
    plain.load_state_dict(torch.load(tmp_path / "merged.pt", weights_only=True))
    with pytest.raises(UserError, match=r"path: found .*merged\.bin; \.safetensors, \.pt or \.pth is needed"):
        merged.save(tmp_path / "merged.bin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"networks": 1, "batches": True}, "networks: found 1; at least 2 are needed"),
        ({}, "batches: found None; examples are needed, or an `example`"),
        ({"batches": True, "weights": [1, 1]}, r"weights: found \[1, 1\]; 2 numbers from 0 that sum to 1 are needed"),
        ({"batches": True, "weights": [0.5, 0.5], "greedy": True}, "greedy: found true; batches are needed, and no"),
        (
            {"example": torch.randn(4, 5), "method": "correlation"},
            "method: correlation reads examples, and there are none; give some",
        ),
        (
            {"example": torch.randn(4, 5), "repair": "reset"},
            "repair: 'reset' reads examples, and there are none; give some",
        ),
        ({"batches": True, "cohort": "magic"}, r"cohort: found 'magic' \(allowed: frank_wolfe, mean, reference\)"),
        ({"batches": True, "method": "magic"}, r"method: found 'magic' \(allowed: auto, none, correlation, "),
        (
            {"batches": True, "repair": "magic"},
            r"repair: found 'magic' \(allowed: auto, none, bias, closed_form, ",
        ),
        ({"batches": [(torch.randn(1, 5), torch.tensor([1]))]}, "batches: found 1 example; at least 2 are needed"),
        ({"batches": True, "other": nn.Linear(5, 3)}, "network B: tensors are missing for this network"),
        (
            {"batches": [torch.randn(3, 5), torch.randn(3, 5).double()]},
            "batches: found examples of shapes .*; here all need the same shape and type",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments, message):
    arguments = dict(arguments)
    networks = [network(1), arguments.pop("other", network(2))][: arguments.pop("networks", 2)]
    if arguments.get("batches") is True:
        arguments["batches"] = batches(40)
    with pytest.raises(UserError, match=message):
        na.merge(*networks, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["x"]}, r"names: found 1 \(x\); 2 are needed, one for each network"),
        ({"test": [torch.randn(8, 5)]}, "test: loss: on the first batch it raises TypeError"),
        (
            {"test": [(torch.randn(4, 5), torch.zeros(4).long()), (torch.randn(4, 5), -torch.ones(4).long())]},
            "targets: found -1 to 0; classes from 0 to 2 are needed",
        ),
        (
            {"test": na.Images(torch.zeros(8, 1, 1, 5, dtype=torch.uint8), torch.zeros(8).long())},
            "test: found na.Images, where the examples are batches of inputs; the same is needed",
        ),
    ],
    ids=["names", "no targets", "no class", "other kind"],
)
def test_names_and_test_examples_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        na.merge(network(1), network(2), batches=batches(40), method="none", **arguments)


def test_pixels_of_the_caller_are_not_changed_before_they_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    pixels, labels = torch.randint(256, (40, 1, 1, 5), dtype=torch.uint8), torch.arange(40) % 3
    wrong = na.Images(pixels.float(), labels)
    arguments = {"batches": na.Images(pixels, labels), "mean": [0.5], "std": [0.5], "method": "none", "repair": "none"}
    with pytest.raises(UserError, match="^test: images are torch.float32 of shape"):
        na.merge(net, net, test=wrong, **arguments)
    assert torch.equal(wrong.pixels, pixels.float())
    with pytest.raises(UserError, match="^test: found batches of inputs, where the examples are na.Images"):
        na.merge(net, net, test=[(pixels.float(), labels)], **arguments)
    with pytest.raises(UserError, match="^test: found images of 3 channels, where the examples have 1"):
        na.merge(net, net, test=na.Images(pixels.repeat(1, 3, 1, 1), labels), **arguments)
    landscape = {"batches": na.Images(pixels, labels), "test": [(pixels.float(), labels)], "method": "none"}
    with pytest.raises(UserError, match="^test: found batches of inputs, where the examples are na.Images"):
        na.landscape(net, [net.state_dict()], **landscape)
    example, test = torch.rand(4, 1, 1, 5), na.Images(pixels, labels)  # a network of pixels in [0, 1]
    assert na.merge(net, net, example=example, test=test).report["measured_on"] == "test"


def test_a_card_has_the_names_of_the_report(tmp_path):
    merged = na.merge(network(1), network(2), batches=batches(40), method="none", names=["left", "right"])
    card = merged.save(tmp_path / "m.pt").read_text()
    assert "* left, weight 0.5" in card and "| right |" in card and "* A" not in card
    with pytest.raises(UserError, match=r"names: found 1 \(x\); 2 are needed"):
        merged.save(tmp_path / "other.pt", names=["x"])
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize("with_labels", [True, False])
def test_all_is_computed_where_the_network_is(with_labels):
    data = batches(80) if with_labels else [x for x, _ in batches(80)]
    a, b = (trained(seed, norm=True, steps=3) for seed in (1, 2))
    expected = na.merge(a, b, batches=data, method="correlation")
    with pretended_gpu():
        a, b = a.cuda(), b.cuda()
        merged = na.merge(a, b, batches=data, method="correlation")
        assert all(tensor.is_cuda for tensor in merged.network.state_dict().values())
        here = {name: tensor.cpu() for name, tensor in merged.network.state_dict().items()}
        sentence = na.compare(a, merged.network, torch.randn(4, 5, device="cuda")).sentence
    assert_close(here, expected.network.state_dict(), 1e-5)
    assert merged.report["sentence"] == expected.report["sentence"] and sentence.startswith("B is not A")


# ---- compare


def test_a_permuted_copy_is_recognised():
    a = trained(1, norm=True, steps=10)
    b = permuted(a)
    result = na.compare(a, b, torch.randn(4, 5))
    assert not result.equal and result.same_up_to_permutation and result.matched == 1
    assert result.sentence == "B is A with its neurons permuted" and result.distance_after == 0 < result.distance_before
    assert_close(na.permute(na.trace(a, torch.randn(4, 5)), result.permutation, b.state_dict()), a.state_dict(), 0)
    assert na.compare(a, a, torch.randn(4, 5)).sentence == "B is A"


def test_a_noisy_copy_matches_and_a_stranger_does_not():
    a = network(1)
    noisy = permuted(a)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator(1))
    result = na.compare(a, noisy, torch.randn(4, 5))
    assert not result.same_up_to_permutation and result.matched > 0.9
    assert result.sentence.startswith("B is not A with its neurons permuted: ")
    stranger = na.compare(a, network(2), torch.randn(4, 5))
    assert stranger.matched < 0.3
    assert [row["group"] for row in stranger.layers] == ["0", "2"] and sum(r["units"] for r in stranger.layers) == 22


def test_distances_by_hand():
    a, b = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 5.0])}
    assert distance(a, b, ["w"]) == pytest.approx(10**0.5 / 5) and distance(a, a, ["w"]) == 0
    assert are_the_same(a, {"w": torch.tensor([3.0, 4.00003])}, ["w"]) and not are_the_same(a, b, ["w"])


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "merging.md").read_text(), re.DOTALL)
    names: dict = {"__name__": "documentation"}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2 and names["merged"].report["certificate"] < 1e-9
    assert Path("merged.safetensors").is_file() and Path("merged.safetensors.md").is_file()


# ---- several networks, numbers that are none, and buffers


@pytest.mark.parametrize("method", ["weights", "frank_wolfe"])
def test_three_networks_in_one_frame_are_no_further_apart_than_aligned_to_the_first(method):
    nets = [trained(seed, steps=20) for seed in (1, 2, 3)]
    x = torch.randn(4, 5)
    scores = {
        cohort: na.merge(*nets, example=x, method=method, cohort=cohort).report for cohort in ("reference", "mean")
    }
    assert scores["mean"]["tried"][0]["score"] <= scores["reference"]["tried"][0]["score"] * (1 + 1e-12)
    assert scores["mean"]["cohort"] == "mean" and scores["mean"]["certificate"] < 1e-9


def test_permuted_copies_of_one_network_are_merged_to_it_and_the_card_names_the_frame(tmp_path: Path):
    a = trained(1, norm=True, steps=20)
    with torch.no_grad():
        copies = [permuted(a, seed) for seed in (3, 4)]
    merged = na.merge(a, *copies, batches=[x for x, _ in batches(80)], method="weights")
    assert_close(merged.network.state_dict(), a.state_dict(), 1e-6)
    card = merged.save(tmp_path / "m.pt").read_text()
    assert "* alignment to A: weights, in one frame of all networks by the cohort method mean" in card


def test_a_weight_of_zero_is_allowed_for_several_networks():
    nets = [trained(seed, steps=5) for seed in (1, 2, 3)]
    merged = na.merge(*nets, example=torch.randn(4, 5), weights=[0.5, 0.5, 0.0], method="weights", repair="none")
    third = na.merge(*nets[:2], network(7), example=torch.randn(4, 5), weights=[1.0, 0.0, 0.0], method="weights")
    assert_close(third.network.state_dict(), nets[0].state_dict(), 0)
    assert merged.report["shares"] == [0.5, 0.5, 0]


def test_a_merge_whose_score_is_no_number_is_never_chosen():
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """It is no number for outputs near one, the mean of those of the two networks."""
        return outputs.square().mean() * (float("nan") if abs(outputs[0, 0].item() - 1) < 0.5 else 1.0)

    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    for net, value in ((a, 0.0), (b, 2.0)):
        nn.init.zeros_(net.weight)
        nn.init.constant_(net.bias, value)
    data = [(torch.randn(4, 2), torch.zeros(4, 1)) for _ in range(3)]
    with pytest.raises(UserError, match="no merge has a score that is a finite number: none and reset: nan"):
        na.merge(a, b, batches=data, loss=loss)


def test_a_merge_without_data_says_that_its_statistics_are_means():
    a, b = trained(1, norm=True, steps=5), trained(2, norm=True, steps=5)
    merged = na.merge(a, b, example=torch.randn(4, 5), method="none")
    assert merged.report["sentence"] == f"{AVERAGED}; {UNMEASURED}"
    mean = (a.state_dict()["1.running_mean"] + b.state_dict()["1.running_mean"]) / 2
    assert torch.allclose(merged.network.state_dict()["1.running_mean"], mean)


def test_what_chose_the_method_is_said_to_flatter_the_merge():
    a, b = trained(1, steps=20), trained(2, steps=20)
    flattered = "; the same examples chose the method, which flatters the merge"
    assert na.merge(a, b, batches=batches(), method="weights").report["sentence"].endswith(flattered)
    one = na.merge(a, b, batches=batches(), method="weights", repair="reset").report["sentence"]
    assert not one.endswith(flattered), "nothing was chosen"


def test_a_gain_that_may_be_chance_is_said_to_be():
    facts = {"what": "merge", "metric": "accuracy", "best": "A", "gain": 0.4, "interval": [-0.5, 1.3], "n": 9}
    assert _sentence(facts) == (
        "the merge is 0.4 points above A, the best input: keep the merge "
        "(95 % interval -0.5 to +1.3, which may be chance, n = 9)"
    )
    assert "chance" not in _sentence({**facts, "interval": [0.1, 1.3]})
    assert "is not a finite number: do not use it" in _sentence({**facts, "gain": float("nan")})


def test_networks_with_equal_weights_and_other_statistics_are_not_called_equal():
    a, b = network(1, norm=True), network(1, norm=True)
    b[1].running_mean.add_(1)
    result = na.compare(a, b, torch.randn(4, 5))
    assert result.equal and result.other_buffers == ("1.running_mean",)
    assert result.sentence == "B is A, but for its buffers: 1.running_mean"


def test_networks_without_free_neurons_are_compared_in_one_sentence():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    compared = na.compare(a, b, torch.randn(4, 3))
    first, second = (nn.utils.parameters_to_vector(n.parameters()).detach().double() for n in (a, b))
    distance = (first - second).norm() / ((first.norm() + second.norm()) / 2)
    assert compared.sentence == f"B is not A, at a distance of {distance:.3g}, and no neuron may be permuted"


def test_the_imaginary_parts_of_complex_weights_count():
    a = {"w": torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])}
    b = {"w": a["w"].conj().resolve_conj()}
    assert distance(a, b, ["w"]) == pytest.approx(2 * (16 + 4) ** 0.5 / (2 * 15**0.5))
    assert not are_the_same(a, b, ["w"]) and are_the_same(a, a, ["w"])
