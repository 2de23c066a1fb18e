"""Soups: means of several aligned networks, of all of them or of those that help (Wortsman et al. 2022)."""

from collections.abc import Callable, Sequence
from math import inf, isnan

from neuralign.networks.model import State


def greedy_soup(
    states: Sequence[State], make: Callable[[Sequence[State]], State], score: Callable[[State], float]
) -> tuple[tuple[int, ...], State]:
    """(indices of the chosen networks, the best first; their mean): one is added if the score does not fall.

    The uniform soup is `merge_of` all networks. Aligned networks are needed: a mean of independent ones fails.

    Args:
        states: of the networks, aligned.
        make: some of the states -> their mean, repaired or not.
        score: state -> its accuracy on validation examples; larger is better. The networks are tried in its order.
    """
    scores = [-inf if isnan(value := score(state)) else value for state in states]
    best, *others = sorted(range(len(states)), key=lambda i: -scores[i])
    chosen, soup, highest = [best], states[best], scores[best]
    for candidate in others:
        larger = make([states[i] for i in (*chosen, candidate)])
        if (value := score(larger)) >= highest:
            chosen, soup, highest = [*chosen, candidate], larger, value
    return tuple(chosen), soup
