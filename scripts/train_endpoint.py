"""A network trained from a seed.

`others`: arguments of other jobs with the same settings, trained in this process. `processes`: that share this one.
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
from neuralign.training import augmentation
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.distributed.processes import ALONE
from neuralign.training.loop import Training, objective_of
from neuralign.training.progress import Regime
from neuralign.training.simultaneous import train_together
from neuralign.workflow.running.run import run


def main(
    data,
    network,
    history,
    *,
    model,
    training,
    attack,
    augment,
    seed,
    scratch,
    objective=None,
    others=(),
    processes=ALONE,
):
    jobs = [{"network": network, "history": history, "seed": seed, "scratch": scratch}, *others]
    images, net = load_data_and_model(data, model, seed=derive(seed, "initialisation"))
    nets = [net, *(build_model(data, images, model, derive(job["seed"], "initialisation")) for job in others)]
    starts = [split_trainable(built, parameters(built.network) | buffers(built.network)) for built in nets]
    demand_savable(network, starts[0][0] | starts[0][1])
    layout = FlatLayout.of(starts[0][0])
    options = {
        "transform": augmentation.transform_of(augment, images.train),
        "attack": plugin_or_none("attacks", attack),
        "objective": objective_of(objective),
        "processes": processes,
    }
    trainings = [
        Training(
            *(net, layout.flatten(start), lambda weights, _: weights, layout, untrained, images.train),
            Regime.of(training),
            **options,
            seed=job["seed"],
            keeper=Checkpoint(job["scratch"]),
        )
        for job, (start, untrained) in zip(jobs, starts, strict=True)
    ]
    for i, progress in train_together(trainings):
        with torch.no_grad():
            save_tensors(layout.views(progress.trainable) | progress.buffers, jobs[i]["network"])
        write_rows(progress.history, jobs[i]["history"])
    for job in jobs if processes.leads else ():
        Checkpoint(job["scratch"]).clear()


if __name__ == "__main__":
    run(main)
