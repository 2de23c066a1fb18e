"""Coordinate ascent of the agreement over permutations, and the choice among several runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan
from typing import Literal

import torch
from torch import Tensor

from neuralign.alignment.agreement import Agreement, MatchingObjective, Matrices
from neuralign.alignment.birkhoff import assign, best_step, to_matrix
from neuralign.alignment.path_loss import midpoint_loss
from neuralign.alignment.problem import Problem
from neuralign.common.seeding import stream
from neuralign.networks.model import parameters
from neuralign.symmetry import permutations
from neuralign.symmetry.permutations import Permutation, identity

RISE = 1e-12  # the smallest relative and absolute rise that counts; less may be rounding


@dataclass
class Found:
    """A permutation that a search ended at."""

    permutation: dict[str, Tensor]
    value: float  # of the objective
    steps: int  # sweeps, or steps of Frank-Wolfe
    facts: dict[str, float] = field(default_factory=dict)


def agreement_of(problem: Problem) -> Agreement:
    """The agreement of the problem's networks, over their parameters."""
    return Agreement(problem.trace.spec, problem.target, problem.source, parameters(problem.model.network))


def ascend(
    objective: MatchingObjective,
    start: Permutation,
    *,
    sweeps: int,
    order: Literal["shuffled", "graph"],
    generator: torch.Generator,
) -> Found:
    """The permutation that coordinate ascent ends at: one group after another is matched while the others stay.

    A match is kept if the objective rises, so that it never falls. It ends after a sweep without a change, or after
    `sweeps`. Each match of a single group is the best one; the objective is a quadratic in the matrix of any other
    group, for which the best points of a line search are rounded (Ainsworth et al. 2023, algorithm 1).
    """
    permutation, value = dict(start), objective.value(start)
    groups, sweep, changed = list(objective.spec.free), 0, True
    while changed and sweep < sweeps:
        sweep += 1
        if order == "shuffled":
            groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
        changed = False
        for group in groups:
            match, rise = _best_match(objective, group, permutation)
            if rise > RISE * (1 + abs(value)):
                permutation[group], value, changed = match, value + rise, True
    return Found(permutation, objective.value(permutation), sweep)


def match_in_turn(objective: Agreement) -> dict[str, Tensor]:
    """The permutation {group: (n,)} that matches the groups once, in the order of the network, from nothing.

    While a group is matched, the channels of each group that has no match yet are replaced by their mean. So heads of
    an attention can be matched before the channels within them, of which no order is right yet.
    """
    permutation: dict[str, Tensor] = {}
    for group in objective.spec.free:
        waiting = [g for g in objective.spec.free if g not in permutation]
        permutation[group] = assign(objective.score(group, permutation, averaged=waiting))
    return permutation


def _best_match(objective: MatchingObjective, group: str, permutation: Permutation) -> tuple[Tensor, float]:
    """A match of one group, and how much the objective rises with it."""
    score = objective.score(group, permutation)
    match, current = assign(score), permutation[group]
    if group in objective.single and group not in objective.rounded:
        rows = torch.arange(len(match))
        return match, float((score[rows, match] - score[rows, current]).sum())

    def rise(candidate: Tensor) -> float:
        return objective.gain(group, permutation, {**permutation, group: candidate})

    if group in objective.single:
        return match, rise(match)
    hard = {g: to_matrix(p) for g, p in permutation.items()}
    direction = to_matrix(match) - hard[group]

    def along(t: float) -> Matrices:
        return {**hard, group: hard[group] + t * direction}

    relaxed = along(best_step(lambda t: float(objective.soft_value(along(t))), 2))
    candidates = [match, assign(relaxed[group]), assign(objective.soft_score(group, relaxed))]
    return max(((candidate, rise(candidate)) for candidate in candidates), key=lambda pair: pair[1])


def best_of_runs(
    problem: Problem,
    run: Callable[[int, torch.Generator], Found],
    count: int,
    *,
    choose: Literal["agreement", "midpoint"],
    images: int,
    seed: int,
) -> Found:
    """The best of `count` runs, (number of the run, generator) -> what it found.

    `choose`: whether the best has the largest objective, or the lowest training loss at the midpoint of the line to it,
    on so many `images`; a loss that is no number is the highest.
    """
    runs = [run(i, stream(seed, "restart", i)) for i in range(count)]
    if choose == "agreement":
        return max(runs, key=lambda result: result.value)
    for result in runs:
        result.facts["midpoint_loss"] = midpoint_loss(problem, result.permutation, images)
    problem.facts.update(images=min(images, len(problem.examples)), labels=True)
    return min(runs, key=lambda result: (isnan(result.facts["midpoint_loss"]), result.facts["midpoint_loss"]))


def start_of_run(problem: Problem, number: int, generator: torch.Generator) -> Permutation:
    """The permutation at which a run starts: the first at the problem's start, the others at random ones."""
    spec = problem.trace.spec
    return permutations.random(spec, generator) if number else problem.start or identity(spec)


def report(problem: Problem, objective: Agreement, best: Found, count: int) -> None:
    """Write into the problem's facts what a search by weights reports; it has read no images unless they say so."""
    before = objective.value(problem.start or identity(problem.trace.spec))
    agreements = {"agreement_before": before / objective.norms, "agreement": best.value / objective.norms}
    read = {"images": 0, "labels": False}
    problem.facts.update(read | problem.facts | agreements | {"steps": best.steps, "restarts": count} | best.facts)
