"""Which alignment and which repair make the best merge: several are tried, and compared on validation examples.

Test examples are for the final measurement alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

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
from neuralign.symmetry.permutations import Permutation, identity, permute
from neuralign.training.objective import LOSS, Objective

Method = Callable[[Problem], Permutation]
Score = Callable[[Merge, State], float]  # (merge, its state as it is or repaired) -> what is to be small
SHARE = 0.2  # of the examples, for validation
LARGEST = 10_000  # number of examples that are used


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
    facts: dict[str, Any]  # of the repair
    tried: list[dict[str, Any]]  # method, repair and score of every merge


def align_to_first(problem: Problem, states: Sequence[State], method: Method | None) -> Alignment:
    """The alignment of each of `states` to the first by a method of pairs; the identity for None.

    `problem`: what all pairs have in common. Raises CertificateError if a permutation changes a network's function.
    """
    permutations: list[Permutation] = [identity(problem.trace.spec)]
    certificates = [0.0]
    for source in states[1:]:
        pair = Problem(problem.model, problem.trace, states[0], source, problem.examples, objective=problem.objective)
        permutations.append(identity(problem.trace.spec) if method is None else dict(search(pair, method)))
        certificates.append(certify(pair, permutations[-1]))
    return Alignment(tuple(permutations), max(certificates))


def best_merge(
    problem: Problem,
    states: Sequence[State],
    methods: Mapping[str, Method | None],
    repairs: Mapping[str, Repair | None],
    score: Score,
    weights: Sequence[float] | None = None,
    greedy: bool = False,
) -> Choice:
    """The merge with the lowest score over all methods and repairs; the first of equal ones.

    Args:
        problem: with the examples on which networks are aligned and repaired.
        states: of the networks.
        methods: name -> method; None leaves the networks as they are.
        repairs: name -> repair; None leaves the mean as it is.
        score: of a merge.
        weights: of the networks; None: equal ones.
        greedy: whether a network is only taken into the mean if the score does not rise (`greedy_soup`).
    """
    tried: list[dict[str, Any]] = []
    best: tuple[float, Choice] | None = None
    all_members = tuple(range(len(states)))
    for method, align in methods.items():
        alignment = align_to_first(problem, states, align)
        pairs = zip(alignment.permutations, states, strict=True)
        ends = [permute(problem.trace.spec, permutation, state) for permutation, state in pairs]
        for name, repair in repairs.items():
            merge = merge_of(problem.model, problem.trace, ends, problem.examples, weights)
            members, state = _greedy_soup(merge, repair, score) if greedy else (all_members, repaired(merge, repair))
            value = score(merge, state)
            tried.append({"method": method, "repair": name, "score": value})
            if best is None or value < best[0]:
                best = value, Choice(method, name, alignment, members, state, dict(merge.facts), tried)
    if best is None:
        raise UserError("no method and repair is left to try")
    return best[1]


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
    """The score of merges without data: the squared distances of the aligned networks from the first."""
    names = parameters(merge.model.network)
    first = merge.ends[0]
    return sum((end[n].double() - first[n].double()).square().sum().item() for end in merge.ends[1:] for n in names)


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
    order = torch.randperm(len(examples), generator=stream(seed, "validation"))[:count].to(examples.device)
    held_out = ceil(SHARE * count)
    return examples.subset(order[held_out:]), examples.subset(order[:held_out])


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
