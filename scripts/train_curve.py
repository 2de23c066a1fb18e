"""The bends of a low-loss curve from `target` to `source`, whose neurons are permuted first where asked."""

from neuralign import augmentations, setting
from neuralign.checkpoints import Checkpoint
from neuralign.curves import Curve, straight
from neuralign.job import run
from neuralign.parameters import Layout
from neuralign.plugins import plugin
from neuralign.tables import write_rows
from neuralign.training import fit


def main(
    data, target, source, bends, history, *, model, training, attack, augment, curve, seed, scratch, permutation=None
):
    images, net = setting.prepare(data, model)
    (start, stored), (end, _) = (
        setting.split(net, state) for state in setting.read_ends(target, source, permutation, net, images)
    )
    layout, keeper = Layout.of(start), Checkpoint(scratch)
    line = straight(plugin("curves", curve), layout.flatten(start), layout.flatten(end))
    progress = fit(
        net,
        line.bends,
        lambda points, weights: Curve(line.basis, line.ends, points).at(weights),
        layout,
        stored,
        images.train,
        setting.regime(training),
        transform=augmentations.pipeline(augment),
        basis=line.basis,
        attack=setting.attack(attack),
        seed=seed,
        keeper=keeper,
    )
    setting.save(setting.name_bends(layout, progress.trainable), bends)
    write_rows(progress.history, history)
    keeper.clear()


if __name__ == "__main__":
    run(main)
