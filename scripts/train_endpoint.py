"""A network trained from a seed.

`others` are the arguments of other jobs with the same settings, which are trained in the same process.
"""

import torch

from neuralign.common.seeding import derive
from neuralign.common.tables import write_rows
from neuralign.common.tensors import demand_savable, save_tensors
from neuralign.config.plugins import plugin_or_none
from neuralign.networks.model import buffers, parameters
from neuralign.networks.parameters import FlatLayout
from neuralign.networks.setup import build_model, load_data_and_model
from neuralign.networks.states import split_trainable
from neuralign.training import augmentation, step_time
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.loop import Training
from neuralign.training.progress import Regime
from neuralign.training.simultaneous import completed, fit_together
from neuralign.workflow.running.run import run


def main(data, network, history, *, model, training, attack, augment, seed, scratch, others=()):
    jobs = [{"network": network, "history": history, "seed": seed, "scratch": scratch}, *others]
    images, net = load_data_and_model(data, model, seed=derive(seed, "initialisation"))
    nets = [net, *(build_model(data, images, model, derive(job["seed"], "initialisation")) for job in others)]
    starts = [split_trainable(built, parameters(built.network) | buffers(built.network)) for built in nets]
    demand_savable(network, starts[0][0] | starts[0][1])
    layout = FlatLayout.of(starts[0][0])
    keepers = [Checkpoint(job["scratch"]) for job in jobs]
    regime = Regime.of(training)
    options = {"transform": augmentation.pipeline(augment), "attack": plugin_or_none("attacks", attack)}
    trainings = [
        Training(
            *(net, layout.flatten(start), lambda weights, _: weights, layout, untrained, images.train),
            regime,
            **options,
            seed=job["seed"],
            keeper=keeper,
        )
        for job, keeper, (start, untrained) in zip(jobs, keepers, starts, strict=True)
    ]
    step_time.report_speed(net, images.train, regime)
    results = fit_together(trainings)
    for job, progress in completed(jobs, results):
        with torch.no_grad():
            save_tensors(layout.views(progress.trainable) | progress.buffers, job["network"])
        write_rows(progress.history, job["history"])
    for keeper in keepers:
        keeper.clear()


if __name__ == "__main__":
    run(main)
