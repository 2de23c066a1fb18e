"""How a trained curve's midpoint correlates with either end, unit by unit, in every layer."""

from neuralign.alignment.problem import Problem
from neuralign.common.tables import write_rows
from neuralign.curves.storage import open_path
from neuralign.evaluation import signatures
from neuralign.networks.model import Model
from neuralign.networks.setup import prepare
from neuralign.symmetry.tracing.execution import DeterministicModule
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate, refresh_each
from neuralign.workflow.running.run import run


def main(data, target, source, bends, midpoint, *, model, curve, augment, protocol, permutation=None):
    """Compared on all test images; batch-norm statistics and re-alignment are of training images."""
    images, net = prepare(data, model)
    trace = trace_model(net, images.train)
    path = open_path(net, images.train, target, source, curve=curve, permutation=permutation, bends=bends)
    whole = Model(DeterministicModule(trace.network), net.mean, net.std)  # auxiliary heads too
    middles = [path.endpoints.on(c, 0.5) for c in (path.curve, path.line)]
    estimate = Estimate.on(images.train, augmentation.pipeline(augment), **protocol)
    found = refresh_each(whole, middles, path.endpoints.statistics, estimate.sample())
    trained, initial = (middle | own for middle, own in zip(middles, found, strict=True))
    rows = [
        {"end": place} | row
        for place, state in zip(("start", "end"), path.states, strict=True)
        for row in signatures.midpoint(Problem(net, trace, state, trained, images.train), initial, images.test)
    ]
    write_rows(rows, midpoint)


if __name__ == "__main__":
    run(main)
