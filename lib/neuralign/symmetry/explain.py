"""The facts about a network's permutation symmetry, as plain data and in sentences."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.common.tensors import ComputedState
from neuralign.datasets.batches import Inputs, count_examples, map_tensors, select
from neuralign.symmetry import permutations
from neuralign.symmetry.certificate import prove
from neuralign.symmetry.permutations import Blocks, PermutationSpec, extent
from neuralign.symmetry.tracing.trace import Trace, trace

# How many random numbers the noise on a network consists of, which is repeated along each tensor. As a prime it divides
# the length of no row or column, so that no two of them get the same noise.
NOISE = 131_071


def explain(network: nn.Module, example: Inputs, *, attention: bool = False, seed: int = 0) -> dict[str, Any]:
    """The facts about the symmetry of `network`, certified by a random permutation, as plain data.

    `example`: the inputs on which it is traced. `attention`: as in `trace`. Returns a dictionary:
        parameters: how many numbers the parameters have.
        groups: {name: number of units} of the groups that may be permuted.
        permutable_fraction: see the function of this name.
        frozen: [{"axis": "tensor[dimension]", "reason": why not all of its positions may be permuted}].
        outputs, gradients, max_error, precision, why, batch_sizes, moved, certified: see `certify_random`.
        modes: {"evaluation" or "training": "", or the error that kept the network from running in it}.
        branches: how many branches were traced that the network takes for other inputs only, see `decisions.py`.
        unreached: the network's tensors that no run used.
        seconds: the time that tracing took.
    """
    start = time.perf_counter()
    symmetry = trace(network, example, attention=attention)
    seconds = time.perf_counter() - start
    sizes = {n: p.numel() for n, p in network.named_parameters()}
    return {
        "parameters": sum(sizes.values()),
        "groups": {group: symmetry.spec.sizes[group] for group in symmetry.spec.free},
        "permutable_fraction": permutable_fraction(symmetry.spec, dict(network.named_parameters())),
        "frozen": [{"axis": axis, "reason": reason} for axis, reason in symmetry.frozen.items()],
        "modes": dict(symmetry.modes),
        "branches": symmetry.branches,
        "unreached": list(symmetry.unreached),
        **certify_random(symmetry, example, seed=seed),
        "seconds": seconds,
    }


def permutable_fraction(spec: PermutationSpec, parameters: dict[str, Tensor]) -> float:
    """The share of numbers in `parameters` that some permutation of the free groups moves."""
    total = sum(t.numel() for t in parameters.values())
    return sum(_movable_numbers(spec, name, t) for name, t in parameters.items()) / total if total else 0


def _movable_numbers(spec: PermutationSpec, name: str, tensor: Tensor) -> float:
    """How many numbers of a tensor lie at a movable position of at least one of its axes."""
    unmoved = 1.0  # the share of numbers
    for blocks, size in zip(spec.axes.get(name, ()), tensor.shape, strict=False):
        unmoved *= 1 - _movable_positions(spec, blocks) / size if size else 1
    return tensor.numel() * (1 - unmoved)


def _movable_positions(spec: PermutationSpec, blocks: Blocks) -> float:
    """How many positions of an axis with these blocks some free group of more than one unit moves."""
    movable = 0.0
    for block in blocks:
        unmoved = 1.0
        for factor in block:
            if isinstance(factor, str) and factor not in spec.fixed and spec.sizes[factor] > 1:
                unmoved = 0.0
            elif isinstance(factor, tuple):
                unmoved *= 1 - _movable_positions(spec, factor) / extent(spec.sizes, factor)
        movable += (1 - unmoved) * extent(spec.sizes, (block,))
    return movable


def certify_random(symmetry: Trace, example: Inputs, *, seed: int = 0) -> dict[str, Any]:
    """The certificate of a random permutation of a traced network, as plain data.

    The weights are perturbed, so that none is zero and no two are equal: else a wrong permutation might change nothing.
    Inputs are the example and one of another batch size. If the network takes other branches for other inputs, there
    are two more, which are likely to lead to them.

    Returns a dictionary:
        outputs, gradients: their largest relative changes; max_error: the larger of the two.
        precision: the dtype of the comparison; why: why it is not float64; batch_sizes: of the inputs.
        moved: the share of numbers in the network's tensors that the permutation changed.
        certified: whether the certificate holds, and something moved if the permutation is not the identity.
    """
    state = _perturbed_when_read(symmetry.network.network, seed)
    permutation = permutations.random(symmetry.spec, torch.Generator().manual_seed(seed))
    changed = total = 0
    for name, tensor in state.items():
        changed += int((permutations.permute(symmetry.spec, permutation, {name: tensor})[name] != tensor).sum())
        total += tensor.numel()
    certificate = prove(symmetry, permutation, state, [example, *_other_inputs(example, symmetry.branches > 0)])
    is_identity = all(torch.equal(index, torch.arange(len(index))) for index in permutation.values())
    return {
        "outputs": certificate.outputs,
        "gradients": certificate.gradients,
        "max_error": certificate.error,
        "precision": str(certificate.precision),
        "why": certificate.why,
        "batch_sizes": list(certificate.batch_sizes),
        "moved": changed / max(total, 1),
        "certified": (changed > 0 or is_identity) and certificate.holds,
    }


def _other_inputs(example: Inputs, branches: bool) -> list[Inputs]:
    """[inputs of one example, or of two if `example` has one], or [] if it has no batch axis.

    Their values differ from the example's: images are brighter, tokens and masks are in another order. `branches`: two
    more are wanted, one with padding (a last token of 0) and dark images, one without padding.
    """
    count = count_examples(example)
    if not count:
        return []

    def change(tensor: Tensor) -> Tensor:
        other = 1.5 * tensor + 1.0 if tensor.is_floating_point() else tensor.roll(1, -1)
        return other if count > 1 else torch.cat([other, tensor])

    def pad(tensor: Tensor) -> Tensor:
        last = torch.arange(tensor.shape[-1], device=tensor.device) == tensor.shape[-1] - 1
        return -tensor if tensor.is_floating_point() else tensor.masked_fill(last, 0)

    def fill(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_floating_point() else tensor.amax().expand_as(tensor).clone()

    others = [select(map_tensors(change, example), slice(max(1, 3 - count)))]
    return [*others, map_tensors(pad, example), map_tensors(fill, example)] if branches else others


def perturbed_state(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """The network's state with Gaussian noise added to each parameter, of a tenth of its standard deviation.

    Buffers are copied unchanged.
    """
    return dict(_perturbed_when_read(network, seed))


def _perturbed_when_read(network: nn.Module, seed: int) -> ComputedState:
    """As `perturbed_state`, but each tensor is computed whenever it is read."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(NOISE, generator=generator).repeat(2)
    buffers, parameters = dict(network.named_buffers()), dict(network.named_parameters())
    starts = dict(zip(parameters, torch.randint(NOISE, (len(parameters),), generator=generator).tolist(), strict=True))
    spreads = {name: _spread(parameter.detach()) for name, parameter in parameters.items()}

    def compute(name: str) -> Tensor:
        if name in buffers:
            return buffers[name].detach().clone()
        value = parameters[name].detach().clone(memory_format=torch.contiguous_format)
        if spreads[name]:
            for part in value.view(-1).split(NOISE):
                part.add_(noise[starts[name] :][: len(part)].to(part), alpha=spreads[name])
        return value

    return ComputedState([*buffers, *parameters], compute)


def _spread(value: Tensor) -> float:
    """A tenth of the standard deviation of a parameter, or of 1 if all its numbers are equal; 0 for whole numbers."""
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    deviation = value.std().item() if value.numel() > 1 else 0.0
    return 0.1 * (deviation if deviation > 0 else 1.0)


def why_all_is_fixed(frozen: Mapping[str, str], most: int = 3) -> str:
    """Why nothing of a network may be permuted, in one line, with at most `most` reasons, the most frequent first.

    `frozen`: {"tensor[dimension]": reason}, as in a `Trace`.
    """
    reasons, examples = Counter(frozen.values()).most_common(), dict[str, str]()
    for axis, reason in frozen.items():
        examples.setdefault(reason, axis)
    parts = [f"{examples[r]}{f' and {n - 1} more' if n > 1 else ''}, because {r}" for r, n in reasons[:most]]
    parts += [f"and for {len(reasons) - most} more reasons"] if len(reasons) > most else []
    why = "; ".join(parts) or "no axis of its parameters has several units"
    return f"Nothing of this network may be permuted: {why}"


def sentences(facts: dict[str, Any], most: int = 20) -> Iterator[str]:
    """The facts that `explain` returns, one sentence a line, with at most `most` groups, reasons and tensors."""
    groups, reasons = facts["groups"], Counter(entry["reason"] for entry in facts["frozen"])
    if groups:
        yield (
            f"{len(groups)} groups of channels may be permuted; {facts['permutable_fraction']:.1%} of "
            f"{facts['parameters']:,} parameters lie on one of them."
        )
    else:
        yield why_all_is_fixed({entry["axis"]: entry["reason"] for entry in facts["frozen"]}) + "."
    if groups or not facts["certified"]:
        verdict = "leaves the function as it is" if facts["certified"] else "CHANGES THE FUNCTION"
        yield (
            f"A random permutation {verdict}: in {facts['precision']} outputs differ by {facts['outputs']:.1e} of "
            f"their size, gradients by {facts['gradients']:.1e}."
        )
        if facts["why"]:
            yield f"They were not compared in float64: {facts['why']}."
    for mode, problem in facts["modes"].items():
        if problem:
            yield f"Nothing is known of {mode} mode, in which the network cannot be run on an input alone: {problem}."
    if branches := facts["branches"]:
        other = f"{branches} other branch{'es' if branches > 1 else ''}"
        yield (
            f"By what Python reads of its inputs it may take {other}: what they fix is fixed, and those that inputs "
            "with and without padding lead to are certified."
        )
    if unreached := facts["unreached"]:
        names = ", ".join(unreached[:most]) + (f" and {len(unreached) - most} more" if len(unreached) > most else "")
        yield f"No run used {names}: what may feed them is fixed, and nothing is certified of them."
    if not groups:  # the first sentence has the reasons
        return
    yield from (f"  {name}: {units} units" for name, units in list(groups.items())[:most])
    if len(groups) > most:
        yield f"  and {len(groups) - most} more"
    for reason, count in reasons.most_common(most):
        axis = next(entry["axis"] for entry in facts["frozen"] if entry["reason"] == reason)
        yield f"Fixed: {axis}{f' and {count - 1} more axes' if count > 1 else ''}, because {reason}."
