"""One pass of weight matching from the input to the output, as in model fusion by optimal transport of weights (Singh &
Jaggi 2020, with exact transport between networks of one width)."""

from torch import Tensor

from neuralign.alignment.ascent import Found, agreement_of, report
from neuralign.alignment.birkhoff import assign
from neuralign.alignment.problem import Problem
from neuralign.symmetry.permutations import identity


def single_pass(problem: Problem) -> dict[str, Tensor]:
    """The permutation {group: (n,)} that matches each group once, in the order of the network, by its incoming weights.

    The weights of a unit are compared where all other groups on them are matched already: in a network without
    branches these are the weights of its inputs and its bias. With exact transport and equal widths, a plan is a
    permutation, and that of the smallest squared distances has the largest agreement. With activations instead of
    weights, nothing depends on the layers before; that is the method `transport`.
    """
    objective = agreement_of(problem)
    permutation = dict(problem.start or identity(problem.trace.spec))
    order = {group: i for i, group in enumerate(objective.spec.sizes)}  # of the network, with its inputs and outputs
    for group in objective.spec.free:
        is_last = {
            name: order[group] == max(map(order.__getitem__, objective.counts[name])) for name in objective.counts
        }
        incoming = [name for name in objective.of_group[group] if is_last[name]]
        permutation[group] = assign(objective.score(group, permutation, incoming))
    report(problem, objective, Found(permutation, objective.value(permutation), 1), 1)
    return permutation
