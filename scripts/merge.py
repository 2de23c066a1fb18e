"""The mean of an aligned pair, as it is and repaired, and the barrier between both ends, measured on the test split."""

from neuralign.common.seeding import stream
from neuralign.common.tables import write_rows
from neuralign.common.tensors import load_facts
from neuralign.config.plugins import plugin
from neuralign.curves.storage import load_ends
from neuralign.datasets.images import as_is
from neuralign.evaluation.attacks import attacks_of
from neuralign.merging.diagnostics import llfc
from neuralign.merging.measurement import Line, measure_line, measure_models
from neuralign.merging.merge import merge_of
from neuralign.merging.selection import share_moved
from neuralign.networks.setup import load_data_and_model
from neuralign.symmetry.permutations import identity
from neuralign.symmetry.storage import load_permutation, uses_attention
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training.augmentation import augmented
from neuralign.training.batch_norm import Estimate
from neuralign.workflow.running.run import run


def main(
    data, target, source, models, barrier, layers, *, model, protocol, repairs, attacks, augment, permutation=None
):
    images, net = load_data_and_model(data, model)
    train = augmented(images.train, augment, protocol["seed"]).sample(None, stream(protocol["seed"], "merge"))
    trace = trace_model(net, images.train, attention=permutation is not None and uses_attention(permutation))
    merge = merge_of(net, trace, load_ends(net, images.train, target, source, permutation), train)
    sizes = {key: protocol[key] for key in ("batch_size", "seed")}
    estimate = Estimate.on(train, as_is, images=protocol["images"], **sizes)
    line = Line.between(merge, estimate, images.test, **sizes)
    mends = {name: plugin("repairs", entry) for name, entry in repairs.items()}
    write_rows(measure_models(line, mends, attacks_of(attacks)), models)
    write_rows([_describe(permutation, trace.spec) | measure_line(line, protocol["points"])], barrier)
    write_rows(llfc(merge, line.state_at(0.5), images.test), layers)


def _describe(permutation, spec):
    """What the alignment looked at, what it moved, and its certificate."""
    if permutation is None:
        return {"reads": "nothing", "moved": 0.0, "certificate": 0.0}
    facts = load_facts(permutation)
    reads = "labels" if facts.get("labels") else "images" if facts.get("images", 1) else "nothing"
    return {
        "reads": reads,
        "moved": share_moved([identity(spec), load_permutation(permutation, spec)]),
        "certificate": facts["certificate"],
    }


if __name__ == "__main__":
    run(main)
