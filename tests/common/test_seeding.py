"""Independent random streams from one seed."""

import pytest
import torch

from benchmarks.pretended_gpu import pretended_gpu
from neuralign.common.seeding import derive, global_generator, reseed, stream


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


def test_without_a_number_the_generator_is_that_of_the_present_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = tuple(torch.Generator() for _ in range(3))
    with pretended_gpu(), monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "default_generators", generators)
        patch.setattr(torch.cuda, "current_device", lambda: 2)
        assert global_generator(torch.device("cuda")) is generators[2]
        assert global_generator(torch.device("cuda:0")) is generators[0]
        reseed(torch.device("cuda"), 1, "dropout")
        assert [g.initial_seed() == derive(1, "dropout") for g in generators] == [False, False, True]
