"""The traced symmetry of networks: which groups are free, why the others are fixed, and that permutations are right."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from awkward import (
    ATTENTIVE,
    BRANCHED,
    FIXED,
    FREE,
    ORDERED,
    Forward,
    Fourier,
    Keeping,
    Net,
    between,
    conv,
    dense,
    masked,
    tied_words,
    weight,
)
from tiny import generator, pictures, randomised, small, unnormalised
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from neuralign.alignment import problem as align
from neuralign.alignment.activations import activation_batches
from neuralign.datasets.images import as_float
from neuralign.networks.model import Model
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import PermutationSpec
from neuralign.symmetry.tracing.axes import Axis
from neuralign.symmetry.tracing.call import Call, TensorRecord
from neuralign.symmetry.tracing.execution import DeterministicModule
from neuralign.symmetry.tracing.operations.rules import RULES
from neuralign.symmetry.tracing.trace import Trace, trace
from neuralign.training.batch_norm import refresh


def traced(network: nn.Module, *, attention: bool = False) -> Trace:
    """The trace of a network, after a check that permutations keep the function and that its taps can be read."""
    model, images = unnormalised(network), pictures(side=8)
    symmetry = trace(network, as_float(images.pixels[:2]).double(), attention=attention)
    state = randomised(network)
    problem = align.Problem(model, symmetry, state, state, images)
    for seed in range(3):
        align.certify(problem, permutations.random(symmetry.spec, generator(seed)))
    ((_, (target, _)),) = activation_batches(problem, symmetry.taps, 12)
    for group, taps in symmetry.taps.items():
        assert taps, group
        assert all(tap.start + symmetry.spec.sizes[group] <= target[tap.node].shape[1] for tap in taps)
    return symmetry


# the networks of the paper


@pytest.mark.parametrize(
    "use, options, groups", [("tinyten", {}, 8), ("resnet", {"depth": 32}, 18), ("googlenet", {}, 61)]
)
def test_the_networks_of_the_paper_have_as_many_free_groups_as_it_says(use: str, options: dict, groups: int) -> None:
    model = small(use, **options)
    spec = trace(model.network, as_float(pictures().pixels[:2]).double()).spec
    assert len(spec.free) == groups


def test_the_widths_of_tinyten_are_those_of_the_paper() -> None:
    model = small("tinyten", width=16)
    spec = trace(model.network, as_float(pictures().pixels[:2]).double()).spec
    assert [spec.sizes[group] for group in spec.free] == [16, 16, 32, 32, 32, 64, 64, 64]


def declared_resnet(blocks: int) -> dict[str, tuple]:
    """The spec of a ResNet, spelt out by hand."""

    def layer(name: str, *groups: str) -> dict[str, tuple]:
        axes = tuple(((group, 1),) for group in groups)
        return {f"{name}.weight": axes if len(axes) == 1 else (*axes, (), ())}

    def norm(name: str, group: str) -> dict[str, tuple]:
        return {f"{name}.{t}": (((group, 1),),) for t in ("weight", "bias", "running_mean", "running_var")}

    streams = {1: "conv1", 2: "stage2.0.conv2", 3: "stage3.0.conv2"}
    axes = layer("conv1", "conv1", "<x>") | norm("bn1", "conv1")
    for stage, stream in streams.items():
        for i in range(blocks):
            name = f"stage{stage}.{i}"
            before = streams[stage - 1] if i == 0 and stage > 1 else stream
            axes |= layer(f"{name}.conv1", f"{name}.conv1", before) | norm(f"{name}.bn1", f"{name}.conv1")
            axes |= layer(f"{name}.conv2", stream, f"{name}.conv1") | norm(f"{name}.bn2", stream)
            if before != stream:
                axes |= layer(f"{name}.shortcut.0", stream, before) | norm(f"{name}.shortcut.1", stream)
    return axes | {"fc.weight": ((("fc", 1),), ((streams[3], 1),)), "fc.bias": ((("fc", 1),),)}


def test_the_traced_resnet_equals_the_one_declared_by_hand() -> None:
    model = small("resnet", depth=20)
    spec = trace(model.network, as_float(pictures().pixels[:2]).double()).spec
    assert spec.axes == declared_resnet(3)
    assert spec.fixed == {"<x>", "fc"}


def test_a_stream_is_tapped_at_every_post_activation_that_carries_it() -> None:
    model = small("resnet", depth=14)
    taps = trace(model.network, as_float(pictures().pixels[:2]).double()).taps
    assert [tap.node for tap in taps["conv1"]] == ["relu", "stage1_0_relu2", "stage1_1_relu2"]
    assert [tap.node for tap in taps["stage2.0.conv2"]] == ["stage2_0_relu2", "stage2_1_relu2"]
    assert [tap.node for tap in taps["stage1.0.conv1"]] == ["stage1_0_relu1"]


@pytest.mark.parametrize("training", [False, True])
def test_tracing_leaves_the_network_as_it_was(model: Model, training: bool) -> None:
    model.network.train(training)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    symmetry = trace(model.network, as_float(pictures().pixels[:2]).double())
    symmetry.probe(symmetry.taps)
    assert {module.training for module in model.network.modules()} == {training}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


# networks with awkward parts


def image() -> Tensor:
    return as_float(pictures(side=8).pixels[:2]).double()


@pytest.mark.parametrize("name", FREE)
def test_an_awkward_network_has_its_free_groups(name: str) -> None:
    make, groups = FREE[name]
    torch.manual_seed(0)
    symmetry = traced(make())
    assert {group: symmetry.spec.sizes[group] for group in symmetry.spec.free} == groups


@pytest.mark.parametrize("name", ATTENTIVE)
def test_heads_and_channels_of_an_attention_are_free_on_request(name: str) -> None:
    make, groups = FREE[name]
    torch.manual_seed(0)
    symmetry = traced(make(), attention=True)
    assert {group: symmetry.spec.sizes[group] for group in symmetry.spec.free} == groups | ATTENTIVE[name]
    assert not set(ATTENTIVE[name]) & set(trace(make().double(), image()).spec.free)


@pytest.mark.parametrize("name", ORDERED)
def test_positional_encodings_of_an_attention_fix_its_channels(name: str) -> None:
    axis, reason = ORDERED[name]
    torch.manual_seed(0)
    assert trace(FREE[name][0]().double(), image(), attention=True).frozen[axis] == reason


RECURRENT = {
    "LSTM": (lambda: nn.LSTM(8, 32, batch_first=True), {"0": 32}),
    "both ways": (lambda: nn.LSTM(8, 16, bidirectional=True, batch_first=True), {"0": 16, "0_reverse": 16}),
    "projected": (
        lambda: nn.LSTM(8, 40, 2, proj_size=32, batch_first=True),
        {"0": 40, "hh_l0": 32, "1": 40, "hh_l1": 32},
    ),
    "GRU": (lambda: nn.GRU(8, 32, 2, batch_first=True), {"0": 32, "1": 32}),
    "RNN": (lambda: nn.RNN(8, 32, batch_first=True), {"0": 32}),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_layer_has_the_same_symmetry_in_every_precision(name: str) -> None:
    """Without tracing, one fused kernel would run the whole layer in float32."""
    make, groups = RECURRENT[name]
    torch.manual_seed(0)
    network = Net(lambda n, x: n.head(n.lstm(x[:, 0])[0][:, -1]), lstm=make(), head=nn.Linear(32, 10))
    coarse = trace(network, image()[:, :1].float())
    sizes = {f"lstm.weight_{'ih_l' * n[:1].isdigit()}{n}": size for n, size in groups.items()}
    assert {group: coarse.spec.sizes[group] for group in coarse.spec.free} == sizes
    fine = trace(network.double(), image()[:, :1])
    assert (fine.spec, fine.taps, fine.reads) == (coarse.spec, coarse.taps, coarse.reads)
    flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    assert flags == (True, True)


def test_slicing_every_second_unit_of_a_recurrent_state_fixes_all_gates() -> None:
    layers = {"rnn": nn.LSTM(4, 6, batch_first=True), "fc": nn.Linear(3, 5)}
    symmetry = traced(Net(lambda n, x: n.fc(n.rnn(n.a(x).flatten(2).mT)[0][..., ::2].mean(1)), a=conv(3, 4), **layers))
    assert symmetry.spec.free == ("a",)
    assert symmetry.frozen["rnn.weight_ih_l0[0]"] == "aten::slice takes one of every 2 positions of it"


def test_a_buffer_with_an_entry_per_unit_is_permuted_with_the_units() -> None:
    network = between(Keeping(masked, kept=torch.arange(8) < 3)).double()
    spec = trace(network, image()).spec
    assert spec.axes["layer.kept"] == ((("a", 1),),)
    moved = permutations.permute(spec, {"a": torch.arange(8).flip(0)}, network.state_dict())
    assert moved["layer.kept"].tolist() == [False] * 5 + [True] * 3


@pytest.mark.parametrize("kept", [torch.arange(8.0), torch.arange(3.0)])
def test_a_buffer_without_units_is_not_in_the_spec(kept: Tensor) -> None:
    spec = trace(between(Keeping(lambda n, x: x + n.kept.sum(), kept=kept)).double(), image()).spec
    assert spec.free == ("a",)
    assert "layer.kept" not in spec.axes
    assert spec == trace(between(nn.Identity()).double(), image()).spec


def test_a_buffer_that_changes_its_shape_fixes_its_units() -> None:
    def grow(n: nn.Module, x: Tensor) -> Tensor:
        seen = n.kept
        n.kept = torch.cat([seen, x.mean((0, 2, 3))])
        return x + seen[:8, None, None]

    symmetry = trace(between(Keeping(grow, kept=weight(8).detach())).double(), image())
    assert not symmetry.spec.free
    assert symmetry.frozen["a.weight[0]"] == "layer.kept keeps it for the next run in another shape"


@pytest.mark.parametrize("questions, free", [(4, ("a",)), (5, ())])
def test_decisions_with_too_many_answers_fix_everything(questions: int, free: tuple[str, ...]) -> None:
    def ask(n: nn.Module, x: Tensor) -> Tensor:
        n.answers = [bool(x.max() > 0.1 * i) for i in range(questions)]
        return n.b(n.a(x).relu()).mean((2, 3))

    assert trace(Net(ask, a=conv(3, 8), b=conv(8, 5)).double(), image()).spec.free == free


def test_complex_weights_have_the_symmetry_of_the_layers_they_join() -> None:
    torch.manual_seed(0)
    spec = trace(Fourier(), image().float()).spec
    assert {group: spec.sizes[group] for group in spec.free} == FREE["complex weights"][1]
    assert spec.axes["spectral"][:2] == ((("lift", 1),), (("spectral", 1),))
    assert spec.axes["skip.weight"][:2] == ((("spectral", 1),), (("lift", 1),))


@pytest.mark.parametrize("name", FIXED)
def test_an_operation_that_reads_the_order_of_channels_fixes_them(name: str) -> None:
    make, reason = FIXED[name]
    torch.manual_seed(0)
    symmetry = traced(make())
    assert "a" not in symmetry.spec.free
    assert any(reason in words for words in symmetry.frozen.values()), symmetry.frozen


@pytest.mark.parametrize("name", BRANCHED)
def test_what_all_branches_for_different_inputs_permit_is_free(name: str) -> None:
    make, groups = BRANCHED[name]
    torch.manual_seed(0)
    network = make()
    symmetry = traced(network)
    assert {group: symmetry.spec.sizes[group] for group in symmetry.spec.free} == groups
    assert symmetry.branches == 1
    state, permutation = randomised(network), permutations.random(symmetry.spec, generator(1))
    permuted = permutations.permute(symmetry.spec, permutation, state)
    outputs = []
    for inputs in (image(), image() + 1, image() - image().min() + 1):  # dark; bright; bright without black pixels
        expected, actual = (functional_call(network, tensors, inputs) for tensors in (state, permuted))
        torch.testing.assert_close(actual, expected)
        outputs.append(expected)
    assert not torch.allclose(outputs[0], outputs[1])


def test_activations_are_read_only_where_all_branches_compute_them() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        first = n.a(x).relu() if x.mean() > 0.9 else n.a(x)
        return n.c(n.b(first).relu()).mean((2, 3))

    symmetry = traced(Net(do, a=conv(3, 4), b=conv(4, 6), c=conv(6, 5)))
    assert symmetry.spec.free == ("a", "b")
    assert {read.operation for read in symmetry.reads.values()} == {"convolution"}
    dark, bright = (symmetry.probe(symmetry.taps)[0](inputs) for inputs in (image(), image() + 1))
    assert [tensor.shape for tensor in dark] == [tensor.shape for tensor in bright]


def test_maps_are_followed_through_the_grid_sampler_of_cudnn_too() -> None:
    maps, grid = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 5, 2)
    records = {}
    for tensor in (maps, grid):
        axes = tuple(map(Axis, tensor.shape))
        records[id(tensor)] = TensorRecord(axes, tensor, tensor.stride(), "", True, False, True)
    name = "cudnn_grid_sampler"
    names = [argument.name for argument in torch.ops.aten.cudnn_grid_sampler.default._schema.arguments]
    arguments = dict(zip(names, (maps, grid), strict=True))
    (axes,) = RULES[name](Call(name, arguments, (torch.zeros(2, 3, 5, 5),), records, f"aten::{name}"))
    assert axes[1] is records[id(maps)].axes[1]
    assert axes[2:] == records[id(grid)].axes[1:3]


def test_an_operation_without_a_rule_fixes_its_operands_only() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.b(n.a(x).relu()).renorm(2, 1, 1.0)
        return n.d(n.c(x).relu()).mean((2, 3))

    symmetry = traced(Net(do, a=conv(3, 4), b=conv(4, 6), c=conv(6, 4), d=conv(4, 5)))
    assert symmetry.spec.free == ("a", "c")
    assert symmetry.frozen["b.weight[0]"] == "aten::renorm has no rule"
    assert symmetry.frozen["c.weight[1]"] == "aten::convolution in layer 'c' joins it with an axis of fixed order"


def test_a_layer_that_raised_an_error_is_not_taken_for_the_running_one() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        with suppress(RuntimeError):
            n.other_size(x)
        return n.b(n.a(x).relu().flip(1)).mean((2, 3))

    symmetry = trace(Net(do, other_size=conv(7, 4), a=conv(3, 4), b=conv(4, 5)), as_float(pictures(side=8).pixels))
    assert symmetry.frozen["a.weight[0]"] == "aten::flip depends on its order"


def test_a_tied_embedding_has_fixed_tokens_and_free_units() -> None:
    network = tied_words().double()
    symmetry = trace(network, torch.arange(6).view(2, 3) % 5)
    assert symmetry.spec.axes["words.weight"] == ((("words", 1),), (("words#2", 1),))
    assert symmetry.spec.free == ("words#2",)
    assert symmetry.frozen["words.weight[0]"] == "aten::embedding in layer 'words' indexes it by position"


def test_batch_norms_of_a_dense_net_lie_on_concatenated_groups() -> None:
    symmetry = traced(dense())
    assert symmetry.spec.axes["bn3.weight"] == ((("stem", 1), ("grow1", 1), ("grow2", 1)),)
    assert symmetry.spec.axes["fc.weight"] == ((("fc", 1),), (("stem", 1), ("grow1", 1), ("grow2", 1)))
    assert [tap.start for tap in symmetry.taps["grow1"]] == [4, 4]
    assert len(symmetry.taps["stem"]) == 3


def concat(n: nn.Module, x: Tensor) -> list[Tensor]:
    return [n.a(x).relu(), n.b(x).relu()]


FLAT = [
    lambda n, x: torch.flatten(torch.cat(concat(n, x), 1), 1),
    lambda n, x: torch.cat(concat(n, x), dim=1).flatten(start_dim=1),
    lambda n, x: torch.cat(tensors=concat(n, x), dim=-3).contiguous().view(x.size(0), -1),
    lambda n, x: torch.cat([y.flatten(1) for y in concat(n, x)], -1),
    lambda n, x: torch.reshape(torch.cat(concat(n, x), 1), (x.shape[0], -1)),
    lambda n, x: (lambda y: y.reshape(y.shape[0], y.shape[1] * y.shape[2] * y.size(3)))(torch.cat(concat(n, x), 1)),
    lambda n, x: n.flat(torch.cat(concat(n, x), 1)),
    lambda n, x: n.flat(torch.cat(concat(n, x), 1)).flatten(1).reshape(x.shape[0], -1),
]


@pytest.mark.parametrize("flat", FLAT)
def test_a_linear_layer_after_a_flattened_concatenation_has_blocks_of_pixels(flat: Forward) -> None:
    layers = {"a": conv(3, 4), "b": conv(3, 3), "norm": nn.BatchNorm1d(7 * 64), "fc": nn.Linear(7 * 64, 5)}
    symmetry = traced(Net(lambda n, x: n.fc(n.norm(flat(n, x))), **layers, flat=nn.Flatten()))
    assert symmetry.spec.axes["fc.weight"] == ((("fc", 1),), (("a", 64), ("b", 64)))
    assert symmetry.spec.axes["norm.running_var"] == ((("a", 64), ("b", 64)),)


def test_the_same_tensor_concatenated_twice_has_its_group_twice() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x).relu()
        return n.b(torch.cat([x, x], dim=1)).mean((2, 3))

    assert traced(Net(do, a=conv(3, 4), b=conv(8, 5))).spec.axes["b.weight"][1] == (("a", 1), ("a", 1))


def test_all_summands_of_chained_sums_are_one_group() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        a, b, c, d = (getattr(n, name)(x) for name in "abcd")
        return n.e((c + d).relu() + (torch.add(a, b, alpha=2) + 0.5 * b - c / 2)).mean(dim=[-1, -2])

    symmetry = traced(Net(do, e=conv(4, 5), **{name: conv(3, 4) for name in "abcd"}))
    assert symmetry.spec.free == ("a",)
    assert symmetry.spec.axes["d.weight"][0] == (("a", 1),)


def test_a_sum_of_concatenations_unifies_them_block_by_block() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        a, b, c, d = (getattr(n, name)(x) for name in "abcd")
        return n.e(torch.cat([a, b], 1) + torch.cat([c, d], 1)).mean((2, 3))

    layers = {"a": conv(3, 4), "b": conv(3, 2), "c": conv(3, 4), "d": conv(3, 2), "e": conv(6, 5)}
    assert traced(Net(do, **layers)).spec.free == ("a", "b")


def test_a_sum_of_a_concatenation_and_its_swap_unifies_both_halves() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        a, b = n.a(x), n.b(x)
        return n.c(torch.cat([a, b], 1) + torch.cat([b, a], 1)).mean((2, 3))

    symmetry = traced(Net(do, a=conv(3, 4), b=conv(3, 4), c=conv(8, 5)))
    assert symmetry.spec.axes["c.weight"][1] == (("a", 1), ("a", 1))


def test_layers_that_are_added_to_the_input_or_the_output_are_fixed() -> None:
    symmetry = traced(Net(lambda n, x: (n.a(x) + x).relu() + n.b(n.c(x)), a=conv(3, 3), b=conv(4, 3), c=conv(3, 4)))
    assert symmetry.spec.free == ("c",)
    assert symmetry.spec.axes["a.weight"][0] == symmetry.spec.axes["b.weight"][0] == (("<x>", 1),)


def test_a_gate_per_channel_is_in_the_group_that_it_scales() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x).relu()
        gate = n.up(F.relu(n.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return n.b(x * gate).mean((2, 3))

    symmetry = traced(Net(do, a=conv(3, 4), down=nn.Conv2d(4, 2, 1), up=nn.Conv2d(2, 4, 1), b=conv(4, 5)))
    assert symmetry.spec.free == ("a", "down")


def test_a_layer_may_have_the_name_of_the_input() -> None:
    symmetry = traced(Net(lambda n, x: n.b(n.x(x).relu()).mean((2, 3)), x=conv(3, 4), b=conv(4, 5)))
    assert symmetry.spec.sizes == {"<x>": 3, "x": 4, "b": 5}
    assert symmetry.spec.free == ("x",)


FUNCTIONS = [
    lambda x: F.max_pool2d(F.relu(x), 2),
    lambda x: F.avg_pool2d(torch.relu(x), 2),
    lambda x: F.gelu(x).contiguous(),
    lambda x: F.leaky_relu(x, 0.2) * 3 - 1,
    lambda x: F.silu(x) / 2.0,
    lambda x: 2 - torch.mul(x.tanh(), 2),
    lambda x: -F.elu(x, inplace=True),
    lambda x: F.dropout(F.relu(x), 0.5, training=False),
    lambda x: F.adaptive_max_pool2d(F.hardswish(x), 2),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_channelwise_functions_leave_groups_free(function: Callable[[Tensor], Tensor]) -> None:
    symmetry = traced(Net(lambda n, x: n.b(function(n.a(x))).mean((2, 3)), a=conv(3, 4), b=conv(4, 5)))
    assert symmetry.spec.free == ("a",)


LAYERS = [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ReLU(inplace=True), nn.Dropout2d(), nn.AvgPool2d(2), nn.Identity()]
LAYERS += [nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.BatchNorm2d(4, affine=False)]
LAYERS += [nn.BatchNorm2d(4, track_running_stats=False)]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_channelwise_layers_leave_groups_free(layer: nn.Module) -> None:
    symmetry = traced(Net(lambda n, x: n.b(n.layer(n.a(x))).mean((2, 3)), a=conv(3, 4), layer=layer, b=conv(4, 5)))
    assert symmetry.spec.free == ("a",)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 8, 8), (8, 8), (2, 1, 1, 1)])
def test_a_learned_scale_shared_by_all_channels_leaves_them_free(shape: tuple[int, ...]) -> None:
    scale = nn.Parameter(torch.ones(shape))

    def do(n: nn.Module, x: Tensor) -> Tensor:
        return n.b(n.a(x) * n.scale).mean((2, 3))

    network = Net(do, a=conv(3, 4), b=conv(4, 5), scale=scale)
    symmetry = trace(network.double(), as_float(pictures(side=8).pixels[:2]).double())
    if shape != (2, 1, 1, 1):  # for two images only
        assert traced(network).spec == symmetry.spec
    assert symmetry.spec.free == ("a",)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), (1, 4, 8, 8)])
def test_a_learned_scale_per_channel_is_permuted_with_the_channels(shape: tuple[int, ...]) -> None:
    symmetry = traced(
        Net(lambda n, x: n.b(n.a(x) * n.scale).mean((2, 3)), a=conv(3, 4), b=conv(4, 5), scale=weight(*shape))
    )
    assert symmetry.spec.free == ("a",)
    assert (("a", 1),) in symmetry.spec.axes["scale"]


def test_a_learned_scale_per_channel_may_be_computed() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        return n.b(n.a(x) * torch.sigmoid(n.scale)).mean((2, 3))

    assert traced(Net(do, a=conv(3, 4), b=conv(4, 5), scale=weight(1, 4, 1, 1))).spec.free == ("a",)


def test_a_sum_of_misaligned_concatenations_unifies_channels_that_meet() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        a, b = n.a(x), n.b(x)
        return n.c(torch.cat([a, b], 1) + torch.cat([b, a], 1)).mean((2, 3))

    symmetry = traced(Net(do, a=conv(3, 4), b=conv(3, 2), c=conv(6, 5)))
    assert [symmetry.spec.sizes[group] for group in symmetry.spec.free] == [2]


def test_channels_that_are_added_to_image_columns_are_fixed() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        return n.c(n.a(x) + n.b(x).mean((2, 3)))  # (2, 8, 8, 8) + (2, 8): the channels meet the columns

    symmetry = trace(Net(do, a=conv(3, 8), b=conv(3, 8), c=conv(8, 5)), torch.rand(8, 3, 8, 8))
    assert symmetry.spec.free == ("a",)
    assert symmetry.frozen["b.weight[0]"] == "aten::add joins it with an axis of fixed order"


@pytest.mark.parametrize("layer", [conv(4, 4), nn.BatchNorm2d(4)], ids=["conv", "norm"])
def test_a_layer_used_twice_unifies_its_input_and_output(layer: nn.Module) -> None:
    network = Net(
        lambda n, x: n.b(n.twice(n.twice(n.a(x)).relu())).mean((2, 3)), a=conv(3, 4), twice=layer, b=conv(4, 5)
    )
    assert traced(network).spec.free == ("a",)


def test_layers_that_share_a_tensor_are_permuted_alike() -> None:
    layers = {"stem": conv(3, 4), "a": conv(4, 4), "b": conv(4, 4), "c": conv(4, 5)}
    network = Net(lambda n, x: n.c(n.b(n.a(n.stem(x)))).mean((2, 3)), **layers)
    network.b.weight = network.a.weight
    symmetry = traced(network)
    assert symmetry.spec.free == ("stem",)
    assert symmetry.spec.axes["b.weight"] == symmetry.spec.axes["a.weight"]


NAMES = "network mode made reads largest reading as_training whole training_ state spec taps running recorder probe"


@pytest.mark.parametrize("name", NAMES.split())
def test_layers_and_parameters_may_have_any_name(name: str) -> None:
    """Attributes of a wrapper would hide layers and parameters of the same name."""
    layers = {name: conv(3, 6), "fc": nn.Linear(6, 5)}
    assert traced(Net(lambda n, x: n.fc(getattr(n, name)(x).relu().mean((2, 3))), **layers)).spec.free == (name,)
    kept = {name: weight(6, 3), "fc": nn.Linear(6, 5)}
    symmetry = traced(Net(lambda n, x: n.fc(F.linear(x.mean((2, 3)), getattr(n, name)).relu()), **kept))
    assert symmetry.spec.free == (name,)


@pytest.mark.parametrize("name", NAMES.split())
def test_a_traced_network_is_a_module_with_all_heads_and_its_own_names(name: str) -> None:
    """In any mode it runs heads of training mode, so that the statistics of their norms can be estimated."""

    def do(n: nn.Module, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = n.a(x).relu()
        return (x.mean((2, 3)), n.get_submodule(name)(x)) if n.training else x.mean((2, 3))

    network = Net(do, a=conv(3, 4), **{name: nn.Sequential(conv(4, 4), nn.BatchNorm2d(4))}).double()
    module = DeterministicModule(trace(network, image()).network).eval()
    state = randomised(network)
    model, pixels = unnormalised(module), pictures(side=8)
    kept = {n: t for n, t in state.items() if n not in dict(network.named_parameters())}
    refreshed = refresh(model, {n: t for n, t in state.items() if n not in kept}, kept, pixels.batches(12))
    assert not torch.equal(refreshed[f"{name}.1.running_mean"], state[f"{name}.1.running_mean"])
    assert len(functional_call(module, state, (image(),))) == 2


def test_the_size_of_a_trace_is_linear_in_the_depth_of_a_network() -> None:
    """A residual stream of 150 sums has 2^150 paths, which no tracing could follow one by one."""

    def do(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        for layer in n.layers:
            x = x + layer(x).relu()
        return n.b(x).mean((2, 3))

    layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(150))
    symmetry = traced(Net(do, a=conv(3, 4), layers=layers, b=conv(4, 5)))
    assert symmetry.spec.free == ("a",)
    assert len(symmetry.taps["a"]) == 150


# the probe


@pytest.mark.parametrize("add", [Tensor.add_, lambda a, b: torch.add(b, a, out=a)], ids=["in place", "out"])
def test_the_probe_reads_activations_before_a_sum_in_place_overwrites_them(
    add: Callable[[Tensor, Tensor], object],
) -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        kept = F.relu(n.a(x))
        add(kept, n.b(x))
        return n.c(kept).mean((2, 3))

    network = Net(do, a=conv(3, 4), b=conv(3, 4), c=conv(4, 5)).double()
    pixels = as_float(pictures(side=8).pixels).double()
    symmetry = trace(network, pixels[:2])
    probe, names = symmetry.probe(symmetry.taps)
    assert names == ["relu"]
    with torch.no_grad():
        torch.testing.assert_close(probe(pixels)[0], network.a(pixels).relu())


def test_the_probe_drops_nothing_where_dropout_is_a_function() -> None:
    def do(n: nn.Module, x: Tensor) -> Tensor:
        return n.c(F.relu(n.b(F.dropout(F.relu(n.a(x)), 0.5, n.training)))).mean((2, 3))

    network = Net(do, a=conv(3, 4), b=conv(4, 4), c=conv(4, 5)).double()
    pixels = as_float(pictures(side=8).pixels).double()
    symmetry = trace(network, pixels[:2])
    probe, names = symmetry.probe(symmetry.taps)
    activations = dict(zip(names, probe(pixels), strict=True))
    torch.testing.assert_close(activations["relu_1"], network.b(network.a(pixels).relu()).relu())


def test_the_probe_gives_what_the_network_computes(convolutional: Model) -> None:
    convolutional.network.eval()
    pixels = convolutional.normalise(as_float(pictures().pixels))
    seen = {}
    for name, layer in convolutional.network.named_modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _, __, output, name=name: seen.update({name.replace(".", "_"): output}))
    symmetry = trace(convolutional.network, pixels[:2])
    seen.clear()
    convolutional.network(pixels)
    probe, names = symmetry.probe(symmetry.taps)
    for name, activation in zip(names, probe(pixels), strict=True):
        if name in seen:  # heads of training mode only are not
            torch.testing.assert_close(activation, seen[name])
    assert seen and seen.keys() <= set(names)


def test_a_group_without_a_post_activation_is_tapped_where_it_is_last_seen() -> None:
    symmetry = traced(
        Net(lambda n, x: n.b(n.norm(n.a(x))).mean((2, 3)), a=conv(3, 4), norm=nn.BatchNorm2d(4), b=conv(4, 5))
    )
    assert [tap.node for tap in symmetry.taps["a"]] == ["norm"]


def test_a_group_without_a_post_activation_is_found_in_a_concatenation() -> None:
    layers = {"a": conv(3, 4), "b": conv(3, 2), "c": conv(6, 5)}
    symmetry = traced(Net(lambda n, x: n.c(torch.cat([n.a(x), n.b(x)], 1)).mean((2, 3)), **layers))
    assert [(tap.node, tap.start) for tap in symmetry.taps["b"]] == [("cat", 4)]


def test_an_input_that_is_flattened_at_once_is_fixed_with_all_its_cells() -> None:
    layers = [nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)]
    symmetry = traced(nn.Sequential(*layers))
    assert symmetry.spec == PermutationSpec(
        axes={
            "1.weight": ((("1", 1),), (("<input>", 64),)),
            "1.bias": ((("1", 1),),),
            **{f"2.{t}": ((("1", 1),),) for t in ("weight", "bias", "running_mean", "running_var")},
            "4.weight": ((("4", 1),), (("1", 1),)),
            "4.bias": ((("4", 1),),),
        },
        sizes={"<input>": 3, "1": 6, "4": 5},
        fixed=frozenset({"<input>", "4"}),
    )
