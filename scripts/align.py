"""The certified permutation that aligns the units of `source` with those of `target`, and a table of what it moves."""

from functools import partial

from neuralign.alignment.problem import Problem, certificate, search
from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin, plugin_or_none
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.permutations import MOVES, identity, move_counts
from neuralign.symmetry.storage import load_permutation, save_permutation
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training import augmentation
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.loop import objective_of
from neuralign.workflow.running.run import run


def main(
    data,
    target,
    source,
    permutation,
    moved,
    *,
    model,
    method,
    scratch,
    attention=False,
    start=None,
    augment=(),
    attack=None,
    objective=None,
):
    images, net = load_data_and_model(data, model)
    trace = trace_model(net, images.train, attention=attention)
    problem = Problem(
        net,
        trace,
        *(load_state(path, net) for path in (target, source)),
        images.train,
        augmentation.transform_of(augment, images.train),
        load_permutation(start, trace.spec) if start else None,
        plugin_or_none("attacks", attack),
        objective_of(objective),
        partial(Checkpoint, scratch),
    )
    result = search(problem, plugin("alignments", method))
    proof = certificate(problem, result)
    problem.facts["certificate"] = proof.error
    save_permutation(result, permutation, trace.spec, problem.facts | proof.facts(), attention=attention)
    write_rows(move_counts(result, problem.start or identity(trace.spec), problem.facts), moved, MOVES)
    Checkpoint(scratch).clear()


if __name__ == "__main__":
    run(main)
