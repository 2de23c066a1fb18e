"""Activations of both networks of an alignment problem, and their correlations, computed batch by batch.

Memory does not grow with the number of images: each batch is added to running moments and then freed.
"""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from neuralign.alignment.moments import Moments
from neuralign.alignment.problem import Problem
from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.datasets.batches import Inputs, Targets, count_examples, map_tensors
from neuralign.networks.model import State
from neuralign.symmetry.certificate import TOLERANCE
from neuralign.symmetry.folding import Uncapturable, capture, fold, use_inplace_relus
from neuralign.symmetry.precision import DoublePrecision, to_double
from neuralign.symmetry.tracing.execution import NotComputed, Probe, with_copied_buffers
from neuralign.symmetry.tracing.taps import ACTIVATIONS, Tap, Taps

MomentsByTap = dict[str, dict[Tap, Moments]]  # {group: {tap: moments of the target's and the source's units}}

# Operations of which a network runs more or fewer when its tensors lie in memory in another order. Which of them
# computes an activation is known for the order of the trace only.
LAYOUT_DEPENDENT = frozenset(
    {"addmm", "bmm", "clone", "expand", "mm", "permute", "squeeze", "t", "transpose", "unsqueeze", "view"}
    | {"_unsafe_view", "_reshape_alias", "as_strided", "copy"}
)

BATCH = 64  # images per batch; their activations fit the caches of a CPU. 128 was slower, 32 no faster


def correlations(
    problem: Problem,
    *,
    batch_size: int = BATCH,
    centred: bool = True,
    read: str = "post",
    largest: int | None = None,
) -> dict[str, dict[Tap, Tensor]]:
    """{group: {tap: correlations (n, n) of the target's units with the source's}} over all images of the problem.

    Args:
        batch_size: images per batch.
        centred: whether the units' means are subtracted: Pearson correlation, else cosine similarity.
        read: where activations are read: "post" (after the nonlinearity), "pre" (before it) or "pooled" (after the
            max-pool, if nothing else reads the activation).
        largest: largest number of rows of feature maps. Larger maps lose every second row and column until they
            fit. None: no limit.
    """
    moments = unit_moments(problem, batch_size=batch_size, read=read, largest=largest)
    return {group: {tap: m.correlation(centred) for tap, m in taps.items()} for group, taps in moments.items()}


def unit_moments(
    problem: Problem, *, batch_size: int = BATCH, read: str = "post", largest: int | None = None
) -> MomentsByTap:
    """{group: {tap: moments of the target's and the source's units}} over all images; arguments as `correlations`."""
    batches = growing_moments(problem, batch_size=batch_size, read=read, largest=largest)
    _, moments = deque(batches, maxlen=1).pop()
    return moments


def growing_moments(
    problem: Problem,
    *,
    first: int | None = None,
    batch_size: int = BATCH,
    read: str = "post",
    largest: int | None = None,
) -> Iterator[tuple[int, MomentsByTap]]:
    """The number of images so far and the `unit_moments` over them: after all images and, with `first`, before that.

    Then they are yielded after `first` images and whenever their number has doubled. Raises UserError if activations
    are not finite.
    """
    due, yielded, count = first, 0, 0
    for precise in (False, True):
        usable, moments = True, MomentsByTap()
        for count, moments in _moments_by_batch(problem, batch_size, read, largest, precise):
            if due is not None and yielded < count >= due:
                if not (usable := _usable(moments, precise)):
                    break
                yield count, moments
                yielded, due = count, 2 * due
        if usable and count > yielded and (usable := _usable(moments, precise)):
            yield count, moments
        if usable:
            return


def _usable(moments: MomentsByTap, precise: bool) -> bool:
    """Whether all sums are right; if not, they have to be made again in float64. Raises UserError if that was done."""
    if (in_range := _all_in_range(moments)) or not precise:
        return in_range
    _demand_finite(moments)
    return True


def _moments_by_batch(
    problem: Problem, batch_size: int, read: str, largest: int | None, precise: bool
) -> Iterator[tuple[int, MomentsByTap]]:
    """After each batch: the number of examples so far, and the moments over them, always the same objects."""
    trace, sizes = problem.trace, problem.trace.spec.sizes
    taps = {"post": trace.taps, "pre": trace.pre_activations, "pooled": trace.after_pooling}[read]
    moments = {g: {tap: Moments(sizes[g], precise=precise) for tap in group_taps} for g, group_taps in taps.items()}
    total = 0
    for count, activations in activation_batches(problem, taps, batch_size, largest=largest):
        for group_moments in moments.values():
            for tap, moment in group_moments.items():
                moment.add(*(_samples(by_node[tap.node], tap.start, moment.units) for by_node in activations))
        del activations  # frees the memory before the next batch is computed
        total += count
        yield total, moments


def _all_in_range(moments: MomentsByTap) -> bool:
    """Whether no square of any group has left the range of float32; read from the device at once."""
    flags = [moment.in_range() for taps in moments.values() for moment in taps.values()]
    return not flags or bool(torch.stack(flags).all())


def _demand_finite(moments: MomentsByTap) -> None:
    """Raise UserError, with the group's name, if an activation or its square is not finite."""
    for group, taps in moments.items():
        for tap, moment in taps.items():
            try:
                moment.demand_finite()
            except UserError as error:
                raise UserError(f"group {group!r}, read at {tap.node!r}: {error}") from None


def _samples(activation: Tensor, start: int, size: int) -> Tensor:
    """The units `start` .. `start + size` of an activation (n, c, ...), as samples (n * positions, size).

    No data is copied if the activation lies channels last in memory.
    """
    return activation[:, start : start + size].movedim(1, -1).reshape(-1, size)


def activation_batches(
    problem: Problem, taps: Taps, batch_size: int, *, largest: int | None = None
) -> Iterator[tuple[int, tuple[dict[str, Tensor], ...]]]:
    """For each batch of the problem's examples, their number, and the activations of the target and of the source.

    Activations are {node: (n, c, ...)}.

    The networks are in evaluation mode. If the problem has an attack, each network gets images attacked against itself,
    for which the attack reads their labels: then the fact `labels` is true.
    """
    if problem.attack:
        problem.facts["labels"] = True
    model, states = problem.model, (problem.target, problem.source)
    probe, names = problem.trace.probe(taps, largest=largest)
    probe, probe_states = folded_probe(problem, taps, largest) or (probe, states)
    channels_last = LAYOUT_DEPENDENT.isdisjoint(read.operation for read in probe.reads.values())
    networks = [(s, _private_copy(t, channels_last)) for s, t in zip(states, probe_states, strict=True)]
    attack_generator = stream(0, "activations", device=problem.examples.device)

    def activations_of(state: State, probe_state: State, inputs: Inputs, targets: Targets) -> dict[str, Tensor]:
        if attack := problem.attack:
            model.network.eval()
            with model.holding(with_copied_buffers(model.network, state)) as predict:
                inputs = attack(predict, inputs, targets, attack_generator)
        with torch.no_grad():
            activations = probe(model.normalise(inputs), probe_state)
        return dict(zip(names, activations, strict=True))

    varied = problem.examples.varied(batch_size, problem.transform, lambda i: stream(0, "augmented activations", i))
    for inputs, targets in varied:
        yield count_examples(inputs), tuple(activations_of(*network, inputs, targets) for network in networks)


def folded_probe(problem: Problem, taps: Taps, largest: int | None) -> tuple[Probe, list[State]] | None:
    """A faster probe, of the network with folded batch norms, and the states of target and source for it.

    A probe identifies activations by the order in which operations run, and folding keeps only the order of the
    nonlinearities. So the result is None if activations of other operations are read, if the network cannot be folded,
    or if a trial in float64 on two images does not read the same activations.
    """
    trace = problem.trace
    probe, names = trace.probe(taps, largest=largest)
    if any(trace.reads[name].operation not in ACTIVATIONS for name in names):
        return None
    try:
        folded = fold(capture(trace.network.network))
    except Uncapturable:
        return None
    if largest is None:  # an operation that works in place cannot return a halved map
        use_inplace_relus(folded.graph)
    fast_probe, _ = trace.probe(taps, largest=largest, network=folded.graph)
    precise = {n: to_double(t) for n, t in problem.target.items()}
    inputs, _ = next(problem.examples.batches(2))
    inputs = problem.model.double().normalise(map_tensors(to_double, inputs))
    try:
        with torch.no_grad(), DoublePrecision():
            expected = probe(inputs, precise)
            activations = fast_probe(inputs, folded.state(precise))
    except (NotComputed, RuntimeError, TypeError):  # also if an operation has no kernel for float64
        return None
    pairs = zip(activations, expected, strict=True)
    if not all(a.shape == b.shape and (a - b).abs().max() <= TOLERANCE * b.abs().max() for a, b in pairs):
        return None
    return fast_probe, [folded.state(state) for state in (problem.target, problem.source)]


def _private_copy(state: State, channels_last: bool) -> State:
    """A copy of the state whose buffers the network may update.

    `channels_last`: weights of convolutions are stored like that, as the images are, so that no forward pass has to
    convert them.
    """

    def format_of(tensor: Tensor) -> torch.memory_format:
        return torch.channels_last if channels_last and tensor.dim() == 4 else torch.preserve_format

    return {n: t.detach().clone(memory_format=format_of(t)) for n, t in state.items()}
