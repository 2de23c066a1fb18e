"""Streamed correlations against numpy in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralign.moments import Moments

SPLITS = [[60], [1] * 60, [1, 59], [30, 30], [7, 20, 33]]


def samples(dtype: torch.dtype = torch.float64, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """60 samples of two sets of 4 correlated units of different scales."""
    draws = torch.Generator().manual_seed(0)
    common = torch.randn(60, 4, generator=draws, dtype=torch.float64)
    first, second = (common + torch.randn(60, 4, generator=draws, dtype=torch.float64) for _ in range(2))
    scales = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64)
    return (first * scales + offset).to(dtype), (second * scales.flip(0) - offset).to(dtype)


def streamed(first: Tensor, second: Tensor, split: list[int]) -> Moments:
    moments = Moments(first.shape[1])
    for a, b in zip(first.split(split), second.split(split), strict=True):
        moments.add(a, b)
    return moments


def pearson(first: Tensor, second: Tensor) -> np.ndarray:
    units = first.shape[1]
    return np.corrcoef(first.double().numpy(), second.double().numpy(), rowvar=False)[:units, units:]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_correlation_equals_numpy_whatever_the_batches(split: list[int]) -> None:
    first, second = samples()
    found = streamed(first, second, split).correlation()
    np.testing.assert_allclose(found, pearson(first, second), rtol=0, atol=1e-13)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_large_common_offset_costs_no_accuracy(split: list[int], dtype: torch.dtype, tolerance: float) -> None:
    first, second = samples(dtype, offset=1e4)
    found = streamed(first, second, split).correlation()
    np.testing.assert_allclose(found, pearson(first, second), rtol=0, atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 2.0, 4.0, 100.0])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_offset_that_begins_after_the_first_batch_costs_no_accuracy(
    offset: float, dtype: torch.dtype, tolerance: float
) -> None:
    """The origin is that of the first batch; what comes then may lie anywhere."""
    first, second = samples(offset=offset)
    first[20:] += 1e4
    second[20:] -= 1e5
    first, second = first.to(dtype), second.to(dtype)
    found = streamed(first, second, [20, 1, 39]).correlation()
    np.testing.assert_allclose(found, pearson(first, second), rtol=0, atol=tolerance)


def test_samples_near_zero_are_taken_as_they_are_and_samples_far_from_it_are_not() -> None:
    first, second = samples()
    assert streamed(first, second + 100, [30, 30]).origins[0] is None
    (_, origin) = streamed(first, second + 100, [30, 30]).origins
    torch.testing.assert_close(origin, (second + 100)[:30].mean(0))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_products_are_those_of_the_raw_values(offset: float) -> None:
    first, second = samples(offset=offset)
    found = streamed(first, second, [7, 20, 33]).products()
    np.testing.assert_allclose(found, first.numpy().T @ second.numpy() / 60, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_uncentred_is_the_cosine(split: list[int]) -> None:
    first, second = samples(offset=0.5)
    unit = [side.numpy() / np.linalg.norm(side.numpy(), axis=0) for side in (first, second)]
    found = streamed(first, second, split).correlation(centred=False)
    np.testing.assert_allclose(found, unit[0].T @ unit[1], rtol=0, atol=1e-13)


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
    found = streamed(first, second, split).correlation()
    assert torch.isfinite(found).all()
    assert found[1].tolist() == [0] * 4 and found[:, 2].tolist() == [0] * 4
    assert (found[[0, 2, 3]][:, [0, 1, 3]].abs() > 0).all()


def test_uncentred_a_dead_unit_gives_nought_and_a_constant_one_its_cosine() -> None:
    first, second = samples()
    first[:, 0], first[:, 1], second[:, 0], second[:, 1] = 0, 2, 0, 5
    found = streamed(first, second, [20, 40]).correlation(centred=False)
    assert torch.isfinite(found).all()
    assert found[0].tolist() == [0] * 4 and found[:, 0].tolist() == [0] * 4
    assert found[1, 1].item() == pytest.approx(1)


def test_a_small_but_real_variation_counts() -> None:
    first, second = samples()
    found = streamed(first * 1e-5 + 1, second * 1e-7, [30, 30]).correlation()
    np.testing.assert_allclose(found, pearson(first, second), rtol=0, atol=1e-6)


def test_one_sample_has_no_correlation_but_a_cosine() -> None:
    one = torch.tensor([[1.0, -2.0]])
    assert streamed(one, one, [1]).correlation().tolist() == [[0, 0], [0, 0]]
    assert streamed(one, one, [1]).correlation(centred=False).tolist() == [[1, -1], [-1, 1]]


def test_nothing_added_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples were added"):
        Moments(3).correlation()
    with pytest.raises(ValueError, match="no samples were added"):
        Moments(3).products()


def test_the_samples_are_not_changed() -> None:
    first, second = samples()
    before = first.clone(), second.clone()
    streamed(first, second, [30, 30]).correlation()
    assert torch.equal(first, before[0]) and torch.equal(second, before[1])
