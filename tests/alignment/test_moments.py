"""Streamed correlations against numpy in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralign.alignment.moments import Moments
from neuralign.common.errors import UserError

SPLITS = [[60], [1] * 60, [1, 59], [30, 30], [7, 20, 33]]


def samples(dtype: torch.dtype = torch.float64, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """60 samples of two sets of 4 correlated units of different scales."""
    draws = torch.Generator().manual_seed(0)
    common = torch.randn(60, 4, generator=draws, dtype=torch.float64)
    first, second = (common + torch.randn(60, 4, generator=draws, dtype=torch.float64) for _ in range(2))
    scales = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64)
    return (first * scales + offset).to(dtype), (second * scales.flip(0) - offset).to(dtype)


def streamed(first: Tensor, second: Tensor, split: list[int]) -> Moments:
    """The moments, in float64 if float32 has not been enough."""
    for precise in (False, True):
        moments = Moments(first.shape[1], precise=precise)
        for a, b in zip(first.split(split), second.split(split), strict=True):
            moments.add(a, b)
        if moments.in_range():
            break
    moments.demand_finite()
    return moments


def pearson(first: Tensor, second: Tensor) -> np.ndarray:
    units = first.shape[1]
    return np.corrcoef(first.double().numpy(), second.double().numpy(), rowvar=False)[:units, units:]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_correlation_equals_numpy_whatever_the_batches(split: list[int]) -> None:
    first, second = samples()
    actual = streamed(first, second, split).correlation()
    np.testing.assert_allclose(actual, pearson(first, second), rtol=0, atol=1e-13)
    assert actual.dtype == torch.float64


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_large_common_offset_costs_no_accuracy(split: list[int], dtype: torch.dtype, tolerance: float) -> None:
    first, second = samples(dtype, offset=1e4)
    actual = streamed(first, second, split).correlation()
    np.testing.assert_allclose(actual, pearson(first, second), rtol=0, atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 2.0, 4.0, 100.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_offset_that_begins_after_the_first_batch_costs_no_accuracy(
    offset: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The origins are the means of the first batch; later batches may lie anywhere."""
    first, second = samples(offset=offset)
    first[20:] += 1e4
    second[20:] -= 1e5
    first, second = first.to(dtype), second.to(dtype)
    actual = streamed(first, second, [20, 1, 39]).correlation()
    np.testing.assert_allclose(actual, pearson(first, second), rtol=0, atol=tolerance)


def test_samples_near_zero_are_taken_as_they_are_and_samples_far_from_it_are_not() -> None:
    first, second = samples()
    assert streamed(first, second + 100, [30, 30]).origins[0] is None
    (_, origin) = streamed(first, second + 100, [30, 30]).origins
    torch.testing.assert_close(origin, (second + 100)[:30].mean(0))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_products_are_those_of_the_raw_values(offset: float) -> None:
    first, second = samples(offset=offset)
    actual = streamed(first, second, [7, 20, 33]).products()
    np.testing.assert_allclose(actual, first.numpy().T @ second.numpy() / 60, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_uncentred_is_the_cosine(split: list[int]) -> None:
    first, second = samples(offset=0.5)
    unit = [side.numpy() / np.linalg.norm(side.numpy(), axis=0) for side in (first, second)]
    actual = streamed(first, second, split).correlation(centred=False)
    np.testing.assert_allclose(actual, unit[0].T @ unit[1], rtol=0, atol=1e-13)


def test_correlation_leaves_the_moments_as_they_are() -> None:
    first, second = samples()
    moments = streamed(first, second, [60])
    moments.correlation(centred=False)
    np.testing.assert_allclose(moments.correlation(), pearson(first, second), rtol=0, atol=1e-13)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("value", [0.0, 3.3, -1e4 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_unit_that_never_varies_correlates_with_nothing(split: list[int], value: float, dtype: torch.dtype) -> None:
    first, second = samples(dtype)
    first[:, 1], second[:, 2] = value, value
    actual = streamed(first, second, split).correlation()
    assert torch.isfinite(actual).all()
    assert actual[1].tolist() == [0] * 4 and actual[:, 2].tolist() == [0] * 4
    assert (actual[[0, 2, 3]][:, [0, 1, 3]].abs() > 0).all()


def test_uncentred_a_dead_unit_gives_zero_and_a_constant_one_its_cosine() -> None:
    first, second = samples()
    first[:, 0], first[:, 1], second[:, 0], second[:, 1] = 0, 2, 0, 5
    actual = streamed(first, second, [20, 40]).correlation(centred=False)
    assert torch.isfinite(actual).all()
    assert actual[0].tolist() == [0] * 4 and actual[:, 0].tolist() == [0] * 4
    assert actual[1, 1].item() == pytest.approx(1)


def test_a_small_but_real_variation_counts() -> None:
    first, second = samples()
    actual = streamed(first * 1e-5 + 1, second * 1e-7, [30, 30]).correlation()
    np.testing.assert_allclose(actual, pearson(first, second), rtol=0, atol=1e-6)


def test_one_sample_has_no_correlation_but_a_cosine() -> None:
    one = torch.tensor([[1.0, -2.0]])
    assert streamed(one, one, [1]).correlation().tolist() == [[0, 0], [0, 0]]
    assert streamed(one, one, [1]).correlation(centred=False).tolist() == [[1, -1], [-1, 1]]


def test_moments_of_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples were added"):
        Moments(3).correlation()
    with pytest.raises(ValueError, match="no samples were added"):
        Moments(3).products()


def test_the_samples_are_not_changed() -> None:
    first, second = samples()
    before = first.clone(), second.clone()
    streamed(first, second, [30, 30]).correlation()
    assert torch.equal(first, before[0]) and torch.equal(second, before[1])


# squares beyond the range of float32

SCALES = [1e-40, 1e-25, 1e-14, 1.0, 1e17, 1e20, 1e36]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("other", [1.0, 1e-30, 1e30])
def test_correlation_and_cosine_do_not_depend_on_the_scale_of_units(
    split: list[int], scale: float, other: float
) -> None:
    first, second = samples(offset=0.3)
    first[:, 1:] *= scale  # beside a unit of ordinary size
    second *= other
    first, second = first.float(), second.float()
    moments = streamed(first, second, split)
    np.testing.assert_allclose(moments.correlation(), pearson(first, second), rtol=0, atol=2e-6)
    unit = [side.double().numpy() / np.linalg.norm(side.double().numpy(), axis=0) for side in (first, second)]
    np.testing.assert_allclose(moments.correlation(centred=False), unit[0].T @ unit[1], rtol=0, atol=2e-6)
    expected = first.double().numpy().T @ second.double().numpy() / 60
    np.testing.assert_allclose(moments.products(), expected, rtol=1e-4, atol=1e-6 * scale * other)
    assert not moments.unresolved().any()


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_a_scale_that_begins_after_the_first_batch_is_as_good(scale: float) -> None:
    first, second = (side.float() for side in samples())
    first[:20], first[20:] = 0, first[20:] * scale
    actual = streamed(first, second, [20, 20, 20]).correlation()
    np.testing.assert_allclose(actual, pearson(first, second), rtol=0, atol=2e-6)


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("offset", [1e5, 1e6, 4e6])
def test_a_variation_around_an_offset_counts_as_far_as_float32_resolves_it(split: list[int], offset: float) -> None:
    first, second = (side.float() for side in samples(offset=offset))
    moments = streamed(first, second, split)
    np.testing.assert_allclose(moments.correlation(), pearson(first, second), rtol=0, atol=1e-5)
    assert not moments.unresolved().any()


@pytest.mark.parametrize("offset", [2e8, 1e9, 1e12])
def test_units_whose_variation_is_lost_to_rounding_are_unresolved(offset: float) -> None:
    first, second = (side.float() for side in samples())
    first[:, 1] += offset
    second[:, [0, 3]] -= offset
    second[:, 2] = 0  # dead, so nothing was lost
    moments = streamed(first, second, [30, 30])
    assert moments.unresolved().tolist() == [[False, True, False, False], [True, False, False, True]]
    assert moments.constant()[1].tolist() == [True, False, True, True]
    assert (moments.correlation()[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_half_precision_is_summed_up_in_float32(dtype: torch.dtype, offset: float) -> None:
    first, second = (50 * side.repeat(400, 1) + offset for side in samples())  # its squares overflow float16
    first, second = first.to(dtype), second.to(dtype)
    moments = streamed(first, second, [12000, 12000])
    np.testing.assert_allclose(moments.correlation(), pearson(first, second), rtol=0, atol=1e-4)
    assert moments.resolution == torch.finfo(dtype).eps


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("row", [0, 59])
def test_activations_that_are_not_finite_are_refused(value: float, dtype: torch.dtype, row: int) -> None:
    first, second = samples(dtype)
    second[row, [1, 3]] = value
    with pytest.raises(UserError, match=r"of the source or their squares are not finite, in 2 units: 1, 3$"):
        streamed(first, second, [30, 30])
