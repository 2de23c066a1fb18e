"""How far alignment can be trusted on a network: hidden permutations are planted, noise is added, and methods search.

The answer is known, so the share of units that a method puts back in place is a measurement of the method on this
network and these images, not of two trained networks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from neuralign.alignment.problem import Problem, unit_moments
from neuralign.common.seeding import stream
from neuralign.datasets.images import Images
from neuralign.networks.model import Model, State
from neuralign.symmetry.permutations import Permutation, permute, random
from neuralign.symmetry.tracing.trace import Trace

Method = Callable[[Problem], Mapping[str, Tensor]]
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)  # of noise: standard deviations of each tensor
TRUSTED = 0.9  # the share of units below which a method is said to break


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
    """One row per method, noise level and group: `recovered`, the mean share of its units that are put back, its sample
    standard deviation `recovered_std` over `n` seeds (None for one), and `units`. Group "" is the mean over all units.
    No rows for a network of which nothing may be permuted.
    """
    found: dict[tuple[str, float, str], list[float]] = {}
    sizes = {group: trace.spec.sizes[group] for group in trace.spec.free}
    for seed in seeds if sizes else ():
        planted = random(trace.spec, stream(seed, "planted permutation"))
        for level in levels:
            hidden = permute(trace.spec, planted, noisy(model, state, level, seed))
            for name, method in methods.items():
                shares = recovered(planted, method(Problem(model, trace, state, hidden, images)))
                whole = sum(shares[g] * n for g, n in sizes.items()) / sum(sizes.values())
                for group, share in {**shares, "": whole}.items():
                    found.setdefault((name, level, group), []).append(share)
    return list(_rows(found, sizes | {"": sum(sizes.values())}))


def silent(problem: Problem) -> dict[str, int]:
    """{group: units of the target whose activations never vary on the images}: nothing tells them apart."""
    found = unit_moments(problem)
    flat = {g: [m.squares[0] == 0 for m in taps.values()] for g, taps in found.items()}
    return {g: int(torch.stack(units).all(0).sum()) for g, units in flat.items() if units}


def recovered(planted: Permutation, found: Permutation) -> dict[str, float]:
    """{group: share of units that `found` puts back where they were before `planted`}; a group left out is in place."""
    shares = {}
    for group, index in planted.items():
        answer = found.get(group, torch.arange(len(index)))
        shares[group] = (index[answer.to(index.device)] == torch.arange(len(index))).double().mean().item()
    return shares


def noisy(model: Model, state: State, level: float, seed: int) -> dict[str, Tensor]:
    """The state with Gaussian noise on every parameter, of `level` times the standard deviation of its tensor. Buffers
    stay, and so does a tensor of one value, such as the scales of a fresh batch norm.
    """
    trained, draws = dict(model.network.named_parameters()), stream(seed, "noise")
    out = {}
    for name, tensor in state.items():
        if name in trained and tensor.numel() > 1:
            noise = torch.randn(tensor.shape, generator=draws).to(tensor)
            tensor = tensor + level * tensor.std() * noise
        out[name] = tensor
    return out


def breaks(rows: Iterable[Mapping[str, Any]], trusted: float = TRUSTED) -> dict[str, float | None]:
    """{method: the lowest level of noise at which less than `trusted` of all units is recovered}; None: at none."""
    found: dict[str, float | None] = {}
    for row in rows:
        if row["group"] == "":
            found.setdefault(row["method"], None)
            below = found[row["method"]]
            if row["recovered"] < trusted and (below is None or row["noise"] < below):
                found[row["method"]] = row["noise"]
    return found


def random_images(count: int, shape: Sequence[int], seed: int = 0) -> Images:
    """Images of this shape (channels, height, width) with independent, uniform pixels; one class."""
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=stream(seed, "random images"))
    return Images(pixels, torch.zeros(count, dtype=torch.int64))


def _rows(found: Mapping[tuple[str, float, str], list[float]], sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for (method, level, group), shares in found.items():
        yield {
            "method": method,
            "noise": level,
            "group": group,
            "units": sizes[group],
            "recovered": mean(shares),
            "recovered_std": stdev(shares) if len(shares) > 1 else None,
            "n": len(shares),
        }
