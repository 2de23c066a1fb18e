"""The bends of a low-loss curve from `target` to `source`, whose neurons are permuted first where asked.

`others` are further jobs like it, to be done together.
"""

from neuralign import augmentations, precision, setting
from neuralign.checkpoints import Checkpoint
from neuralign.curves import Curve, straight
from neuralign.job import run
from neuralign.networks import parameters
from neuralign.parameters import Layout
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
    layout, basis = Layout.of(parameters(net.network)), plugin("curves", curve)
    tasks = [_task(job, net, images, layout, basis, keeper) for job, keeper in zip(jobs, keepers, strict=True)]
    transform, attack = augmentations.pipeline(augment), setting.attack(attack)
    regime = setting.regime(training)
    precision.tell(net, images.train, regime)
    results = fit_together(net, tasks, layout, images.train, regime, transform=transform, attack=attack)
    for job, progress in unless_diverged(jobs, results):
        setting.save(setting.name_bends(layout, progress.trainable), job["bends"])
        write_rows(progress.history, job["history"])
    for keeper in keepers:
        keeper.clear()


def _task(job, net, images, layout, basis, keeper):
    ends = setting.read_ends(job["target"], job["source"], job.get("permutation"), net, images)
    (start, stored), (end, _) = (setting.split(net, state) for state in ends)
    line = straight(basis, layout.flatten(start), layout.flatten(end))

    def sample(points, weights):
        return Curve(basis, line.ends, points).at(weights)

    return Task(line.bends, sample, stored, job["seed"], basis, keeper)


if __name__ == "__main__":
    run(main)
