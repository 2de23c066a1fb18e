"""The permutation that aligns the neurons of `source` to those of `target`, certified."""

from functools import partial

from neuralign import align, augmentations, setting
from neuralign.checkpoints import Checkpoint
from neuralign.job import run
from neuralign.plugins import plugin
from neuralign.symmetry import MOVES, identity, moves
from neuralign.tables import write_rows


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
):
    images, net = setting.prepare(data, model)
    trace = setting.symmetry(net, images, attention=attention)
    problem = align.Problem(
        net,
        trace,
        *(setting.read_state(path, net) for path in (target, source)),
        images.train,
        augmentations.pipeline(augment),
        setting.read_permutation(start, trace.spec) if start else None,
        setting.attack(attack),
        partial(Checkpoint, scratch),
    )
    found = align.search(problem, plugin("align", method))
    proof = align.certificate(problem, found)
    problem.facts["certificate"] = proof.error
    setting.save_permutation(found, permutation, trace.spec, problem.facts | proof.facts(), attention=attention)
    write_rows(moves(found, problem.start or identity(trace.spec), problem.facts), moved, MOVES)
    Checkpoint(scratch).clear()


if __name__ == "__main__":
    run(main)
