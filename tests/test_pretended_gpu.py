"""The pretended GPU refuses what CUDA refuses, sees what makes the host wait, and gives the bits of the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.pretended_gpu import pretended_gpu

GPU = torch.device("cuda")


def test_tensors_say_where_they_are() -> None:
    with pretended_gpu():
        for tensor in (torch.ones(2, device="cuda"), torch.ones(2).cuda(), torch.tensor([1.0], device=GPU)):
            for derived in (tensor, tensor + 1, tensor.new_zeros(3), torch.zeros_like(tensor), tensor.double()):
                assert derived.is_cuda and derived.device == torch.device("cuda", 0)
        assert not tensor.cpu().is_cuda and not torch.ones(2).is_cuda


def test_a_moved_tensor_is_a_copy_and_passes_gradients() -> None:
    with pretended_gpu():
        here = torch.tensor([1.0, 2.0], requires_grad=True)
        (here.to(GPU) * torch.tensor([3.0, 4.0], device=GPU)).sum().backward()
        assert here.grad is not None and not here.grad.is_cuda
        assert here.grad.tolist() == [3.0, 4.0]
        there = here.detach().cuda()
        there.zero_()
        assert here.tolist() == [1.0, 2.0] and there.tolist() == [0.0, 0.0]


def test_a_network_computes_and_learns_with_the_bits_of_the_cpu() -> None:
    results = []
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pretended_gpu():
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
            network.to(device)(x.to(device)).square().sum().backward()
            results.append([p.grad.cpu() for p in network.parameters() if p.grad is not None])
    assert len(results[0]) == 6
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("action", ["x + y", "x.add_(y)", "y.add_(x)", "torch.cat([x, y])", "x @ y", "y[x > 0]"])
def test_operands_on_two_devices_are_an_error(action: str) -> None:
    with pretended_gpu():
        names = {"torch": torch, "x": torch.ones(3, device="cuda"), "y": torch.ones(3)}
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device, but found"):
            eval(action, names)


def test_a_single_number_of_the_cpu_is_allowed_beside_the_gpu_but_not_as_the_result() -> None:
    with pretended_gpu():
        x, number = torch.ones(3, device="cuda"), torch.tensor(2.0)
        assert (x * number).tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="same device"):
            number.add_(x.sum())


def test_shapes_change_in_place() -> None:
    with pretended_gpu():
        x = torch.ones(2, 3, device="cuda")
        assert x.t_().shape == (3, 2) and x.unsqueeze_(0).shape == (1, 3, 2) and x.squeeze_(0).shape == (3, 2)
        x[2, 0] = 5
        assert x.tolist() == [[1, 1], [1, 1], [5, 1]]
        assert (torch.ones(3, device="cuda") @ x).tolist() == [7, 3]  # removes a dimension in place


class Counting(TorchDispatchMode):
    """Another mode within the block, which counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_another_dispatch_mode_may_look_on_also_in_a_backward_pass() -> None:
    """The gradient of a split fills what is not used with zeros, which autograd makes where its arguments are."""
    with pretended_gpu(), Counting() as counting:
        x = torch.ones(5, device="cuda", requires_grad=True)
        first, _, last = x.split([2, 1, 2])
        (first * last).sum().backward()
        assert x.grad is not None and x.grad.tolist() == [1, 1, 0, 1, 1]
    assert counting.count > 5


def test_a_generator_of_the_other_device_is_an_error() -> None:
    with pretended_gpu():
        for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
            with pytest.raises(RuntimeError, match=f"Expected a '{device}' device type for generator but found"):
                torch.rand(2, device=device, generator=torch.Generator(other))
            assert torch.rand(2, device=device, generator=torch.Generator(device)).device.type == device


def test_the_gpu_has_a_global_generator_of_its_own() -> None:
    with pretended_gpu():
        torch.manual_seed(0)
        expected = torch.rand(3).tolist()
        torch.manual_seed(0)
        torch.rand(5, device="cuda")
        assert torch.rand(3).tolist() == expected
        torch.cuda.default_generators[0].manual_seed(0)
        assert torch.rand(3, device="cuda").tolist() == expected


@pytest.mark.parametrize(
    "action, what",
    [
        ("x.sum().item()", "_local_scalar_dense"),
        ("bool((x > 0).all())", "_local_scalar_dense"),
        ("x.tolist()", "copy from the GPU"),
        ("x.cpu()", "copy from the GPU"),
        ("torch.ones(3).to(x)", "copy to the GPU"),
        ("x.nonzero()", "nonzero"),
        ("x[x > 0]", "a mask as index"),
        ("x[torch.tensor([0, 1])]", "an index on the CPU"),
        ("torch.equal(x, x)", "equal"),
    ],
)
def test_what_makes_the_host_wait_is_seen_with_its_place(action: str, what: str) -> None:
    with pretended_gpu() as seen:
        x = torch.ones(3, device="cuda")
        assert not seen.waits
        eval(action, {"torch": torch, "x": x})
    assert (what, "<string>:1") in {(kind, place.removeprefix("/")) for kind, place in seen.waits}


def test_launches_are_operations_that_are_neither_views_nor_on_the_cpu() -> None:
    with pretended_gpu() as seen:
        x = torch.zeros(2, 3, device="cuda")
        (x + 1).view(3, 2).T[0].mul_(2)
        torch.ones(3) + 1
    assert dict(seen.launches) == {"zeros": 1, "add": 1, "mul_": 1}


def test_a_graph_repeats_its_operations_on_the_same_memory_and_freezes_what_python_did() -> None:
    with pretended_gpu() as seen:
        x, total, factor = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda"), 2.0
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = x * factor
            total += result
        x.fill_(10)
        factor = 3.0
        graph.replay()
        assert result.tolist() == [20.0, 20.0] and total.tolist() == [22.0, 22.0]
    assert seen.replays == 1


def test_a_graph_that_draws_goes_on_drawing() -> None:
    def draw(x: Tensor, generator: torch.Generator) -> None:
        x.copy_(torch.rand(2, device="cuda", generator=generator))

    with pretended_gpu():
        generator, x = torch.Generator("cuda").manual_seed(0), torch.zeros(2, device="cuda")
        drawn = []
        for _ in range(3):
            draw(x, generator)
            drawn.append(x.tolist())
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            draw(x, generator)
        generator.manual_seed(0)
        for expected in drawn:
            graph.replay()
            assert x.tolist() == expected


def test_waiting_is_an_error_in_a_recording_and_where_it_is_forbidden() -> None:
    with pretended_gpu():
        x = torch.ones(2, device="cuda")
        with (
            pytest.raises(RuntimeError, match="not permitted when stream is capturing"),
            torch.cuda.graph(torch.cuda.CUDAGraph()),
        ):
            x.sum().item()
        torch.cuda.set_sync_debug_mode("error")
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            x.cpu()
        torch.cuda.set_sync_debug_mode("default")
        assert x.sum().item() == 2.0


def test_pytorch_is_as_before_after_the_block() -> None:
    before = torch.Generator, torch.autocast, torch.cuda.is_available(), torch.cuda.CUDAGraph
    with pretended_gpu():
        assert torch.cuda.is_available()
        x = torch.ones(2, device="cuda")
    assert (torch.Generator, torch.autocast, torch.cuda.is_available(), torch.cuda.CUDAGraph) == before
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.raises(RuntimeError, match="used outside of its block"):
        x + 1
