"""Curves in weight space: exact ends, known formulas, lengths."""

from typing import Any

import pytest
import torch
from torch import Tensor

from neuralign.config.plugins import plugin
from neuralign.config.signatures import plugins, schema
from neuralign.curves.curve import Curve, cumulative_lengths, straight_line
from neuralign.curves.families.bezier import bezier

TS = torch.linspace(0, 1, 21, dtype=torch.float64).tolist()
# every family, with several numbers of bends if it has the option
ENTRIES: list[dict[str, Any]] = [
    {"use": use, **options}
    for use in plugins("curves")
    for options in ([{"bends": n} for n in (1, 2, 5)] if "bends" in schema("curves", use).model_fields else [{}])
]


def vectors(count: int, size: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def some_curve(entry: dict[str, Any], dtype: torch.dtype = torch.float64) -> Curve:
    """A curve of this family with random ends and random bends."""
    basis = plugin("curves", entry)
    points = vectors(len(basis(torch.tensor(0.0, dtype=torch.float64))), dtype=dtype)
    return Curve(basis, points[[0, -1]], points[1:-1])


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
class TestEveryBasis:
    def test_its_weights_are_never_negative_and_sum_to_one(self, entry: dict[str, Any]) -> None:
        basis = plugin("curves", entry)
        for t in TS:
            weights = basis(torch.tensor(t, dtype=torch.float64))
            assert weights.dtype == torch.float64
            assert weights.min() >= 0
            assert weights.sum().item() == pytest.approx(1, abs=1e-14)

    def test_has_as_many_bends_as_asked_for(self, entry: dict[str, Any]) -> None:
        assert len(some_curve(entry).bends) == entry.get("bends", 0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_meets_both_ends_to_the_bit(self, entry: dict[str, Any], dtype: torch.dtype) -> None:
        curve = some_curve(entry, dtype)
        assert torch.equal(curve(0.0), curve.ends[0])
        assert torch.equal(curve(1.0), curve.ends[1])
        assert curve(0.3).dtype == dtype

    def test_is_the_same_backwards_with_the_points_reversed(self, entry: dict[str, Any]) -> None:
        curve = some_curve(entry)
        back = Curve(curve.basis, curve.ends.flip(0), curve.bends.flip(0))
        for t in TS:
            torch.testing.assert_close(curve(t), back(1 - t), rtol=1e-12, atol=1e-12)

    def test_gradients_flow_to_the_bends_alone_with_the_basis_as_weights(self, entry: dict[str, Any]) -> None:
        curve = some_curve(entry)
        bends = curve.bends.clone().requires_grad_()
        point = Curve(curve.basis, curve.ends, bends)(0.3)
        assert point.requires_grad == (len(bends) > 0)
        if len(bends):
            direction = vectors(1)[0]
            (gradient,) = torch.autograd.grad(point @ direction, bends)
            weights = curve.basis(torch.tensor(0.3, dtype=torch.float64))[1:-1]
            torch.testing.assert_close(gradient, torch.outer(weights, direction))

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
    def test_a_straight_curve_is_the_segment_at_the_same_t(
        self, entry: dict[str, Any], dtype: torch.dtype, tolerance: float
    ) -> None:
        start, end = vectors(2, dtype=dtype)
        curve = straight_line(plugin("curves", entry), start, end)
        for t in TS:
            torch.testing.assert_close(curve(t), torch.lerp(start, end, t), rtol=tolerance, atol=tolerance)

    def test_distances_start_at_zero_and_increase(self, entry: dict[str, Any]) -> None:
        actual = cumulative_lengths(some_curve(entry), TS)
        assert actual[0] == 0.0
        assert all(after > before for before, after in zip(actual, actual[1:], strict=False))


def test_a_bezier_of_one_bend_is_the_formula_of_the_paper() -> None:
    start, bend, end = vectors(3)
    curve = Curve(bezier, torch.stack([start, end]), bend[None])
    for t in TS:
        expected = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        torch.testing.assert_close(curve(t), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(curve(0.5), start / 4 + bend / 2 + end / 4)


def test_a_bezier_of_more_bends_is_de_casteljaus_construction() -> None:
    curve = some_curve({"use": "bezier", "bends": 4})
    points = torch.cat([curve.ends[:1], curve.bends, curve.ends[1:]])
    for t in TS:
        inner = points
        while len(inner) > 1:
            inner = torch.lerp(inner[:-1], inner[1:], t)
        torch.testing.assert_close(curve(t), inner[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bends", [1, 2, 5])
def test_a_chain_passes_through_its_bends_and_is_straight_between(bends: int) -> None:
    curve = some_curve({"use": "chain", "bends": bends})
    points = torch.cat([curve.ends[:1], curve.bends, curve.ends[1:]])
    for i, point in enumerate(points):
        torch.testing.assert_close(curve(i / (bends + 1)), point, rtol=1e-13, atol=1e-13)
    for i, (before, after) in enumerate(zip(points, points[1:], strict=False)):
        torch.testing.assert_close(curve((i + 0.25) / (bends + 1)), torch.lerp(before, after, 0.25))


def test_distances_of_a_segment_are_shares_of_its_length() -> None:
    curve = some_curve({"use": "segment"})
    length = (curve.ends[1] - curve.ends[0]).norm().item()
    assert cumulative_lengths(curve, TS) == pytest.approx([t * length for t in TS], rel=1e-12)


def test_distances_of_a_chain_add_up_its_pieces() -> None:
    curve = some_curve({"use": "chain", "bends": 2})
    points = torch.cat([curve.ends[:1], curve.bends, curve.ends[1:]])
    expected = [0.0, *(points[1:] - points[:-1]).norm(dim=1).cumsum(0).tolist()]
    assert cumulative_lengths(curve, [0, 1 / 3, 2 / 3, 1]) == pytest.approx(expected, rel=1e-12)


def test_distances_along_a_bezier_approach_the_integral_of_its_speed() -> None:
    start, bend, end = vectors(3)
    ts = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    velocity = 2 * torch.outer(1 - ts, bend - start) + 2 * torch.outer(ts, end - bend)
    steps = torch.cumulative_trapezoid(velocity.norm(dim=1), ts)
    curve = Curve(bezier, torch.stack([start, end]), bend[None])
    actual = cumulative_lengths(curve, ts[::100].tolist())
    assert actual[-1] == pytest.approx(steps[-1].item(), rel=1e-4)
    assert actual[100] == pytest.approx(steps[9_999].item(), rel=1e-4)


def test_distances_do_not_need_the_ends() -> None:
    curve = some_curve({"use": "bezier"})
    assert cumulative_lengths(curve, [0.3, 0.4]) == [0.0, pytest.approx((curve(0.4) - curve(0.3)).norm().item())]
