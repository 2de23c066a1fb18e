"""Independent random streams from one seed."""

import torch

from neuralign.common.seeding import derive, stream


def test_a_derived_seed_is_the_same_for_ever() -> None:
    assert derive(1, "order", 0) == 433034383059858670


def test_seed_and_every_word_of_the_purpose_count() -> None:
    seeds = [derive(1, "order", 0), derive(2, "order", 0), derive(1, "t", 0), derive(1, "order", 1), derive(1, "order")]
    assert len(set(seeds)) == len(seeds)


def test_derived_seeds_fit_torch() -> None:
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(1000))


def test_equal_purposes_give_equal_streams_and_leave_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    assert torch.equal(torch.rand(5, generator=stream(3, "a")), torch.rand(5, generator=stream(3, "a")))
    assert not torch.equal(torch.rand(5, generator=stream(3, "a")), torch.rand(5, generator=stream(3, "b")))
    assert torch.equal(torch.get_rng_state(), state)
