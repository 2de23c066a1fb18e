"""Whether the decisions of a run can change what the network does with another input.

A network that warns of padding in its input reads a bool, and does the same with either answer. To find that out it is
run again with the other answer, and with both answers to what it reads then. Where it raises an error of its own for an
answer, inputs with that answer have no output, so that the answer does not matter.
"""

from collections.abc import Callable, Mapping

from neuralign.symmetry.tracing.recording import Recorder

MOST_RERUNS = 16
Answers = Mapping[int, bool]  # number of a decision in its run -> what Python is to read there


def are_decisions_without_effect(run: Recorder, rerun: Callable[[Answers], Recorder]) -> bool:
    """Whether every decision of a run reads a bool of the input alone, and all answers lead to the same operations.

    `rerun` repeats the run with other answers.
    """
    pending, reruns = [(run, 0)], 0  # runs, and how many of their first decisions need no other answer any more
    while pending:
        branch, settled = pending.pop()
        if len(branch.decisions) != len(branch.yes_no):
            return False
        if not branch.raised and branch.result_digests != run.result_digests:
            return False
        for decision in range(settled, len(branch.yes_no)):
            if (reruns := reruns + 1) > MOST_RERUNS:
                return False
            earlier = {i: answer for i, answer in branch.yes_no.items() if i < decision}
            try:
                pending.append((rerun({**earlier, decision: not branch.yes_no[decision]}), decision + 1))
            except Exception:  # of any kind: operations that do not accept what this answer leads to
                return False
    return True
