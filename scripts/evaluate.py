"""The objective's metrics along a path, on the test split, clean and under attacks, as a tidy table."""

import torch

from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin_or_none
from neuralign.curves.storage import open_path
from neuralign.evaluation.along_curve import measure_curve
from neuralign.evaluation.attacks import attacks_of
from neuralign.networks.setup import load_data_and_model
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate
from neuralign.training.loop import objective_of
from neuralign.workflow.running.run import run


def main(
    data,
    target,
    source,
    points,
    *,
    model,
    curve,
    augment,
    attacks,
    protocol,
    permutation=None,
    bends=None,
    objective=None,
):
    images, net = load_data_and_model(data, model)
    path = open_path(net, images.train, target, source, curve=curve, permutation=permutation, bends=bends)
    estimate = Estimate.on(
        images.train,
        augmentation.transform_of(augment, images.train),
        attack=plugin_or_none("attacks", protocol["attacked_statistics"]),
        **{k: protocol[k] for k in ("batch_size", "seed", "images", "full_passes")},
    )
    rows = measure_curve(
        net,
        path.curve,
        path.endpoints,
        torch.linspace(0, 1, protocol["points"], dtype=torch.float64).tolist(),
        estimate,
        images.test,
        attacks_of(attacks, protocol.get("attack_precision", "float32")),
        batch_size=protocol["batch_size"],
        seed=protocol["seed"],
        objective=objective_of(objective),
    )
    write_rows(rows, points)


if __name__ == "__main__":
    run(main)
