"""An upper bound on the loss along the straight line between two networks, and its terms by layer."""

from neuralign.common.tables import write_rows
from neuralign.curves.storage import endpoints_on_images, load_ends
from neuralign.evaluation.bound import Unbounded, bound_along_line, without_bound
from neuralign.networks.setup import load_data_and_model
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.workflow.running.run import run


def main(data, target, source, bound, layers, *, model, permutation=None, images=500, points=17):
    """Bound the loss on `images` test images, equally many of each class, and measure it at `points` points t."""
    splits, net = load_data_and_model(data, model)
    ends = load_ends(net, splits.train, target, source, permutation)
    endpoints_on_images(net, splits.train, *ends).demand_interpolable()
    trace = trace_model(net, splits.train)
    try:
        total, rows = bound_along_line(net, trace, *ends, splits.test.balanced(images), points=points)
    except Unbounded as error:  # not a failure: the rest of the study does not need the bound
        total, rows = without_bound(str(error))
    write_rows([total], bound)
    write_rows(rows, layers)


if __name__ == "__main__":
    run(main)
