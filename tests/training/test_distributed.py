"""Two processes that train together do what one process does with the same batches."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks, started
from tiny import assert_close, assert_same, perceptron, pictures, plain, randomised, small, unnormalised
from torch import Tensor, nn
from torch.nn import functional
from workflow_project import REPOSITORY

from neuralign.common.errors import UserError
from neuralign.common.files import PACKAGE
from neuralign.common.seeding import PartGenerator, stream, uniform
from neuralign.curves.curve import Curve, straight_line
from neuralign.curves.families.bezier import bezier
from neuralign.datasets.loaders import Loader
from neuralign.networks.model import Model
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.states import split_trainable
from neuralign.training.attacks.pgd import pgd
from neuralign.training.augmentation import pipeline
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.distributed import batch_norm
from neuralign.training.distributed.batch_norm import synchronised
from neuralign.training.distributed.processes import ALONE, Part, Processes, joined
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Diverged, Progress, Regime
from neuralign.training.schedules.halving import halving

# 11 images: batches of 4, 4 and 3, the last with parts of 1 and 2
REGIME = Regime(
    epochs=2, batch_size=4, lr=0.05, momentum=0.9, weight_decay=0.01, schedule=partial(halving, every=2, drift=0.99)
)
ATTACK = partial(pgd, eps=8 / 255, step=2 / 255, steps=2)
AUGMENT = [{"use": "crop"}, {"use": "flip"}]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two processes."""
    with started(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Three processes."""
    with started(3, tmp_path_factory.mktemp("three")) as ranks:
        yield ranks


def network(name: str) -> Model:
    """A network in float64 that draws no random numbers, by name."""
    model = perceptron(16) if name == "perceptron" else small(name)
    for layer in model.network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


def endpoint(
    processes: Processes,
    name: str = "tinyten",
    regime: Regime = REGIME,
    *,
    count: int = 11,
    attack: Any = None,
    augment: list[Any] = AUGMENT,
    dtype: torch.dtype = torch.float64,
    folder: Path | None = None,
    stop: int | None = None,
    loaded: bool = False,
) -> Progress:
    """An endpoint, trained to its end, or interrupted after `stop` steps; its checkpoint is in `folder`.

    `loaded`: whether its batches come from somebody else's loader.
    """
    model = network(name)
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in randomised(model.network).items()}
    model = Model(model.network.to(dtype), model.mean.to(dtype), model.std.to(dtype))
    start, buffers = split_trainable(model, state)
    layout = FlatLayout.of(start)
    training = Training(
        model,
        layout.flatten(start),
        lambda weights, _: weights,
        layout,
        buffers,
        Loader(list(pictures(count).batches(regime.batch_size)), torch.device("cpu")) if loaded else pictures(count),
        regime,
        transform=pipeline(augment),
        attack=attack,
        seed=1,
        keeper=Checkpoint(folder, every=0) if folder else None,
        processes=processes,
    )
    if stop is None:
        return fit(training)
    steps = training.steps()
    for _ in range(stop):
        next(steps)
    return training.progress


def bend(processes: Processes, attack: Any = None) -> Progress:
    """A Bezier curve of one bend."""
    model = network("tinyten")
    (start, buffers), (end, _) = (split_trainable(model, randomised(model.network, seed)) for seed in (1, 2))
    layout = FlatLayout.of(start)
    line = straight_line(bezier, layout.flatten(start), layout.flatten(end))

    def sample(bends: Tensor, weights: Tensor) -> Tensor:
        return Curve(bezier, line.ends, bends).at(weights)

    return fit(
        Training(
            *(model, line.bends, sample, layout, buffers, pictures(11), REGIME),
            transform=plain,
            basis=bezier,
            attack=attack,
            seed=1,
            processes=processes,
        )
    )


def assert_equal(actual: Progress, expected: Progress, tolerance: float) -> None:
    """The same weights, optimiser, buffers and history, within a relative and absolute tolerance."""
    assert_close(tensors(actual), tensors(expected), tolerance)
    assert (actual.epoch, actual.step) == (expected.epoch, expected.step)
    for row, other in zip(actual.history, expected.history, strict=True):
        assert row == pytest.approx(other, rel=tolerance)


def tensors(progress: Progress) -> dict[str, Tensor]:
    return {"trainable": progress.trainable, **progress.optimiser, **progress.buffers}


# equality with one process


@pytest.mark.parametrize("name", ["tinyten", "resnet", "googlenet", "vit"])
def test_an_endpoint_is_that_of_one_process(two: Ranks, name: str) -> None:
    regime = replace(REGIME, epochs=1)  # rounding grows with every step, most in GoogLeNet
    first, second = two.run(endpoint, name, regime)
    assert_equal(first, endpoint(ALONE, name, regime), 1e-10)
    assert_same(tensors(second), tensors(first))
    assert second.history == first.history


def test_an_endpoint_of_three_processes_is_that_of_one(three: Ranks) -> None:
    assert_equal(three.run(endpoint)[2], endpoint(ALONE), 1e-10)


@pytest.mark.parametrize("size", [3, 6, 7, 9, 11, 12])  # last batches of 2, 5, 4, 2, 11 and 11
def test_batches_of_any_size_are_those_of_one_process(two: Ranks, size: int) -> None:
    regime = replace(REGIME, batch_size=size)
    assert_equal(two.run(endpoint, "perceptron", regime)[0], endpoint(ALONE, "perceptron", regime), 1e-10)


def test_a_batch_with_fewer_images_than_processes_is_that_of_one_process(two: Ranks) -> None:
    regime = replace(REGIME, epochs=1, batch_size=5)  # 5, 5 and 1
    assert_equal(two.run(endpoint, "tinyten", regime)[0], endpoint(ALONE, "tinyten", regime), 1e-10)


def test_batches_of_a_loader_are_shared_too(two: Ranks) -> None:
    first, second = two.run(partial(endpoint, loaded=True), "perceptron")
    expected = endpoint(ALONE, "perceptron", loaded=True)
    assert_equal(first, expected, 1e-10)
    assert_same(tensors(second), tensors(first))
    assert not torch.equal(expected.trainable, endpoint(ALONE, "perceptron").trainable)  # which shuffles


def test_an_attacked_endpoint_is_that_of_one_process(two: Ranks) -> None:
    regime = replace(REGIME, epochs=1)
    first, second = two.run(partial(endpoint, attack=ATTACK), "tinyten", regime)
    assert_equal(first, endpoint(ALONE, "tinyten", regime, attack=ATTACK), 1e-10)
    assert_same(tensors(second), tensors(first))


def test_in_float32_the_difference_is_rounding(two: Ranks) -> None:
    first, _ = two.run(partial(endpoint, dtype=torch.float32), "tinyten")
    assert_equal(first, endpoint(ALONE, "tinyten", dtype=torch.float32), 1e-4)


@pytest.mark.parametrize("attack", [None, ATTACK], ids=["clean", "attacked"])
def test_a_curve_is_that_of_one_process(two: Ranks, attack: Any) -> None:
    first, second = two.run(bend, attack)
    assert_equal(first, bend(ALONE, attack), 1e-10)
    assert_same(tensors(second), tensors(first))


# checkpoints


def test_a_training_resumes_with_the_same_bits(two: Ranks, tmp_path: Path) -> None:
    uninterrupted, _ = two.run(endpoint)
    two.run(partial(endpoint, folder=tmp_path / "key", stop=4))
    resumed, other = two.run(partial(endpoint, folder=tmp_path / "key"))
    assert_same(tensors(resumed), tensors(uninterrupted))
    assert_same(tensors(other), tensors(uninterrupted))
    assert resumed.history == other.history == uninterrupted.history


def test_a_training_resumes_on_another_number_of_processes(two: Ranks, three: Ranks, tmp_path: Path) -> None:
    expected = endpoint(ALONE)
    two.run(partial(endpoint, folder=tmp_path / "key", stop=2))  # within the first epoch
    three.run(partial(endpoint, folder=tmp_path / "key", stop=2))
    assert_equal(endpoint(ALONE, folder=tmp_path / "key"), expected, 1e-10)


def test_all_processes_begin_with_the_state_of_the_first(two: Ranks) -> None:
    first, second = two.run(began_with)
    assert first == second == [0.0, 0.0]


def began_with(processes: Processes) -> list[float]:
    """The first weight and buffer with which a training begins whose arguments differ between processes."""
    model = network("perceptron")
    start, buffers = split_trainable(model, {n: t * 0 + processes.rank for n, t in model.network.state_dict().items()})
    layout = FlatLayout.of(start)
    flat = layout.flatten(start)
    training = Training(
        *(model, flat, lambda w, _: w, layout, buffers, pictures(11), REGIME), transform=plain, seed=1,
        processes=processes,
    )  # fmt: skip
    progress = training.progress
    return [progress.trainable[0].item(), progress.buffers["2.running_mean"][0].item()]


# batch norm


class Activated(nn.BatchNorm2d):
    """A batch norm with a forward of its own, as that of timm."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        ).relu()


class OfTorch(nn.BatchNorm2d):
    """A batch norm that does not call the function of `torch.nn.functional`."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(
            *(x, self.weight, self.bias, self.running_mean, self.running_var),
            *(self.training, self.momentum, self.eps, False),
        )


NORMS = {
    "2d": lambda: nn.BatchNorm2d(3),
    "plain": lambda: nn.BatchNorm2d(3, affine=False, track_running_stats=False),
    "average": lambda: nn.BatchNorm2d(3, momentum=None),
    "1d": lambda: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3)),
    "3d": lambda: nn.Sequential(nn.Unflatten(3, (2, 2)), nn.BatchNorm3d(3)),
    "own forward": lambda: Activated(3),
    "of torch": lambda: OfTorch(3),
}


def normalised(processes: Processes, name: str, count: int = 5) -> dict[str, Tensor]:
    """What a batch norm gives for a part of a batch: outputs, first and second derivatives, and running statistics.

    The derivatives by the inputs are those of a loss of the whole batch. The second ones are of the norm of the first
    by the weight, which are added up over the processes.
    """
    draws = stream(1, "batch")
    norm = NORMS[name]().double().train()
    for tensor in norm.state_dict().values():
        if tensor.dim():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draws, dtype=tensor.dtype))
    part = processes.part(count)
    batch = 100 + torch.randn(count, 3, 4, 4, generator=draws, dtype=torch.float64)
    inputs = batch[part.examples].requires_grad_()
    with synchronised(processes, part) if processes.count > 1 else nullcontext():
        for _ in range(2):
            outputs = norm(inputs)
        loss = outputs.pow(3).mean()
        (gradient,) = torch.autograd.grad(loss, inputs, create_graph=True)
        gradient = gradient * part.count  # for each example n times that of a mean over n
        parameters = list(norm.parameters()) or [inputs]
        second = torch.autograd.grad((gradient * gradient).mean(), parameters)
    result = {f"second {i}": g.clone() for i, g in enumerate(second)} if list(norm.parameters()) else {}
    for tensor in result.values():
        processes.mean_(tensor, part)
    return result | {"outputs": outputs.detach(), "gradient": gradient.detach(), **norm.state_dict()}


@pytest.mark.parametrize("name", NORMS)
def test_synchronised_batch_norm_is_that_of_the_whole_batch(two: Ranks, name: str) -> None:
    expected = normalised(ALONE, name)
    parts = two.run(normalised, name)
    per_example = ("outputs", "gradient")
    for key in per_example:
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), expected[key], rtol=1e-9, atol=1e-9)
    for part in parts:
        others = {key: value for key, value in part.items() if key not in per_example}
        assert_close(others, {key: expected[key] for key in others}, 1e-9)


def test_a_batch_of_one_image_has_the_statistics_of_that_image(two: Ranks) -> None:
    expected, parts = normalised(ALONE, "2d", 1), two.run(normalised, "2d", 1)
    for part in parts:
        assert_close(part, expected, 1e-9)


def test_frozen_batch_norms_are_left_alone() -> None:
    norm, images = nn.BatchNorm2d(3).eval(), torch.rand(2, 3, 4, 4)
    expected = norm(images)
    with synchronised(Processes(0, 2), Processes(0, 2).part(4)) as updated:
        assert torch.equal(norm(images), expected) and not updated
    assert functional.batch_norm is batch_norm.ORIGINAL and torch.batch_norm is batch_norm.ORIGINAL_OF_TORCH


def test_one_value_per_channel_is_refused_as_by_torch() -> None:
    norm, part = nn.BatchNorm1d(3), Processes(0, 2).part(1)
    with (
        synchronised(Processes(0, 2), part),
        pytest.raises(ValueError, match="^Expected more than 1 value per channel"),
    ):
        norm(torch.rand(1, 3))


def test_batch_norm_per_process_keeps_the_running_statistics_of_the_first(two: Ranks) -> None:
    regime = replace(REGIME, epochs=1, batch_size=11, batch_norm="per_process")
    first, second = two.run(endpoint, "tinyten", regime)
    assert_same(tensors(second), tensors(first))
    model = network("tinyten")
    state = {name: t.clone() for name, t in randomised(model.network).items()}
    index = torch.randperm(11, generator=stream(1, "order", 0))
    model.network.train()
    batch = pipeline(AUGMENT)(pictures(11).pixels[index], stream(1, "augmentation", 0, 0))
    model(state, batch[:5])  # its part
    assert_close(first.buffers, {name: state[name] for name in first.buffers}, 1e-10)
    other = two.run(endpoint, "tinyten", replace(regime, batch_norm="synchronised"))[0]
    assert not torch.allclose(first.trainable, other.trainable, rtol=1e-6)


class Extremes(nn.Module):
    """A layer that keeps the largest input it has seen, how many were large, and a table that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("large", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.detach().max())
        self.large += (x.detach() > 0.5).sum()
        return x


def extremes(processes: Processes) -> dict[str, Tensor]:
    """The buffers after one epoch, with other seeds of dropout than one process has."""
    layers = [nn.Flatten(), Extremes(), nn.Linear(3 * 16 * 16, 5)]
    model = unnormalised(nn.Sequential(*layers))
    start, buffers = split_trainable(model, randomised(model.network))
    layout, regime = FlatLayout.of(start), replace(REGIME, epochs=1, batch_size=11)
    options = {"transform": plain, "seed": 1, "processes": processes}
    start_and_layout = (layout.flatten(start), lambda w, _: w, layout)
    return fit(Training(model, *start_and_layout, buffers, pictures(11), regime, **options)).buffers


def test_other_buffers_that_a_step_changes_are_those_of_the_first_process(two: Ranks) -> None:
    first, second = two.run(extremes)
    assert_same(second, first)
    index = torch.randperm(11, generator=stream(1, "order", 0))[:5]
    pixels = pictures(11).pixels[index].double() / 255
    assert first["1.largest"].item() == pytest.approx(pixels.max().item())
    assert first["1.large"].item() == (pixels > 0.5).sum()


def test_a_layer_with_a_synchronisation_of_its_own_is_refused(two: Ranks) -> None:
    message = (
        "the layer '0' is a SyncBatchNorm, which has a synchronisation of its own; use BatchNorm layers: the regime's "
        "`batch_norm` says whether they are synchronised"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        batch_norm.demand_replaceable(nn.Sequential(nn.SyncBatchNorm(3)), "per_process")


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda norm: torch.jit.trace(norm, torch.rand(2, 3, 4, 4))])
def test_a_batch_norm_in_torchscript_is_refused_only_if_it_is_to_be_synchronised(compiled) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), compiled(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))))
    message = "the layer '1' is TorchScript with a batch norm, which cannot be synchronised; use the layers it was made"
    with pytest.raises(UserError, match=re.escape(message)):
        batch_norm.demand_replaceable(network, "synchronised")
    batch_norm.demand_replaceable(network, "per_process")
    batch_norm.demand_replaceable(nn.Sequential(compiled(nn.ReLU())), "synchronised")


# randomness


def draws_of_steps(processes: Processes) -> list[float]:
    """What a layer draws at random in each step."""
    model, seen = network("perceptron"), list[float]()
    model.network.register_forward_pre_hook(lambda *_: seen.append(torch.rand(()).item()))
    start, buffers = split_trainable(model, randomised(model.network))
    layout = FlatLayout.of(start)
    everything = (model, layout.flatten(start), lambda w, _: w, layout, buffers, pictures(11), REGIME)
    fit(Training(*everything, transform=plain, seed=1, processes=processes))
    return seen


def test_random_layers_draw_other_numbers_in_every_process(two: Ranks) -> None:
    first, second = two.run(draws_of_steps)
    assert first == draws_of_steps(ALONE)
    assert len({*first, *second}) == 2 * len(first)


def test_a_part_of_a_batch_gets_its_numbers_of_the_whole_batch() -> None:
    generator = PartGenerator()
    generator.whole, generator.part = 5, slice(2, 4)
    expected = uniform((5, 3), stream(1))[2:4]
    assert torch.equal(uniform((2, 3), generator.manual_seed(stream(1).initial_seed())), expected)


# errors


def test_a_divergence_ends_all_processes_with_the_same_message(two: Ranks) -> None:
    first, second = two.run(error_of_divergence)
    assert first == second == error_of_divergence(ALONE)
    assert first.startswith("the loss is not finite in epoch 1, step 2 of 3")


def error_of_divergence(processes: Processes) -> str:
    with pytest.raises(Diverged) as error:
        endpoint(processes, regime=replace(REGIME, lr=1e200))
    return str(error.value)


def test_a_single_image_for_a_process_is_refused_where_batch_norm_cannot_take_it(two: Ranks) -> None:
    expected = (
        "11 images in batches of 4 leave one alone in the part of one of 2 processes, and the network does not train "
        "on a single one: "
    )
    for text in two.run(error_of_one_image):
        assert text.startswith(expected)


def error_of_one_image(processes: Processes) -> str:
    with pytest.raises(UserError) as error:
        endpoint(processes, "perceptron", replace(REGIME, batch_norm="per_process"))  # the last batch has 3
    return str(error.value)


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    message = "WORLD_SIZE: 4 processes are asked for, and the environment names 3; start them by `torchrun --nproc-per-"
    with pytest.raises(UserError, match=f"^{re.escape(message)}node 4`$"), joined(torch.device("cpu"), 4):
        pass


@pytest.mark.parametrize("count", [None, 1])
def test_a_process_is_alone_where_no_others_are_named_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, count: int | None
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1" if count is None else "2")
    with joined(torch.device("cpu"), count) as processes:
        assert processes == ALONE and processes.leads
        tensor = torch.ones(2)
        processes.sum_(tensor), processes.mean_(tensor, Part(slice(1), 1, 2, 0.5)), processes.copy_first_([tensor])
        assert tensor.tolist() == [1, 1] and processes.of_first(3) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("examples", [1, 2, 3, 5, 6, 128])
def test_the_parts_of_a_batch_are_the_batch(count: int, examples: int) -> None:
    parts = [Processes(rank, count).part(examples) for rank in range(count)]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.weight for part in parts) == pytest.approx(examples)
    assert min(part.count for part in parts) == Processes(0, count).smallest_part(examples) > 0
    indices = [list(range(examples))[part.examples] for part in parts]
    if examples >= count:
        assert sum(indices, []) == list(range(examples)) and max(map(len, indices)) <= min(map(len, indices)) + 1
    else:
        assert indices == [list(range(examples))] * count


# a program of one's own


@pytest.mark.parametrize("count", [1, 2])
def test_the_program_of_the_documentation_runs(tmp_path: Path, count: int) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/several-devices.md").read_text(), re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    process = subprocess.run(
        [sys.executable, *torchrun, "train.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert re.fullmatch(rf"{{'epoch': 2, 'lr': .*}} by {count}\n", process.stdout)
    assert torch.load(tmp_path / "network.pt").keys() >= {"0.weight", "1.running_mean"}
