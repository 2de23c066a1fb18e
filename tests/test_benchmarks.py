"""The benchmarks run, and their rows follow from the seconds. No test depends on times."""

import importlib
import json
from copy import deepcopy

import pytest
import torch

from benchmarks import plain, run, timing
from benchmarks.problems import MEAN, NETWORKS, REGIME, SMALL, STD, Problem, Ready, pictures
from neuralign.networks.model import buffers, parameters

KEYS = {"what", "baseline_seconds", "ours_seconds", "ratio", "target", "met", "n", "spread", "note"}


@pytest.mark.parametrize("topic", run.TOPICS)
def test_every_topic_gives_rows_that_can_be_printed(topic):
    rows = importlib.import_module(f"benchmarks.{topic}").measure(quick=True)
    assert rows
    for row in rows:
        assert row.keys() == KEYS and row["n"] > 0
        low, high = row["spread"]
        assert low <= row["ratio"] <= high
        assert row["met"] in ((None,) if not row["target"] else (True, False))
        assert all(row[key] is None or row[key] > 0 for key in ("baseline_seconds", "ours_seconds"))
    text = run.table(topic, json.loads(json.dumps(rows)))
    assert all(row["what"] in text for row in rows)


def test_topics_are_the_modules_that_measure():
    assert {"training", "attacks", "orchestration", "simultaneous"} <= set(run.TOPICS)
    assert not {"run", "timing", "plain", "problems", "gpu"} & set(run.TOPICS)


def test_a_cost_is_ours_over_theirs_and_a_speed_up_theirs_over_ours():
    baseline, ours = [2.0, 4.0, 100.0], [1.0, 4.0, 50.0]
    cost = timing.row("a", baseline=baseline, ours=ours, target="<= 0.6")
    assert (cost["ratio"], cost["spread"], cost["met"]) == (0.5, (0.5, 1.0), True)
    speed_up = timing.row("a", baseline=baseline, ours=ours, target=">= 2.5")
    assert (speed_up["ratio"], speed_up["spread"], speed_up["met"]) == (2.0, (1.0, 2.0), False)
    assert (speed_up["baseline_seconds"], speed_up["ours_seconds"], speed_up["n"]) == (4.0, 4.0, 3)
    assert timing.row("a", baseline=baseline, ours=ours)["met"] is None


def test_the_ratio_is_of_the_same_round_so_that_a_slow_machine_does_not_move_it():
    assert timing.row("a", baseline=[1.0, 9.0, 1.0, 9.0], ours=[2.0, 18.0, 2.0, 18.0])["spread"] == (2.0, 2.0)


def test_a_limit_is_absolute():
    row = timing.limit("a", ours=[4.0, 6.0, 20.0], target="<= 5")
    assert (row["ours_seconds"], row["ratio"], row["met"]) == (6.0, 1.2, False)
    assert row["spread"] == (0.8, 4.0) and row["baseline_seconds"] is None


def test_a_count_has_no_times():
    none, one = (timing.count("a", number, target="<= 0") for number in (0, 1))
    assert (none["ratio"], none["met"], one["ratio"], one["met"]) == (0, True, 1, False)
    assert none.keys() == KEYS and none["ours_seconds"] is None


def test_a_target_must_be_a_bound():
    with pytest.raises(ValueError, match="found '< 5', allowed are '<= x' and '>= x'"):
        timing.met(1.0, "< 5")


def test_rounds_alternate_and_the_first_does_not_count():
    calls = []
    seconds = timing.interleaved(lambda: calls.append("a"), lambda: calls.append("b"), repeats=2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert [len(s) for s in seconds] == [2, 2]


@pytest.fixture
def ends() -> list[torch.nn.Module]:
    problem = Problem.of("TinyTen", SMALL["TinyTen"])
    first, last = (deepcopy(problem.model.network).double() for _ in "ab")
    for network, end in ((first, problem.curve.ends[0]), (last, problem.curve.ends[1])):
        network.load_state_dict(problem.layout.views(end) | buffers(network))
    return [first, last]


def test_the_plain_curve_is_the_curve_of_the_library(ends):
    """The baseline does the same work: outputs, norm and gradient of the bend are those of `Curve`."""
    problem, twin = Problem.of("TinyTen", SMALL["TinyTen"]), plain.CurveNetwork(*ends).train()
    curve = problem.curve
    bend = curve.bends[0].double().requires_grad_()
    point = 0.49 * curve.ends[0].double() + 0.42 * bend + 0.09 * curve.ends[1].double()  # t = 0.3
    x = torch.rand(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.func.functional_call(ends[0].train(), problem.layout.views(point), (x,))
    outputs = twin(x, 0.3)
    torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(twin.norm(), point.square().sum(), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(expected.square().sum(), bend)
    trained = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    gradients = dict(zip(trained, torch.autograd.grad(outputs.square().sum(), list(trained.values())), strict=True))
    named = {n.removeprefix("network.").removesuffix("_1"): g for n, g in gradients.items()}
    assert named.keys() == parameters(ends[0]).keys()
    torch.testing.assert_close(problem.layout.flatten(named), slope, rtol=1e-5, atol=1e-6)


def test_plain_batches_are_normalised_and_whole():
    images = pictures(10)
    for workers in (0, 1):
        batches = list(plain.loader(images, MEAN, STD, batch_size=4, workers=workers))
        assert [len(y) for _, y in batches] == [4, 4, 2]
        assert sorted(torch.cat([y for _, y in batches]).tolist()) == sorted(images.labels.tolist())
        assert batches[0][0].shape == (4, 3, 32, 32) and batches[0][0].dtype == torch.float32


def test_ready_made_batches_are_the_images_in_order():
    """One for each step of an epoch; the next epoch begins anew."""
    images = pictures(6)
    ready = Ready.of(images, 2)
    taken = [*ready.epoch(2), *ready.epoch(2)]
    assert torch.equal(torch.cat([x for x, _ in taken[:3]]) * 255, images.pixels.float())
    assert torch.equal(taken[3][1], images.labels[:2]) and len(taken) == 6


def test_small_networks_have_the_names_of_real_ones():
    assert SMALL.keys() <= NETWORKS.keys() and REGIME.epochs == 1


def test_the_command_prints_tables_and_keeps_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    run.main(["attacks", "--quick", "--json", str(tmp_path / "rows.json")])
    text, content = capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())
    assert "== attacks" in text and "targets missed" in text
    assert set(content) == {"header", "topics"} and content["topics"]["attacks"][0].keys() == KEYS
    assert {"date", "commit", "processor", "cores", "threads", "device", "versions"} <= content["header"].keys()


def test_rows_are_printed_as_they_come_and_packages_may_be_missing(capsys, monkeypatch):
    def broken(*, quick, device):
        timing.row("the first", baseline=[2.0], ours=[1.0], target=">= 1")
        timing.limit("the second", ours=[2.0], target="<= 4")
        timing.count("the third", 7, target="<= 9")
        raise RuntimeError("the rest")

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(run, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(importlib.import_module("benchmarks.simultaneous"), "measure", broken)
    with pytest.raises(RuntimeError, match="the rest"):
        run.main(["simultaneous"])
    text = capsys.readouterr().out
    lines = [f"the {n}: {value}, n = 1)" for n, value in (("first", "2 (2 to 2"), ("second", "0.5 (0.5 to 0.5"))]
    assert all(line in text for line in lines) and "the third: 7 (7 to 7, n = 1)" in text
    assert "'torch': " in text and "no-such-package" not in text
    assert not timing.listeners


def test_plain_epochs_bring_batches_to_the_networks_device():
    """On the meta device, where a batch that stays on the CPU would be an error."""
    devices = []

    class Network(torch.nn.Linear):
        def forward(self, x):
            devices.append(x.device.type)
            raise StopIteration

    with torch.device("meta"):
        network = Network(3, 2)
    with pytest.raises(StopIteration):
        plain.endpoint_epoch(network, plain.optimiser(network, 0.0), [(torch.rand(4, 3), torch.arange(4) % 2)])
    assert devices == ["meta"]


def test_an_unknown_topic_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["trainings"])
    assert "no topic trainings; allowed:" in capsys.readouterr().err
