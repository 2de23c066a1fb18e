"""Alignment of several networks by a method that aligns two: each to one of them, or each to the mean of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from neuralign.alignment.ascent import RISE
from neuralign.alignment.common_frame.cohort import Cohort, Permutations, in_frame_of_first
from neuralign.alignment.common_frame.objective import JointAgreement, join
from neuralign.alignment.problem import search
from neuralign.common.errors import UserError
from neuralign.common.seeding import stream
from neuralign.common.tensors import ComputedState
from neuralign.networks.model import State, parameters
from neuralign.networks.states import mean_state
from neuralign.symmetry.permutations import Permutation, identity, permute
from neuralign.training.batch_norm import refresh

IMAGES, BATCH_SIZE = 2000, 256  # for the batch-norm statistics of a mean network
NOTHING = {"images": 0, "labels": False}  # the facts of what a method has read; None: it does not say


@dataclass(frozen=True)
class Frame:
    """The permutations of all networks into the frame of the first, and how many steps of a search found them."""

    permutations: Permutations
    steps: int


def identities(cohort: Cohort) -> Permutations:
    """The networks as they are."""
    return tuple(identity(cohort.trace.spec) for _ in cohort.states)


def align_to_member(cohort: Cohort, number: int) -> Permutations:
    """Every network aligned with one of them, by the cohort's inner method. Raises UserError if there is no such one.

    `number`: of that network, counted from 1.
    """
    count, reference = len(cohort.states), number - 1
    if number > count:
        raise UserError(f"member: found {number}; there are only {count} networks")
    return in_frame_of_first(
        [
            identity(cohort.trace.spec)
            if p == reference
            else _run(cohort, cohort.states[reference], p, None, f"member_{p + 1}")
            for p in range(count)
        ]
    )


def align_to_means(cohort: Cohort, start: Permutations, *, sweeps: int, seed: int) -> Frame:
    """Every network aligned with the mean of the others in turn, by the cohort's inner method, until nothing changes.

    A permutation is kept if the agreement of all networks rises, so that it never falls (Ainsworth et al. 2023,
    algorithm 3). Each sweep is in a new random order.
    """
    objective, generator = JointAgreement.of(cohort), stream(seed, "sweeps")
    permutations, value = list(start), objective.value(join(start))
    sweep, changed = 0, True
    while changed and sweep < sweeps:
        sweep += 1
        changed = False
        for p in torch.randperm(len(permutations), generator=generator).tolist():
            target = _mean_of_others(cohort, permutations, p)
            match = _run(cohort, target, p, permutations[p], f"sweep_{sweep}_member_{p + 1}")
            candidates = [*permutations[:p], match, *permutations[p + 1 :]]
            candidate_value = objective.value(join(candidates))
            if candidate_value - value > RISE * (1 + abs(value)):
                permutations, value, changed = candidates, candidate_value, True
    return Frame(in_frame_of_first(permutations), sweep)


def report(cohort: Cohort, frame: Frame) -> Permutations:
    """The permutations of a frame, after writing its agreement and steps into the cohort's facts."""
    objective = JointAgreement.of(cohort)
    before, after = (objective.value(join(each)) for each in (identities(cohort), frame.permutations))
    agreements = {"agreement_before": before / objective.norms, "agreement": after / objective.norms}
    cohort.facts.update(NOTHING | cohort.facts | agreements | {"steps": frame.steps})
    return frame.permutations


def _run(cohort: Cohort, target: State, p: int, start: Permutation | None, name: str) -> dict[str, Tensor]:
    """The permutation that the inner method aligns network p with `target` by. The cohort's facts say what it read."""
    problem = cohort.problem(target, p, start, name)
    permutation = identity(cohort.trace.spec) | dict(search(problem, cohort.inner))  # groups as the network has them
    for fact, nothing in NOTHING.items():
        values = cohort.facts.get(fact, nothing), problem.facts.get(fact)
        cohort.facts[fact] = None if None in values else max(values)
    return permutation


def _mean_of_others(cohort: Cohort, permutations: Sequence[Permutation], p: int) -> State:
    """The mean of all networks but p in their frame, whose batch-norm statistics are estimated if they are read."""
    others = [q for q in range(len(permutations)) if q != p]
    share = sum(cohort.shares[q] for q in others)
    moved = [permute(cohort.trace.spec, permutations[q], cohort.states[q]) for q in others]
    mean = mean_state(moved, [cohort.shares[q] / share for q in others])
    learned = parameters(cohort.model.network).keys()
    buffers = {name: tensor for name, tensor in mean.items() if name not in learned}

    @cache
    def estimated() -> dict[str, Tensor]:
        examples = cohort.examples.sample(IMAGES, stream(0, "mean statistics"))
        varied = examples.varied(BATCH_SIZE, cohort.transform, lambda i: stream(0, "augmented statistics", i))
        return refresh(cohort.model, mean, buffers, varied)

    return ComputedState(mean.keys(), lambda name: mean[name] if name in learned else estimated()[name])
