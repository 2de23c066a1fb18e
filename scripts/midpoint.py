"""The correlation of the units of a trained curve's midpoint with those of either end, in every layer."""

from neuralign.alignment.problem import Problem
from neuralign.common.tables import write_rows
from neuralign.curves.storage import open_path
from neuralign.evaluation import signatures
from neuralign.networks.model import Model
from neuralign.networks.setup import load_data_and_model
from neuralign.symmetry.tracing.execution import DeterministicModule
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate, refresh_each
from neuralign.workflow.running.run import run


def main(data, target, source, bends, midpoint, *, model, curve, augment, protocol, permutation=None):
    """Correlate on all test images; batch-norm statistics and the re-alignment of the ends use training images."""
    images, net = load_data_and_model(data, model)
    trace = trace_model(net, images.train)
    path = open_path(net, images.train, target, source, curve=curve, permutation=permutation, bends=bends)
    # estimates statistics also in heads that the network itself runs in training mode only
    all_heads = Model(DeterministicModule(trace.network), net.mean, net.std)
    midpoints = [path.endpoints.state_on(curve, 0.5) for curve in (path.curve, path.line)]
    estimate = Estimate.on(images.train, augmentation.transform_of(augment, images.train), **protocol)
    statistics = refresh_each(all_heads, midpoints, path.endpoints.statistics, estimate.sample())
    trained, initial = (state | buffers for state, buffers in zip(midpoints, statistics, strict=True))
    rows = [
        {"end": end} | row
        for end, state in zip(("start", "end"), path.states, strict=True)
        for row in signatures.midpoint(Problem(net, trace, state, trained, images.train), initial, images.test)
    ]
    write_rows(rows, midpoint)


if __name__ == "__main__":
    run(main)
