"""The bends of a low-loss curve from `target` to `source`, whose neurons are permuted first where asked.

`others` are further jobs like it, to be done together.
"""

from neuralign import augmentations, setting
from neuralign.checkpoints import Checkpoint
from neuralign.curves import Curve, straight
from neuralign.job import run
from neuralign.networks import parameters
from neuralign.parameters import Layout
from neuralign.plugins import plugin
from neuralign.simultaneous import fit_together, unless_diverged
from neuralign.tables import write_rows
from neuralign.training import Training


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
    options = {"transform": augmentations.pipeline(augment), "attack": setting.attack(attack), "basis": basis}
    trainings = [
        Training(
            *(net, *_start(job, net, images, layout, basis), images.train, setting.regime(training)),
            **options,
            seed=job["seed"],
            keeper=keeper,
        )
        for job, keeper in zip(jobs, keepers, strict=True)
    ]
    results = fit_together(trainings)
    for job, progress in unless_diverged(jobs, results):
        setting.save(setting.name_bends(layout, progress.trainable), job["bends"])
        write_rows(progress.history, job["history"])
    for keeper in keepers:
        keeper.clear()


def _start(job, net, images, layout, basis):
    """Where the bends of a job begin, how they become a network, and the buffers: arguments of `Training`."""
    ends = setting.read_ends(job["target"], job["source"], job.get("permutation"), net, images)
    (start, stored), (end, _) = (setting.split(net, state) for state in ends)
    line = straight(basis, layout.flatten(start), layout.flatten(end))

    def sample(points, weights):
        return Curve(basis, line.ends, points).at(weights)

    return line.bends, sample, layout, stored


if __name__ == "__main__":
    run(main)
