"""Projection onto the doubly stochastic matrices, and their decomposition into permutations."""

import pytest
import torch
from tiny import generator

from neuralign.alignment import birkhoff
from neuralign.alignment.birkhoff import Projector, decompose
from neuralign.networks.parameters import FlatLayout


def projected(*matrices: torch.Tensor, sweeps: int | None = None, **options: float) -> list[torch.Tensor]:
    """The nearest doubly stochastic matrices, or the result of so many alternating projections."""
    named = {str(i): matrix for i, matrix in enumerate(matrices)}
    layout = FlatLayout.of(named)
    flat = layout.flatten(named)
    projector = Projector(layout, flat)
    if sweeps is None:
        projector.project_(flat, **options)
    else:
        projector.alternate_(flat, sweeps)
    return list(layout.views(flat).values())


def perturbed_identity(n: int, seed: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64) + 0.3 * torch.randn(n, n, generator=generator(seed), dtype=torch.float64)


def assert_sums_are_one(matrix: torch.Tensor, tolerance: float = 1e-9) -> None:
    for dim in (0, 1):
        torch.testing.assert_close(matrix.sum(dim), torch.ones(len(matrix)).double(), rtol=0, atol=tolerance)


def test_a_sweep_makes_sums_one_and_ends_at_the_nearest_such_point() -> None:
    matrix = perturbed_identity(5, 0)
    (balanced,) = projected(matrix, sweeps=1)
    assert_sums_are_one(balanced)
    others = (projected(perturbed_identity(5, seed), sweeps=1)[0] for seed in (1, 2))
    direction = next(others) - next(others)  # along the affine space
    assert abs((matrix.clamp(min=0) - balanced).mul(direction).sum()) < 1e-12  # at right angles to it


def test_alternating_comes_close_to_the_polytope() -> None:
    (actual,) = projected(perturbed_identity(6, 3), sweeps=200)
    assert_sums_are_one(actual)
    assert actual.min() > -1e-6


def test_the_projection_is_the_nearest_point_of_the_polytope() -> None:
    matrix = perturbed_identity(6, 4)
    (actual,) = projected(matrix, tolerance=1e-12)
    assert_sums_are_one(actual)
    assert actual.min() > -1e-10
    for seed in range(200):  # no vertex lies on the other side of the tangent plane (the variational inequality)
        vertex = torch.eye(6, dtype=torch.float64)[torch.randperm(6, generator=generator(seed))]
        assert ((matrix - actual) * (vertex - actual)).sum() < 1e-8


def test_alternating_is_not_the_nearest_point() -> None:
    matrix = perturbed_identity(6, 4)
    (alternated,), (nearest,) = projected(matrix, sweeps=500), projected(matrix, tolerance=1e-12)
    assert (alternated - matrix).norm() > (nearest - matrix).norm()


def test_doubly_stochastic_matrices_are_not_changed() -> None:
    matrix = torch.full((4, 4), 0.25, dtype=torch.float64)
    assert torch.equal(projected(matrix)[0], matrix) and torch.equal(projected(matrix, sweeps=3)[0], matrix)


def alternating_on_its_own(matrix: torch.Tensor, sweeps: int) -> torch.Tensor:
    """The result of the alternating projections of one matrix, straight from their definition."""
    for _ in range(sweeps):
        matrix = matrix.clamp(min=0)
        matrix = matrix - (matrix.sum(1, keepdim=True) - 1) / len(matrix)
        matrix = matrix - (matrix.sum(0, keepdim=True) - 1) / len(matrix)
    return matrix


SIZES = [7, 64, 16, 1, 64, 33, 300, 80, 290]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_matrices_of_several_sizes_are_projected_as_each_on_its_own(dtype: torch.dtype, tolerance: float) -> None:
    matrices = [perturbed_identity(n, seed).to(dtype) for seed, n in enumerate(SIZES)]
    for actual, matrix in zip(projected(*matrices, sweeps=20), matrices, strict=True):
        expected = alternating_on_its_own(matrix.double(), 20)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)
    for actual, matrix in zip(projected(*matrices[:5], tolerance=1e-9), matrices, strict=False):
        torch.testing.assert_close(actual, projected(matrix, tolerance=1e-9)[0], rtol=0, atol=1e-5)


def test_small_matrices_share_a_batch_and_large_ones_are_padded_little() -> None:
    batches = birkhoff._similar(torch.empty(n, n) for n in SIZES)
    assert [[len(matrix) for matrix in batch] for batch in batches] == [[300, 290], [80, 64, 64, 33, 16, 7, 1]]


def test_gaps_of_the_layout_stay_zero() -> None:
    layout = FlatLayout({"a": torch.Size((3, 3)), "b": torch.Size((5, 5))})
    flat = layout.flatten({"a": perturbed_identity(3, 0), "b": perturbed_identity(5, 1)})
    Projector(layout, flat).alternate_(flat, 3)
    assert len(flat) == 16 + 25 and torch.equal(flat[9:16], torch.zeros(7).double())


def test_a_mixture_of_permutations_is_decomposed() -> None:
    parts = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0], [3, 2, 1, 0]])
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    mixture = sum(w * torch.eye(4, dtype=torch.float64)[p] for w, p in zip(weights, parts, strict=True))
    coefficients, permutations = decompose(mixture, terms=11)
    torch.testing.assert_close(coefficients, weights)
    assert torch.equal(permutations, parts)


def test_terms_are_limited_and_a_permutation_is_one_term() -> None:
    coefficients, permutations = decompose(torch.eye(5)[[2, 0, 1, 4, 3]], terms=3)
    assert coefficients.tolist() == [1.0] and permutations.tolist() == [[2, 0, 1, 4, 3]]
    assert len(decompose(projected(perturbed_identity(6, 5))[0], terms=2)[0]) <= 2


def mixed(weights: list[float], n: int, seed: int) -> torch.Tensor:
    """A mixture of random permutations (n, n)."""
    parts = [torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator(seed + i))] for i in range(99)]
    return sum((w * part for w, part in zip(weights, parts, strict=False)), torch.zeros(n, n).double())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("terms", [1, 3, 11])
def test_the_largest_of_all_terms_are_given_in_descending_order(seed: int, terms: int) -> None:
    weights = torch.rand(40, generator=generator(seed), dtype=torch.float64)
    mixture = mixed((weights / weights.sum()).tolist(), 12, 100 * seed)
    coefficients, permutations = decompose(mixture, terms=terms)
    all_coefficients, all_permutations = decompose(mixture, terms=10_000)
    assert len(all_coefficients) > 2 * 11
    assert torch.equal(coefficients, all_coefficients[:terms])
    assert torch.equal(permutations, all_permutations[:terms])
    assert (all_coefficients.diff() <= 0).all()
    rebuilt = sum(c * torch.eye(12).double()[p] for c, p in zip(all_coefficients, all_permutations, strict=True))
    assert (rebuilt - mixture).abs().max() < 0.03  # all but what lies below `smallest`


def test_a_large_term_that_is_found_late_is_not_left_out() -> None:
    """The permutation of largest sum may contain a small entry, and so have a smaller coefficient than the next."""
    matrix = torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.25, 0.35], [0.0, 0.35, 0.65]], dtype=torch.float64)
    first = [int(matrix.argmax(1)[0]), 1, 2]
    assert matrix[[0, 1, 2], first].sum() > matrix[[0, 1, 2], [1, 0, 2]].sum(), "what greedy takes first"
    coefficients, permutations = decompose(matrix, terms=1)
    assert permutations.tolist() == [[1, 0, 2]] and coefficients.tolist() == pytest.approx([0.4])
