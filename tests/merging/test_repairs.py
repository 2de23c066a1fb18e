"""Merges and their repairs: known answers, on networks with and without norms, in float64."""

from dataclasses import replace
from functools import partial
from math import isfinite

import pytest
import tiny
import torch
from tiny import assert_close, assert_same, generator, pictures, randomised, shifts
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from neuralign.common.errors import UserError
from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins
from neuralign.datasets.arrays import Arrays
from neuralign.merging.diagnostics import llfc
from neuralign.merging.layers import Moments, goals_and_mixtures, layers_of, outputs_of
from neuralign.merging.merge import Merge, merge_of, repaired
from neuralign.merging.repairs.bias import bias
from neuralign.merging.repairs.closed_form import closed_form
from neuralign.merging.repairs.repair import repair
from neuralign.merging.repairs.reset import reset
from neuralign.networks.model import Model
from neuralign.symmetry.permutations import inverse, permute
from neuralign.symmetry.tracing.trace import trace_model

REPAIRS = plugins("repairs")


class Block(nn.Module):
    """A residual stream with a branch without bias, a shared layer and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.branch = nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 9, bias=False)
        self.again, self.head = nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.branch(self.norm(x).relu())
        return self.head(self.again(self.again(x).tanh()).relu())


def mlp(*widths: int) -> nn.Sequential:
    layers = [layer for n, m in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Sequential:
    """With a transposed and a depthwise convolution, and without norms."""
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 8, 3, groups=8), nn.Tanh()]
    layers += [nn.ConvTranspose2d(8, 6, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(*layers)


def mixed() -> nn.Sequential:
    """One layer before a batch norm, and one without."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(count: int = 300, columns: int = 6) -> Arrays:
    return Arrays(torch.randn(count, columns, generator=generator(5), dtype=torch.float64), torch.arange(count) % 3)


def merged(network: nn.Module, examples=None, weights=None, seeds=(1, 2), states=None) -> Merge:
    """The merge of random networks."""
    if examples is None:
        model, examples = Model(network.double(), None, None), rows()
    else:
        model = tiny.unnormalised(network)
    states = states or [randomised(model.network, seed) for seed in seeds]
    return merge_of(model, trace_model(model, examples), states, examples, weights)


def images() -> Merge:
    return merged(convolutions(), pictures(count=40))


NETWORKS = {
    "mlp": lambda: merged(mlp(6, 16, 16, 16, 3)),
    "three": lambda: merged(mlp(6, 16, 16, 3), weights=[0.5, 0.2, 0.3], seeds=(1, 2, 3)),
    "convolutions": images,
    "residual": lambda: merged(Block()),
}


def measured_layers(merge: Merge):
    return [
        layer
        for layer in layers_of(merge.model, merge.trace.spec, merge.state, next(merge.examples.batches(4))[0])
        if layer.hidden and not layer.before_batch_norm
    ]


def measured(merge: Merge, state, layer) -> Moments:
    moments = Moments()
    for inputs, _ in merge.examples.batches(1000):
        for call in outputs_of(merge.model, state, [layer], inputs)[0][layer.name]:
            moments.add(call, layer.output_dim)
    return moments


# ---- the mean


def test_the_mean_has_the_weights_of_its_networks_and_is_computed_in_float64():
    merge = merged(mixed().float(), weights=[0.25, 0.75])
    a, b = merge.ends
    assert_close(merge.state, {n: 0.25 * a[n] + 0.75 * b[n] if a[n].is_floating_point() else a[n] for n in a})


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.5, -0.5], [float("nan"), 1]])
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(UserError, match=r"weights: found \[.*\]; 2 numbers from 0 that sum to 1 are needed"):
        merged(mlp(6, 4, 3), weights=weights)


def test_a_tensor_without_a_mean_is_refused_by_name():
    network = mlp(6, 4, 3)
    network.register_buffer("order", torch.arange(3))
    state = randomised(network.double())
    with pytest.raises(UserError, match="'order' differs between the ends"):
        merged(network, states=[state, {**state, "order": torch.arange(3).flip(0)}])


# ---- repairs


@pytest.mark.parametrize("name", NETWORKS)
def test_repaired_outputs_have_the_mean_moments_of_the_ends(name):
    merge = NETWORKS[name]()
    layers = measured_layers(merge)
    goals, _ = goals_and_mixtures(merge, layers, merge.examples)
    state = repair(merge)
    assert merge.facts["layers"] == len(layers) and merge.facts["dead"] == 0
    for layer in layers:
        moments, goal = measured(merge, state, layer), goals[layer.name]
        if layer.calls > 1:
            continue  # its later calls change with it
        assert torch.allclose(moments.deviation, goal.deviation, rtol=1e-4)
        if layer.bias is not None:
            assert torch.allclose(moments.mean, goal.mean, atol=1e-4 * goal.deviation.max())
    assert merge.facts["unshifted"] == sum(len(goals[x.name].mean) for x in layers if x.bias is None)
    last = next(layer for layer in reversed(layers) if layer.calls == 1)
    before = measured(merge, merge.state, last).deviation
    assert not torch.allclose(before, goals[last.name].deviation, rtol=0.05), "a plain mean does not have them"


def test_heads_are_not_repaired():
    merge = merged(mlp(6, 8, 3))
    state = repair(merge)
    assert torch.equal(state["2.weight"], merge.state["2.weight"]) and torch.equal(
        state["2.bias"], merge.state["2.bias"]
    )
    assert not torch.equal(state["0.weight"], merge.state["0.weight"])


def test_a_single_pass_is_close_to_exact_passes_and_equals_them_on_one_batch():
    merge = merged(mlp(6, 16, 16, 3))
    one_batch = replace(merge, examples=merge.examples.first(200), facts={})
    assert_close(repair(one_batch, passes="single"), repair(one_batch), 1e-8)
    one, other = repair(merge, passes="single"), repair(merge)
    assert all((one[n] - other[n]).norm() < 0.2 * other[n].norm() for n in other)


def test_scaling_only_matches_deviations_and_leaves_the_ratio_of_weights_and_biases():
    merge = merged(mlp(6, 16, 16, 3))
    layers = measured_layers(merge)
    goals, _ = goals_and_mixtures(merge, layers, merge.examples)
    state = repair(merge, match="scale")
    for layer in layers:
        assert torch.allclose(measured(merge, state, layer).deviation, goals[layer.name].deviation, rtol=1e-6)
        gain = state[layer.weight][:, 0] / merge.state[layer.weight][:, 0]
        assert torch.allclose(state[layer.bias], merge.state[layer.bias] * gain)


def test_constant_units_stay_and_are_counted():
    network = mlp(6, 8, 3)
    states = [randomised(network.double(), seed) for seed in (1, 2)]
    for state in states:
        state["0.weight"][3] = 0
    merge = merged(network, states=states)
    state = repair(merge)
    assert merge.facts["dead"] == 1
    assert torch.equal(state["0.weight"][3], merge.state["0.weight"][3])
    assert torch.equal(state["0.bias"][3], merge.state["0.bias"][3])


def test_units_that_are_constant_but_for_rounding_stay():
    network = mlp(6, 8, 3)
    states = [randomised(network.double(), seed) for seed in (1, 2)]
    examples = rows()
    examples.inputs[:, 0] = 1.7
    for state in states:
        state["0.weight"][:, 1:] = 0
        state["0.bias"] += 3
    model = Model(network, None, None)
    merge = merge_of(model, trace_model(model, examples), states, examples)
    for use in (repair, closed_form):
        state = use(merge)
        assert merge.facts["dead"] == 8
        assert torch.equal(state["0.weight"], merge.state["0.weight"])


@pytest.mark.parametrize("use", REPAIRS)
@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual"])
def test_a_merge_with_all_weight_on_one_network_is_that_network(name, use):
    merge = NETWORKS[name]()
    merge = merge_of(merge.model, merge.trace, merge.ends, merge.examples, [0, 1])
    assert_close(plugin("repairs", {"use": use})(merge), merge.ends[1], 1e-6)


@pytest.mark.parametrize("use", REPAIRS)
@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual"])
def test_a_merge_of_equal_networks_is_that_network(name, use):
    merge = NETWORKS[name]()
    merge = merge_of(merge.model, merge.trace, [merge.ends[0]] * 2, merge.examples, [0.3, 0.7])
    assert_close(plugin("repairs", {"use": use})(merge), merge.ends[0], 1e-6)


@pytest.mark.parametrize("use", REPAIRS)
@pytest.mark.parametrize("make", [mixed, lambda: mlp(6, 8, 8, 3)])
def test_the_merge_with_an_aligned_permuted_copy_is_the_network_itself(make, use):
    merge = merged(make())
    spec, a = merge.trace.spec, merge.ends[0]
    planted = shifts(spec)
    aligned = permute(spec, inverse(planted), permute(spec, planted, a))
    again = merge_of(merge.model, merge.trace, [a, aligned], merge.examples)
    assert_close(repaired(again, plugin("repairs", {"use": use})), a, 1e-12)


def test_the_closed_form_is_exact_in_the_first_layer():
    merge = merged(mlp(6, 16, 16, 3))
    measured_state, predicted = repair(merge), closed_form(merge)
    for name in ("0.weight", "0.bias"):
        assert torch.allclose(predicted[name], measured_state[name], rtol=1e-5)
    assert not torch.allclose(predicted["2.weight"], measured_state["2.weight"], rtol=1e-2)


def test_batch_norms_get_statistics_of_the_merge_and_their_layers_stay():
    merge = merged(nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    inputs = merge.examples.inputs
    for use in ("reset", "repair", "closed_form"):
        state = plugin("repairs", {"use": use})(merge)
        assert torch.equal(state["0.weight"], merge.state["0.weight"])
        assert torch.allclose(state["1.running_mean"], (inputs @ merge.state["0.weight"].T).mean(0))
        assert not torch.allclose(state["1.running_var"], merge.state["1.running_var"])


def test_with_a_batch_norm_elsewhere_the_other_layers_are_repaired():
    merge = merged(mixed())
    layers = measured_layers(merge)
    assert [layer.name for layer in layers] == ["3"]
    goals, _ = goals_and_mixtures(merge, layers, merge.examples)
    state = repair(merge)
    assert torch.allclose(measured(merge, state, layers[0]).deviation, goals["3"].deviation, rtol=1e-2)


def test_networks_that_differ_in_their_statistics_alone_get_new_ones():
    merge = merged(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    other = {n: t + 7 if "running" in n else t for n, t in merge.ends[0].items()}
    merge = merge_of(merge.model, merge.trace, [merge.ends[0], other], merge.examples)
    expected = reset(merge)
    assert_same(dict(repaired(merge, reset)), expected)
    assert not torch.allclose(expected["1.running_mean"], merge.state["1.running_mean"])


def test_reset_changes_nothing_without_statistics():
    merge = merged(mlp(6, 8, 3))
    assert_close(reset(merge, images=10), merge.state, 0)


def test_layers_with_computed_or_shared_weights_are_left():
    network = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    network[4].weight = network[2].weight
    merge = merged(network)
    assert measured_layers(merge) == []


def test_biases_are_merged_by_powers_of_the_weights():
    merge = merged(mlp(6, 16, 16, 3), weights=[0.25, 0.75])
    a, b = merge.ends
    state = bias(merge, shrink="full")
    for depth, name in enumerate(("0.bias", "2.bias", "4.bias"), 1):
        assert torch.allclose(state[name], 0.25**depth * a[name] + 0.75**depth * b[name])
    assert merge.facts == {"layers": 3, "depth": 3.0}
    assert torch.equal(state["2.weight"], merge.state["2.weight"])


def test_the_depth_is_that_of_the_longest_way_and_begins_again_after_a_norm():
    merge = merged(Block())
    bias(merge, shrink="full")
    assert merge.facts["depth"] == 4.0, "first, again, again, head; the way through the branch begins after the norm"


def test_a_network_without_weight_changes_no_bias():
    network = mlp(6, 16, 16, 3)
    a, other = (randomised(network.double(), seed) for seed in (1, 2))
    b = {n: t + 0.01 * torch.randn(t.shape, generator=generator(1), dtype=t.dtype) for n, t in a.items()}
    three = merged(network, weights=[0.5, 0.5, 0.0], states=[a, b, other])
    assert_close(bias(three), bias(merged(network, states=[a, b])), 1e-12)


def test_similar_networks_keep_their_biases():
    network = mlp(6, 16, 16, 3)
    a = randomised(network.double())
    b = {n: t + 0.01 * torch.randn(t.shape, generator=generator(1), dtype=t.dtype) for n, t in a.items()}
    merge = merged(network, states=[a, b])
    assert_close(bias(merge), merge.state, 1e-2)
    assert (bias(merge, shrink="full")["4.bias"] - merge.state["4.bias"]).norm() > 0.5 * merge.state["4.bias"].norm()


# ---- diagnostics


def test_a_linear_network_mixes_features_in_its_first_layer_and_unrelated_ones_shrink_below_it():
    merge = merged(mlp(6, 64, 64, 64, 3))
    table = list(llfc(merge, merge.state, merge.examples))
    assert [row["layer"] for row in table] == ["0", "2", "4", "6"]
    assert table[0]["distance"] < 1e-12 and abs(table[0]["coefficient"] - 1) < 1e-12
    assert table[3]["distance"] > 0.01 and table[2]["coefficient"] < 0.95
    assert all(row["ends"] > 0.3 for row in table)


def test_ends_that_cancel_are_no_nan():
    merge = merged(mlp(6, 8, 3))
    opposite = {n: -(1 + 1e-9) * t for n, t in merge.ends[0].items()}
    merge = merge_of(merge.model, merge.trace, [merge.ends[0], opposite], merge.examples)
    (first, *_) = llfc(merge, merge.ends[0], merge.examples)
    assert isfinite(first["distance"]) and first["ends"] == pytest.approx(2)


def test_an_end_mixes_features_exactly():
    merge = merged(mlp(6, 8, 3), weights=[1, 0])
    for row in llfc(merge, merge.ends[0], merge.examples):
        assert abs(row["distance"]) < 1e-12 and abs(row["coefficient"] - 1) < 1e-12 and row["coefficient_sd"] < 1e-12


def test_options_of_repairs_reach_them():
    merge = merged(mlp(6, 8, 3))
    few, many = (partial(repair, images=n)(merge) for n in (20, 300))
    assert not torch.equal(few["0.weight"], many["0.weight"])
