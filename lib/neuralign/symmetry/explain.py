"""What is known of a network's symmetry, as plain data and as words."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import prove
from neuralign.symmetry.permutations import Axis, Spec, extent
from neuralign.symmetry.tracing.trace import Trace, trace


def explain(network: nn.Module, example: Tensor, *, attention: bool = False, seed: int = 0) -> dict[str, Any]:
    """The facts about `network`, seen with an `example` input (n, c, ...), certified by a random permutation.

    parameters: how many. groups: {name: units} of those that may be permuted. permutable_fraction: `permutable`.
    frozen: [{axis: "tensor[dimension]", reason}]. outputs, gradients, max_error: what the permutation changed, as a
    share of their size, in `precision`; moved: the share of parameters that it changed; certified: whether all of that
    is as it should be. modes: {mode: why the network was not run in it, "" if it was}. unreached: tensors of it that no
    run used. seconds: of tracing.
    """
    began = time.perf_counter()
    found = trace(network, example, attention=attention)
    seconds = time.perf_counter() - began
    sizes = {n: p.numel() for n, p in network.named_parameters()}
    return {
        "parameters": sum(sizes.values()),
        "groups": {group: found.spec.sizes[group] for group in found.spec.free},
        "permutable_fraction": permutable(found.spec, dict(network.named_parameters())),
        "frozen": [{"axis": axis, "reason": reason} for axis, reason in found.frozen.items()],
        "modes": dict(found.modes),
        "unreached": list(found.unreached),
        **certified(found, example, seed=seed),
        "seconds": seconds,
    }


def permutable(spec: Spec, parameters: dict[str, Tensor]) -> float:
    """The share of parameters that lie on an axis which some free group of more than one unit permutes.

    Of an axis of several blocks only those places count that a group moves.
    """
    total = sum(t.numel() for t in parameters.values())
    return sum(map(_moving, *zip(*((spec, n, t) for n, t in parameters.items()), strict=True))) / total if total else 0


def _moving(spec: Spec, name: str, tensor: Tensor) -> float:
    """How many numbers of a tensor some free group moves."""
    still = 1.0
    axes = spec.axes.get(name, ())
    for axis, size in zip(axes, tensor.shape, strict=False):
        still *= 1 - _moving_places(spec, axis) / size if size else 1
    return tensor.numel() * (1 - still)


def _moving_places(spec: Spec, axis: Axis) -> float:
    """How many places of an axis some free group moves."""
    moved = 0.0
    for block in axis:
        still = 1.0
        for factor in block:
            if isinstance(factor, str) and factor not in spec.fixed and spec.sizes[factor] > 1:
                still = 0.0
            elif isinstance(factor, tuple):
                still *= 1 - _moving_places(spec, factor) / extent(spec.sizes, factor)
        moved += (1 - still) * extent(spec.sizes, (block,))
    return moved


def certified(found: Trace, example: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """outputs, gradients, max_error, precision, moved, certified: as `explain` says, under a random permutation.

    Of the network with weights at random, where none is zero and no two are alike, so that nothing is hidden; on the
    example and on another input of another batch size.
    """
    state = scattered(found.network.network, seed)
    permutation = permutations.random(found.spec, torch.Generator().manual_seed(seed))
    after = permutations.permute(found.spec, permutation, state)
    changed = sum(int((after[n] != t).sum()) for n, t in state.items())
    proof = prove(found, permutation, state, [example, *_others(example)])
    moves = changed > 0 or not any(row["moved"] for row in permutations.moves(permutation, permutation, {}))
    return {
        "outputs": proof.outputs,
        "gradients": proof.gradients,
        "max_error": proof.error,
        "precision": str(proof.precision),
        "batch_sizes": list(proof.batch_sizes),
        "moved": changed / max(sum(t.numel() for t in state.values()), 1),
        "certified": moves and proof.holds,
    }


def _others(example: Tensor) -> list[Tensor]:
    """Inputs of another batch size: one image, or two where the example is one; brighter, or words in another order."""
    if not example.dim():
        return []
    other = 1.5 * example + 1.0 if example.is_floating_point() else example.roll(1, -1)
    return [other[:1] if len(other) > 1 else torch.cat([other, example])]


def scattered(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters, moved at random by about a tenth of their size, and buffers."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: buffer.detach().clone() for name, buffer in network.named_buffers()}
    for name, parameter in network.named_parameters():
        value = state[name] = parameter.detach()
        if not value.is_floating_point():
            continue
        spread = 0.1 * (value.std() if value.numel() > 1 and value.std() > 0 else 1.0)
        state[name] = value + spread * torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value)
    return state


def immovable(frozen: Mapping[str, str], most: int = 3) -> str:
    """Why nothing of a network may be permuted, in one line; `frozen` as a trace has it, {"tensor[dimension]": why}."""
    reasons, first = Counter(frozen.values()).most_common(), dict[str, str]()
    for axis, reason in frozen.items():
        first.setdefault(reason, axis)
    told = [f"{first[r]}{f' and {n - 1} more' if n > 1 else ''}, because {r}" for r, n in reasons[:most]]
    told += [f"and for {len(reasons) - most} more reasons"] if len(reasons) > most else []
    why = "; ".join(told) or "no axis of its parameters has several units"
    return f"Nothing of this network may be permuted: {why}"


def words(facts: dict[str, Any], most: int = 20) -> Iterator[str]:
    """The facts in sentences, one a line; of groups and reasons at most so many."""
    groups, frozen = facts["groups"], Counter(entry["reason"] for entry in facts["frozen"])
    if groups:
        yield (
            f"{len(groups)} groups of channels may be permuted; {facts['permutable_fraction']:.1%} of "
            f"{facts['parameters']:,} parameters lie on one of them."
        )
    else:
        yield immovable({entry["axis"]: entry["reason"] for entry in facts["frozen"]}) + "."
    if groups or not facts["certified"]:
        verdict = "leaves the function as it is" if facts["certified"] else "CHANGES THE FUNCTION"
        yield (
            f"A random permutation {verdict}: in {facts['precision']} outputs differ by {facts['outputs']:.1e} of "
            f"their size, gradients by {facts['gradients']:.1e}."
        )
    for mode, problem in facts["modes"].items():
        if problem:
            yield f"Nothing is known of {mode} mode, in which the network cannot be run on an input alone: {problem}."
    if missed := facts["unreached"]:
        first = ", ".join(missed[:most]) + (f" and {len(missed) - most} more" if len(missed) > most else "")
        yield f"No run used {first}: what may feed them is fixed, and nothing is certified of them."
    if not groups:  # the reasons have been told
        return
    yield from (f"  {name}: {units} units" for name, units in list(groups.items())[:most])
    if len(groups) > most:
        yield f"  and {len(groups) - most} more"
    for reason, count in frozen.most_common(most):
        first = next(entry["axis"] for entry in facts["frozen"] if entry["reason"] == reason)
        yield f"Fixed: {first}{f' and {count - 1} more axes' if count > 1 else ''}, because {reason}."
