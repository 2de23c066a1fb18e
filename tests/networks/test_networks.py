"""The networks of the paper: sizes, operations, shapes and initialisation; and properties of every plug-in."""

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from tiny import CONVOLUTIONAL, NETWORKS_OF_IMAGES, SMALL, assert_same
from torch import Tensor, fx, nn

from neuralign.common.files import PACKAGE
from neuralign.config.plugins import plugin
from neuralign.networks.architectures.googlenet import googlenet
from neuralign.networks.architectures.resnet import resnet
from neuralign.networks.architectures.tinyten import tinyten
from neuralign.networks.model import substituted


def small(name: str, classes: int = 5, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return plugin("networks", {"use": name, **SMALL.get(name, {})})(classes, channels)


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def operations(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image."""
    counts = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = layer.weight
        places = output.shape[2:].numel() if output.dim() == 4 else 1
        counts.append(weight.numel() * places)  # type: ignore[operator]

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.device("meta"):
        network(torch.empty(1, 3, side, side))
    return sum(counts)


@pytest.mark.parametrize(
    "make, expected",
    [
        (tinyten, (86_778, 92_628, 99_128)),
        (resnet, (466_906, 472_756, 479_256)),
        (googlenet, (9_960_638, 10_237_388, 10_544_888)),
        (lambda k, c: googlenet(k, c, auxiliary=False), (5_610_154, 5_702_404, 5_804_904)),
    ],
)
def test_sizes_of_the_paper(make: Callable[[int, int], nn.Module], expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert tuple(size(make(classes, 3)) for classes in (10, 100, 200)) == expected


@pytest.mark.parametrize(
    "make, side, mega",
    [(tinyten, 32, 11.36), (tinyten, 64, 47.56), (resnet, 32, 69.1), (resnet, 64, 276.5), (googlenet, 32, 571.5)],
)
def test_operations_of_the_paper(make: Callable[[int, int], nn.Module], side: int, mega: float) -> None:
    with torch.device("meta"):
        network = make(10, 3).eval()
    assert operations(network, side) / 1e6 == pytest.approx(mega, rel=1e-3)


def test_operations_of_the_auxiliary_heads() -> None:
    with torch.device("meta"):
        assert operations(googlenet(10, 3), 32) / 1e6 == pytest.approx(578, rel=1e-3)


@pytest.mark.parametrize("depth", [1, 9, 31])
def test_resnet_refuses_depths_that_do_not_exist(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth: found {depth}, allowed are 6n \+ 2"):
        resnet(10, 3, depth=depth)


def test_tinyten_refuses_to_lose_a_stage() -> None:
    with pytest.raises(ValueError, match="depth: found 5"):
        tinyten(10, 3, depth=5)


@pytest.mark.parametrize("make, depth", [(tinyten, d) for d in (6, 7, 8, 11)] + [(resnet, d) for d in (8, 14, 32)])
def test_depth_counts_the_layers(make: Callable[..., nn.Module], depth: int) -> None:
    """TinyTen's depth is its convolutions; a ResNet's includes the linear layer, and no projection."""
    with torch.device("meta"):
        network = make(10, 3, depth=depth)
    kernels = [layer.kernel_size for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert depth == (len(kernels) if make is tinyten else kernels.count((3, 3)) + 1)


def test_tinyten_starts_xavier_normal() -> None:
    torch.manual_seed(0)
    for layer in tinyten(10, 3, width=64).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            cells = layer.weight[0, 0].numel()
            std = (2 / (cells * sum(layer.weight.shape[:2]))) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
            assert layer.bias is not None and not layer.bias.any()


def test_resnet_starts_kaiming_normal_over_its_fan_out() -> None:
    torch.manual_seed(0)
    for layer in resnet(10, 3, width=64, depth=8).modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[:, 0].numel()
            assert layer.bias is None
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_googlenet_starts_with_a_truncated_normal() -> None:
    torch.manual_seed(0)
    truncated = 0.01 * 0.8796  # standard deviation of a normal distribution truncated at two deviations
    for layer in googlenet(10, 3, width=0.5).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.abs().max() <= 0.02
            if layer.weight.numel() > 10_000:
                assert layer.weight.std().item() == pytest.approx(truncated, rel=0.05)


@pytest.mark.parametrize("make, eps", [(tinyten, 1e-5), (resnet, 1e-5), (googlenet, 1e-3)])
def test_epsilon_and_momentum_of_batch_norms(make: Callable[[int, int], nn.Module], eps: float) -> None:
    with torch.device("meta"):
        norms = [layer for layer in make(10, 3).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms and all((norm.eps, norm.momentum) == (eps, 0.1) for norm in norms)


def test_auxiliary_heads_are_used_in_training_mode_only() -> None:
    network, images = small("googlenet"), torch.rand(2, 3, 16, 16)
    assert [tuple(logits.shape) for logits in network.train()(images)] == [(2, 5)] * 3
    assert network.eval()(images).shape == (2, 5)
    assert googlenet(5, 3, width=0.1, auxiliary=False).train()(images).shape == (2, 5)


def test_dropout_follows_its_options() -> None:
    with torch.device("meta"):
        network = googlenet(5, 3, dropout=0.1, auxiliary_dropout=0.3)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.3, 0.3, 0.1]


def test_every_network_is_covered() -> None:
    assert {"tinyten", "resnet", "googlenet"} <= set(NETWORKS_OF_IMAGES)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("channels, height, width", [(3, 16, 16), (1, 28, 28), (4, 17, 33)])
def test_images_of_any_size_and_channels(name: str, channels: int, height: int, width: int) -> None:
    network = small(name, channels=channels).eval()
    logits = network(torch.rand(2, channels, height, width))
    assert logits.shape == (2, 5) and logits.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS_OF_IMAGES)
def test_every_parameter_learns_and_no_module_is_dead(name: str) -> None:
    network, used = small(name).train(), set()
    for path, layer in network.named_modules():
        layer.register_forward_hook(lambda *_, path=path: used.add(path))
    outputs = network(torch.rand(4, 3, 16, 16))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(x.square().sum() for x in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(path in used for path, layer in network.named_modules() if not isinstance(layer, nn.ModuleDict))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("training", [True, False])
def test_torch_fx_sees_the_same_function(name: str, training: bool) -> None:
    network, images = small(name).train(training), torch.rand(4, 3, 16, 16)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    torch.testing.assert_close(fx.symbolic_trace(network)(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS_OF_IMAGES)
def test_one_seed_gives_one_network(name: str) -> None:
    assert_same(small(name).state_dict(), small(name).state_dict())


NARROW = """
import torch
from torch.nn import functional as F
from neuralign.networks.architectures.resnet import resnet
for width in range(1, 9):
    network = resnet(5, 3, depth=8, width=width).to(memory_format=torch.channels_last)
    for _ in range(8):
        images = torch.rand(8, 3, 16, 16).to(memory_format=torch.channels_last)
        F.cross_entropy(network(images), torch.arange(8) % 5).backward()
"""


def test_narrow_resnets_train_on_processors_without_avx512() -> None:
    """It runs in a process of its own, because oneDNN would abort the process."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", NARROW], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_shortcut_of_a_narrow_resnet_is_the_convolution_of_stride_two_that_wider_ones_have() -> None:
    narrow, wide = (resnet(5, 3, depth=8, width=width).stage2.get_submodule("0").double() for width in (4, 8))
    strides = [block.get_submodule("shortcut.0").stride for block in (narrow, wide)]
    assert strides == [(1, 1), (2, 2)]
    x = torch.rand(2, 4, 9, 9).double()
    actual = narrow(x)
    narrow.sample, narrow.get_submodule("shortcut.0").stride = torch.nn.Identity(), (2, 2)
    torch.testing.assert_close(actual, narrow(x))


def test_a_layer_with_two_names_gets_its_own_tensors_back() -> None:
    norm = torch.nn.BatchNorm1d(3).train()
    network = torch.nn.Sequential(OrderedDict(first=norm, again=norm))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    with substituted(network, state):
        network(torch.rand(4, 3))
    assert norm.running_mean is not state["first.running_mean"]
    assert_same(network.state_dict(), before)
    assert not torch.equal(state["first.running_mean"], before["first.running_mean"])
