"""Loss and accuracy on a plane of weight space, as tidy rows, and where its models and the curve lie in it.

The plane of a curve goes through both ends and the middle; without a curve it is that of the initialisation, through
both ends as they were trained and the second as it was aligned.
"""

from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin
from neuralign.curves.curve import straight
from neuralign.evaluation import on_plane
from neuralign.training import augmentation, setting
from neuralign.training.batch_norm import Estimate
from neuralign.workflow.running.run import run


def main(
    data,
    target,
    source,
    grid,
    marks,
    *,
    model,
    augment,
    window,
    protocol,
    curve=None,
    permutation=None,
    bends=None,
):
    images, net = setting.prepare(data, model)
    start, end = setting.read_ends(target, source, permutation, net, images)
    path, moved = None, "theta2" if permutation is None else "P theta2"
    if curve:
        ends = setting.divided(net, images, start, end)
        path = straight(plugin("curves", curve), *ends.vectors)
        path = path.bent(setting.read_bends(bends, ends.layout, path.bends))
        models = dict(zip(("theta1", moved, "midpoint"), (*ends.vectors, path(0.5)), strict=True))
    else:
        ends = setting.divided(net, images, start, setting.read_state(source, net), end)
        models = dict(zip(("theta1", "theta2", moved), ends.vectors, strict=True))
    plane = on_plane.through(*models.values())
    own = {k: protocol[k] for k in ("batch_size", "seed", "images", "full_passes")}
    estimate = Estimate.on(images.train, augmentation.pipeline(augment), **own)
    places, size = on_plane.covering(plane, window["t1"], window["t2"], protocol["points"]), protocol["batch_size"]
    write_rows(on_plane.landscape(net, plane, ends, places, estimate, images.test, batch_size=size), grid)
    write_rows(on_plane.marks(plane, models, path), marks)


if __name__ == "__main__":
    run(main)
