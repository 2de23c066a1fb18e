"""The trained bends of a curve from `target` to `source`, whose units are permuted first if there is a `permutation`.

`others`: arguments of other jobs with the same settings, trained in this process. `processes`: that share this one.
"""

from neuralign.common.tables import write_rows
from neuralign.common.tensors import save_tensors
from neuralign.config.plugins import plugin_or_none
from neuralign.curves.storage import name_bends, open_path
from neuralign.networks.setup import load_data_and_model
from neuralign.training import augmentation
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.distributed.processes import ALONE
from neuralign.training.loop import Training, objective_of
from neuralign.training.progress import Regime
from neuralign.training.simultaneous import train_together
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
    objective=None,
    others=(),
    processes=ALONE,
):
    images, net = load_data_and_model(data, model)
    files = {"target": target, "source": source, "permutation": permutation, "bends": bends, "history": history}
    jobs = [files | {"seed": seed, "scratch": scratch}, *others]
    paths = [
        open_path(net, images.train, job["target"], job["source"], curve=curve, permutation=job.get("permutation"))
        for job in jobs
    ]
    for path in paths:
        path.endpoints.demand_interpolable()
    options = {
        "transform": augmentation.transform_of(augment, images.train),
        "attack": plugin_or_none("attacks", attack),
        "objective": objective_of(objective),
        "processes": processes,
    }
    trainings = [
        Training(
            net,
            path.line.bends[:, : path.endpoints.layout.trained_size],
            path.line.sample,
            path.endpoints.layout,
            path.endpoints.stored[0],
            images.train,
            Regime.of(training),
            **options,
            basis=path.line.basis,
            seed=job["seed"],
            keeper=Checkpoint(job["scratch"]),
        )
        for job, path in zip(jobs, paths, strict=True)
    ]
    for i, progress in train_together(trainings):
        trained = paths[i].line.with_bends(progress.trainable).bends
        save_tensors(name_bends(paths[i].endpoints.layout, trained), jobs[i]["bends"])
        write_rows(progress.history, jobs[i]["history"])
    for job in jobs if processes.leads else ():
        Checkpoint(job["scratch"]).clear()


if __name__ == "__main__":
    run(main)
