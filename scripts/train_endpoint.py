"""One network trained from one seed."""

import torch

from neuralign import augmentations, setting
from neuralign.checkpoints import Checkpoint
from neuralign.job import run
from neuralign.networks import buffers, parameters
from neuralign.parameters import Layout
from neuralign.seeding import derive
from neuralign.tables import write_rows
from neuralign.training import fit


def main(data, network, history, *, model, training, attack, augment, seed, scratch):
    images, net = setting.prepare(data, model, seed=derive(seed, "initialisation"))
    start = parameters(net.network)
    layout, keeper = Layout.of(start), Checkpoint(scratch)
    progress = fit(
        net,
        layout.flatten(start),
        lambda weights, _: weights,
        layout,
        buffers(net.network),
        images.train,
        setting.regime(training),
        transform=augmentations.pipeline(augment),
        attack=setting.attack(attack),
        seed=seed,
        keeper=keeper,
    )
    with torch.no_grad():
        setting.save(layout.views(progress.trainable) | progress.buffers, network)
    write_rows(progress.history, history)
    keeper.clear()


if __name__ == "__main__":
    run(main)
