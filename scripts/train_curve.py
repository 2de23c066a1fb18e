"""The bends of a low-loss curve from `target` to `source`, whose neurons are permuted first where asked.

`others` are further jobs like it, to be done together.
"""

from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin
from neuralign.curves.curve import straight
from neuralign.training import augmentation, precision, setting
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.loop import Training
from neuralign.training.simultaneous import fit_together, unless_diverged
from neuralign.workflow.running.run import run


def main(
    data,
    target,
    source,
    bends,
    history,
    *,
    model,
    training,
    attack,
    augment,
    curve,
    seed,
    scratch,
    permutation=None,
    others=(),
):
    images, net = setting.prepare(data, model)
    own = {"target": target, "source": source, "permutation": permutation, "bends": bends, "history": history}
    jobs = [own | {"seed": seed, "scratch": scratch}, *others]
    keepers = [Checkpoint(job["scratch"]) for job in jobs]
    opened = [_opened(job, net, images, plugin("curves", curve)) for job in jobs]
    regime = setting.regime(training)
    options = {"transform": augmentation.pipeline(augment), "attack": setting.attack(attack)}
    trainings = [
        Training(
            *(net, line.bends[:, : ends.layout.trained], _sampler(line), ends.layout, ends.stored[0], images.train),
            regime,
            **options,
            basis=line.basis,
            seed=job["seed"],
            keeper=keeper,
        )
        for job, (ends, line), keeper in zip(jobs, opened, keepers, strict=True)
    ]
    precision.tell(net, images.train, regime)
    results = fit_together(trainings)
    for (job, (ends, line)), progress in unless_diverged(list(zip(jobs, opened, strict=True)), results):
        setting.save(setting.name_bends(ends.layout, line.bent(progress.trainable).bends), job["bends"])
        write_rows(progress.history, job["history"])
    for keeper in keepers:
        keeper.clear()


def _opened(job, net, images, basis):
    """The ends of a job's path, and the straight line between them."""
    ends = setting.divided(
        net, images, *setting.read_ends(job["target"], job["source"], job.get("permutation"), net, images)
    )
    ends.demand_between()
    return ends, straight(basis, *ends.vectors)


def _sampler(line):
    def sample(points, weights):
        return line.bent(points).at(weights)

    return sample


if __name__ == "__main__":
    run(main)
