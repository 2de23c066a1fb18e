"""Whether what Python read of the numbers of a run can change what the network does with another input.

A network that warns of padding in its input reads a yes or no, and goes on alike with either. That is found out by
running it again with the other answer, and with the answers to what it asks then. Where it refuses an answer with an
error of its own, no such input has an output.
"""

from collections.abc import Callable, Mapping

from neuralign.symmetry.tracing.recording import Recorder

MOST = 16  # runs with other answers
Answers = Mapping[int, bool]  # by which of the decisions of a run they are for


def is_without_consequence(run: Recorder, rerun: Callable[[Answers], Recorder]) -> bool:
    """Whether every decision of a run is a yes or no of the input alone, and all answers lead to the same operations.

    `rerun`: the same run with other answers.
    """
    waiting, tries = [(run, 0)], 0
    while waiting:
        other, given = waiting.pop()
        if len(other.decided) != len(other.answered):
            return False
        if not other.refused and other.result != run.result:
            return False
        for place in range(given, len(other.answered)):
            if (tries := tries + 1) > MOST:
                return False
            kept = {i: answer for i, answer in other.answered.items() if i < place}
            try:
                waiting.append((rerun({**kept, place: not other.answered[place]}), place + 1))
            except Exception:  # of whatever kind: an operation does not take what the answer promised
                return False
    return True
