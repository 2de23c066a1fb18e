"""How a trained curve's midpoint correlates with either end, unit by unit, in every layer."""

from neuralign.alignment import problem
from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin
from neuralign.curves.curve import straight
from neuralign.evaluation import signatures
from neuralign.networks.model import Model
from neuralign.symmetry.tracing.execution import WholeModule
from neuralign.training import augmentation, setting
from neuralign.training.batch_norm import Estimate, refresh_each
from neuralign.workflow.running.run import run


def main(data, target, source, bends, midpoint, *, model, curve, augment, protocol, permutation=None):
    """Compared on all test images; batch-norm statistics and re-alignment are of training images."""
    images, net = setting.prepare(data, model)
    trace = setting.symmetry(net, images)
    ends = setting.read_ends(target, source, permutation, net, images)
    divided = setting.divided(net, images, *ends)
    line = straight(plugin("curves", curve), *divided.vectors)
    path = line.bent(setting.read_bends(bends, divided.layout, line.bends))
    whole = Model(WholeModule(trace.network), net.mean, net.std)  # auxiliary heads too
    middles = [divided.on(c, 0.5) for c in (path, line)]
    estimate = Estimate.on(images.train, augmentation.pipeline(augment), **protocol)
    found = refresh_each(whole, middles, divided.statistics, estimate.sample())
    trained, initial = (middle | own for middle, own in zip(middles, found, strict=True))
    rows = [
        {"end": place} | row
        for place, state in zip(("start", "end"), ends, strict=True)
        for row in signatures.midpoint(problem.Problem(net, trace, state, trained, images.train), initial, images.test)
    ]
    write_rows(rows, midpoint)


if __name__ == "__main__":
    run(main)
