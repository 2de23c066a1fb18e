"""Which alignment and which repair make the best merge: several are tried, and compared on validation examples.

Test examples are for the final measurement alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, NoReturn

import torch
from torch import Tensor

from neuralign.alignment.common_frame import cohort as cohorts
from neuralign.alignment.common_frame.cohort import Cohort, Permutations
from neuralign.alignment.problem import Problem, certify, search
from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.datasets.arrays import Arrays
from neuralign.datasets.batches import Batch, Examples, Inputs
from neuralign.datasets.loaders import Loader
from neuralign.evaluation.barrier import values_of
from neuralign.merging.layers import forward
from neuralign.merging.merge import BATCH_SIZE, Merge, Repair, merge_of, repaired
from neuralign.merging.soups import greedy_soup
from neuralign.networks.model import Model, State, parameters
from neuralign.networks.outputs import output_tensors
from neuralign.networks.states import mean_state
from neuralign.symmetry.certificate import GRADIENTS_AT_ONCE
from neuralign.symmetry.permutations import Permutation, identity, permute, permute_when_read
from neuralign.training.objective import LOSS, Objective

Method = Callable[[Problem], Permutation]
CohortMethod = Callable[[Cohort], Permutations]
Score = Callable[[Merge, State], float]  # (merge, its state as it is or repaired) -> what is to be small
SHARE = 0.2  # of the examples, for validation
LARGEST = 10_000  # number of examples that are used
SHARE_AT_ONCE = 1 / 4  # of the gradients, in certificates that save memory


@dataclass(frozen=True)
class Alignment:
    """Permutations of several networks into the order of the first."""

    permutations: tuple[Permutation, ...]  # the first is the identity
    certificate: float  # the largest of all networks, as of `certify`


@dataclass(frozen=True)
class Choice:
    """The best merge that was tried."""

    method: str
    repair: str
    alignment: Alignment
    members: tuple[int, ...]  # the networks in the mean
    state: State
    merge: Merge  # before the repair, of all networks; with the facts of the repair
    tried: list[dict[str, Any]]  # method, repair and score of every merge


def align_to_first(
    problem: Problem,
    states: Sequence[State],
    method: Method | None,
    cohort: CohortMethod | None = None,
    weights: Sequence[float] | None = None,
    without_data: bool = False,
) -> Alignment:
    """The alignment of all `states` in the order of the first; the identity, which needs no certificate, for None.

    Args:
        problem: what all alignments have in common.
        states: of the networks.
        method: of pairs.
        cohort: how three networks or more get into one frame by it; None: each is aligned to the first alone.
        weights: of the networks in the mean, for the cohort. If one is zero it takes equal ones, for it allows no zero.
        without_data: whether methods may not read the examples, as in `best_merge`.

    Raises CertificateError if a permutation changes a network's function.
    """
    spec = problem.trace.spec
    if method is None:
        return Alignment(tuple(identity(spec) for _ in states), 0.0)
    group = Cohort(
        problem.model,
        problem.trace,
        states,
        method,
        _NoExamples(problem.examples.device, method) if without_data else problem.examples,
        weights=weights if weights and min(weights) > 0 else None,
        objective=problem.objective,
    )
    pairs = [group.problem(states[0], i, None, "merge") for i in range(1, len(states))]
    if len(states) > 2 and cohort is not None:
        permutations = tuple(identity(spec) | own for own in cohorts.search(group, cohort))
    else:
        permutations = (identity(spec), *(identity(spec) | dict(search(pair, method)) for pair in pairs))
    numbers = sum(parameter.numel() for parameter in problem.model.network.parameters())
    at_once = max(1, int(SHARE_AT_ONCE * numbers)) if without_data else GRADIENTS_AT_ONCE
    certificates = [
        certify(replace(pair, examples=problem.examples), own, gradients_at_once=at_once)
        for pair, own in zip(pairs, permutations[1:], strict=True)
    ]
    return Alignment(permutations, max(certificates))


class _NoExamples(Examples):
    """Stands for examples that a method may not read, as there are only inputs to run the network on."""

    def __init__(self, device: torch.device, method: Method):
        self._device, self.method = device, getattr(method, "func", method)  # of a plug-in with options

    @property
    def device(self) -> torch.device:
        return self._device

    def _refuse(self, *arguments: Any) -> NoReturn:
        name = getattr(self.method, "__name__", "it")
        raise UserError(f"method: {name} reads examples, and there are none; give some (`batches`, --data)")

    __len__ = subset = to = batches = take = varied = _refuse  # type: ignore[assignment]


def best_merge(
    problem: Problem,
    states: Sequence[State],
    methods: Mapping[str, Method | None],
    repairs: Mapping[str, Repair | None],
    score: Score,
    weights: Sequence[float] | None = None,
    greedy: bool = False,
    cohort: CohortMethod | None = None,
    without_data: bool = False,
) -> Choice:
    """The merge with the lowest score over all methods and repairs; the first of equal ones.

    Raises UserError if no score is a number.

    Args:
        problem: with the examples on which networks are aligned and repaired.
        states: of the networks.
        methods: name -> method; None leaves the networks as they are.
        repairs: name -> repair; None leaves the mean as it is.
        score: of a merge.
        weights: of the networks; None: equal ones.
        greedy: whether a network is only taken into the mean if the score does not rise (`greedy_soup`).
        cohort: of three networks or more, as in `align_to_first`.
        without_data: whether the examples are only inputs to run the network on: a method that reads them is refused.
            As the networks run a few times only, aligned ones and merges are then computed tensor by tensor whenever
            they are read, and certificates hold few gradients at once, which takes less memory.
    """
    spec = problem.trace.spec
    move = permute_when_read if without_data else permute
    tried: list[dict[str, Any]] = []
    best, lowest = None, inf
    all_members = tuple(range(len(states)))
    for method, align in methods.items():
        alignment = align_to_first(problem, states, align, cohort, weights, without_data)
        pairs = list(zip(alignment.permutations, states, strict=True))
        ends = list(states) if align is None else [states[0], *(move(spec, own, state) for own, state in pairs[1:])]
        merge = merge_of(problem.model, problem.trace, ends, problem.examples, weights)
        if not without_data:
            merge = replace(merge, state=dict(merge.state))
        for name, repair in repairs.items():
            merge = replace(merge, facts={})
            members, state = _greedy_soup(merge, repair, score) if greedy else (all_members, repaired(merge, repair))
            value = score(merge, state)
            tried.append({"method": method, "repair": name, "score": value})
            if value < lowest:  # which no score is that is not a number
                best, lowest = Choice(method, name, alignment, members, state, merge, tried), value
    if best is None:
        scores = ", ".join(f"{row['method']} and {row['repair']}: {row['score']}" for row in tried)
        raise UserError(f"no merge has a score that is a finite number: {scores}")
    return best


def validation_loss(objective: Objective, validation: Examples) -> Score:
    """The score of merges that is their mean loss on labelled validation examples."""
    return lambda merge, state: values_of(merge.model, state, validation, objective.metrics[LOSS]).mean().item()


def output_distance(validation: Examples) -> Score:
    """The score of merges for examples without labels: how far the outputs are from the mean of the ends' outputs.

    It is the squared distance divided by that mean's square.
    """

    def score(merge: Merge, state: State) -> float:
        distance, size = 0.0, 0.0
        for inputs, _ in validation.batches(BATCH_SIZE):
            ends = [_main_output(merge.model, end, inputs) for end in merge.ends]
            pairs = zip(merge.weights, ends, strict=True)
            mean = torch.stack([weight * end for weight, end in pairs]).sum(0)
            distance += (_main_output(merge.model, state, inputs) - mean).square().sum().item()
            size += mean.square().sum().item()
        return distance / size if size else distance

    return score


def parameter_distance(merge: Merge, state: State) -> float:
    """The score of merges without data: the mean squared distance of the aligned networks' parameters from their mean.

    Networks count by their weights.
    """
    total = 0.0
    for name in parameters(merge.model.network):
        mean = mean_state([{name: end[name]} for end in merge.ends], merge.weights)[name]
        for end, weight in zip(merge.ends, merge.weights, strict=True):
            total += weight * (end[name] - mean).abs().double().square().sum().item()
    return total


def share_moved(permutations: Sequence[Permutation]) -> float:
    """The share of units that the permutations of all networks but the first move."""
    indices = [index.cpu() for permutation in permutations[1:] for index in permutation.values()]
    moved = sum(int((index != torch.arange(len(index))).sum()) for index in indices)
    return moved / max(1, sum(map(len, indices)))


def split_off_validation(examples: Examples, seed: int = 0) -> tuple[Examples, Examples]:
    """(examples to align and repair on, 20 % to choose by), drawn at random from at most 10,000 examples.

    The batches of a loader are read once, and joined. Raises UserError if there is only one example.
    """
    if isinstance(examples, Loader):
        examples = _join(list(examples.first(LARGEST).batches(LARGEST)))
    count = min(len(examples), LARGEST)
    if count < 2:
        raise UserError(f"batches: found {len(examples)} example; at least 2 are needed, one of them for validation")
    chosen, held_out = examples.sample(count, stream(seed, "validation")), ceil(SHARE * count)
    return chosen.subset(slice(held_out, None)), chosen.first(held_out)


def _greedy_soup(merge: Merge, repair: Repair | None, score: Score) -> tuple[tuple[int, ...], State]:
    """(the networks in the greedy soup, its state, repaired)."""

    def make(ends: Sequence[State]) -> State:
        return repaired(merge_of(merge.model, merge.trace, ends, merge.examples), repair)

    return greedy_soup(merge.ends, make, lambda state: -score(merge, state))


def _main_output(model: Model, state: State, inputs: Inputs) -> Tensor:
    """The first tensor of the outputs, in float64."""
    return output_tensors(forward(model, state, inputs))[0].double()


def _join(batches: Sequence[Batch]) -> Arrays:
    """All batches as one."""

    def join(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            if len({(value.shape[1:], value.dtype) for value in values}) > 1:
                shapes = " and ".join(sorted({str(tuple(value.shape[1:])) for value in values}))
                raise UserError(f"batches: found examples of shapes {shapes}; here all need the same shape and type")
            return torch.cat(list(values))
        if isinstance(first, Mapping):
            return {key: join([value[key] for value in values]) for key in first}
        if isinstance(first, tuple | list):
            return tuple(join(parts) for parts in zip(*values, strict=True))
        return first

    return Arrays(join([inputs for inputs, _ in batches]), join([targets for _, targets in batches]))
