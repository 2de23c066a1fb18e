"""The bends of a low-loss curve from `target` to `source`, whose neurons are permuted first where asked.

`others` are further jobs like it, to be done together.
"""

from neuralign import augmentations, setting
from neuralign.checkpoints import Checkpoint
from neuralign.curves import straight
from neuralign.job import run
from neuralign.plugins import plugin
from neuralign.tables import write_rows
from neuralign.training import Task, fit_together, unless_diverged


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
    layout = opened[0][0].layout
    tasks = [_task(job, *path, keeper) for job, path, keeper in zip(jobs, opened, keepers, strict=True)]
    transform, attack = augmentations.pipeline(augment), setting.attack(attack)
    results = fit_together(
        net, tasks, layout, images.train, setting.regime(training), transform=transform, attack=attack
    )
    for (job, (_, line)), progress in unless_diverged(list(zip(jobs, opened, strict=True)), results):
        setting.save(setting.name_bends(layout, line.bent(progress.trainable).bends), job["bends"])
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


def _task(job, ends, line, keeper):
    def sample(points, weights):
        return line.bent(points).at(weights)

    return Task(line.bends[:, : ends.layout.trained], sample, ends.stored[0], job["seed"], line.basis, keeper)


if __name__ == "__main__":
    run(main)
