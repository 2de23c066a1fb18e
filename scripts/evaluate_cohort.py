"""Loss and accuracy of several networks and of their mean, on clean and on attacked test images, as a tidy table."""

from neuralign.alignment.common_frame.storage import load_permutations
from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin_or_none
from neuralign.evaluation.attacks import attacks_of
from neuralign.evaluation.of_cohort import measure_cohort
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.permutations import permute
from neuralign.symmetry.storage import uses_attention
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate
from neuralign.training.loop import objective_of
from neuralign.workflow.running.run import run


def main(data, networks, permutations, networks_table, *, model, members, augment, attacks, protocol, objective=None):
    images, net = load_data_and_model(data, model)
    spec = trace_model(net, images.train, attention=uses_attention(permutations)).spec
    states = [load_state(path, net) for path in networks]
    found = load_permutations(permutations, spec, len(states))
    # where the evaluation corrects its estimates by passes over all training images, each network takes such a pass
    estimate = Estimate.on(
        images.train,
        augmentation.transform_of(augment, images.train),
        attack=plugin_or_none("attacks", protocol["attacked_statistics"]),
        images=None if protocol["full_passes"] else protocol["images"],
        **{key: protocol[key] for key in ("batch_size", "seed")},
    )
    rows = measure_cohort(
        net,
        dict(zip(members, states, strict=True)),
        [permute(spec, permutation, state) for permutation, state in zip(found, states, strict=True)],
        estimate,
        images.train,
        images.test,
        attacks_of(attacks, protocol.get("attack_precision", "float32")),
        batch_size=protocol["batch_size"],
        seed=protocol["seed"],
        objective=objective_of(objective),
    )
    write_rows(rows, networks_table)


if __name__ == "__main__":
    run(main)
