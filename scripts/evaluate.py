"""Loss and accuracy along a path, clean and attacked, as tidy rows."""

import torch

from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin
from neuralign.curves.curve import straight
from neuralign.evaluation.along_curve import along
from neuralign.training import augmentation, setting
from neuralign.training.batch_norm import Estimate
from neuralign.workflow.running.run import run


def main(data, target, source, points, *, model, curve, augment, attacks, protocol, permutation=None, bends=None):
    images, net = setting.prepare(data, model)
    ends = setting.divided(net, images, *setting.read_ends(target, source, permutation, net, images))
    path = straight(plugin("curves", curve), *ends.vectors)
    if bends is not None:
        path = path.bent(setting.read_bends(bends, ends.layout, path.bends))
    estimate = Estimate.on(
        images.train,
        augmentation.pipeline(augment),
        attack=setting.attack(protocol["attacked_statistics"]),
        **{k: protocol[k] for k in ("batch_size", "seed", "images", "full_passes")},
    )
    rows = along(
        net,
        path,
        ends,
        torch.linspace(0, 1, protocol["points"], dtype=torch.float64).tolist(),
        estimate,
        images.test,
        {"clean": None} | {name: setting.attack(entry) for name, entry in attacks.items()},
        batch_size=protocol["batch_size"],
        seed=protocol["seed"],
    )
    write_rows(rows, points)


if __name__ == "__main__":
    run(main)
