"""A bound on the loss of the straight line between two networks, and what it is made of, layer by layer."""

from neuralign.common.tables import write_rows
from neuralign.evaluation.bound import Unbounded, bound_along_line, refused
from neuralign.training import setting
from neuralign.workflow.running.run import run


def main(data, target, source, bound, layers, *, model, permutation=None, images=500, points=17):
    """On the first `images` test images, equally many of each class; the mean loss is measured at `points` points."""
    found, net = setting.prepare(data, model)
    ends = setting.read_ends(target, source, permutation, net, found)
    setting.divided(net, found, *ends).demand_between()
    trace = setting.symmetry(net, found)
    try:
        total, rows = bound_along_line(net, trace, *ends, found.test.balanced(images), points=points)
    except Unbounded as error:  # the study has more to say than this
        total, rows = refused(str(error))
    write_rows([total], bound)
    write_rows(rows, layers)


if __name__ == "__main__":
    run(main)
