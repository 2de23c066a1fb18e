"""The permutation that aligns the neurons of `source` to those of `target`, certified."""

from neuralign import align, setting
from neuralign.job import run
from neuralign.plugins import plugin


def main(data, target, source, permutation, *, model, method):
    images, net = setting.prepare(data, model)
    sides = (setting.read_state(path, net) for path in (target, source))
    problem = align.Problem(net, setting.symmetry(net, images), *sides, images.train)
    found = plugin("align", method)(problem)
    error = align.certify(problem, found)
    setting.save(found, permutation, {"certificate": f"largest relative change of the logits in float64: {error:.3g}"})


if __name__ == "__main__":
    run(main)
