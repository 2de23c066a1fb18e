"""A test of alignment methods: they align a network with its own permuted and noisy copy.

The permutation is known, so the share of units that a method puts back in place says how reliable it is, for this
network and these images. It says nothing about how similar two trained networks are.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from neuralign.alignment.activations import unit_moments
from neuralign.alignment.problem import Problem, search
from neuralign.common.logs.progress import report
from neuralign.common.seeding import stream
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State
from neuralign.symmetry.permutations import Permutation, permute, random
from neuralign.symmetry.tracing.trace import Trace

Method = Callable[[Problem], Mapping[str, Tensor]]
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # of noise, in standard deviations of each tensor
TRUSTED = 0.9  # recovered share of units below which a method is said to break


def examine(
    model: Model,
    trace: Trace,
    state: State,
    images: Images,
    methods: Mapping[str, Method],
    *,
    levels: Sequence[float] = LEVELS,
    seeds: Iterable[int] = range(3),
) -> list[dict[str, Any]]:
    """One row per method, noise level and group: the share of its units that the method puts back in place.

    Columns: method, noise (the level), group, units, recovered (mean share over the seeds), recovered_std (sample
    standard deviation; None for one seed) and n (number of seeds). The rows of group "" are over the units of all
    groups. There are no rows for a network of which nothing may be permuted.

    Args:
        trace: of the model.
        state: the network that is permuted and gets noise.
        images: on which the methods compare activations.
        methods: name -> method.
        levels: of noise; see `add_noise`.
        seeds: each draws a permutation and the noise.
    """
    results: dict[tuple[str, float, str], list[float]] = {}
    sizes = {group: trace.spec.sizes[group] for group in trace.spec.free}
    seeds = list(seeds)
    done, total = itertools.count(), len(seeds) * len(levels) * len(methods)
    for seed in seeds if sizes else ():
        planted = random(trace.spec, stream(seed, "planted permutation"))
        for level in levels:
            noisy_copy = permute(trace.spec, planted, add_noise(model, state, level, seed))
            for name, method in methods.items():
                report("recovering permutations", next(done), total)
                shares = recovered(planted, search(Problem(model, trace, state, noisy_copy, images), method))
                overall = sum(shares[g] * n for g, n in sizes.items()) / sum(sizes.values())
                for group, share in {**shares, "": overall}.items():
                    results.setdefault((name, level, group), []).append(share)
    return list(_rows(results, sizes | {"": sum(sizes.values())}))


def silent_units(problem: Problem) -> dict[str, int]:
    """{group: number of units of the target whose activations do not vary over the images}; they cannot be matched."""
    moments = unit_moments(problem)
    constant = {g: [m.constant()[0] for m in taps.values()] for g, taps in moments.items()}
    return {g: int(torch.stack(units).all(0).sum()) for g, units in constant.items() if units}


def recovered(planted: Permutation, alignment: Permutation) -> dict[str, float]:
    """{group: share of units that `alignment` puts back where they were before `planted`}.

    Groups that are absent from `alignment` are not permuted by it.
    """
    shares = {}
    for group, index in planted.items():
        inverse = alignment.get(group, torch.arange(len(index)))
        shares[group] = (index[inverse.to(index.device)] == torch.arange(len(index))).double().mean().item()
    return shares


def add_noise(model: Model, state: State, level: float, seed: int) -> dict[str, Tensor]:
    """The state with Gaussian noise on every parameter, of `level` times the standard deviation of its tensor.

    Buffers get no noise, nor do tensors whose values are all equal, such as the scales of a fresh batch norm.
    """
    parameters, generator = dict(model.network.named_parameters()), stream(seed, "noise")
    result = {}
    for name, tensor in state.items():
        if name in parameters and tensor.numel() > 1:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            tensor = tensor + level * tensor.std() * noise
        result[name] = tensor
    return result


def breaking_levels(rows: Iterable[Mapping[str, Any]], trusted: float = TRUSTED) -> dict[str, float | None]:
    """{method: lowest noise level at which it recovers less than `trusted` of all units}; None if there is no such."""
    levels: dict[str, float | None] = {}
    for row in rows:
        if row["group"] == "":
            levels.setdefault(row["method"], None)
            lowest = levels[row["method"]]
            if row["recovered"] < trusted and (lowest is None or row["noise"] < lowest):
                levels[row["method"]] = row["noise"]
    return levels


def random_images(count: int, shape: Sequence[int], seed: int = 0) -> Images:
    """`count` images of this shape (channels, height, width) with independent, uniform pixels, all of class 0."""
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=stream(seed, "random images"))
    return Images(pixels, torch.zeros(count, dtype=torch.int64))


def _rows(results: Mapping[tuple[str, float, str], list[float]], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The rows of `examine`, from {(method, noise level, group): shares, one for each seed}."""
    for (method, level, group), shares in results.items():
        yield {
            "method": method,
            "noise": level,
            "group": group,
            "units": sizes[group],
            "recovered": mean(shares),
            "recovered_std": stdev(shares) if len(shares) > 1 else None,
            "n": len(shares),
        }
