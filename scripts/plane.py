"""The objective's metrics on a plane of weight space, as a tidy table, and the coordinates of networks and curve in it.

With a `curve`, the plane goes through its ends and its midpoint. Without one, it goes through both networks as trained
and through the second one as aligned.
"""

from neuralign.common.tables import write_rows
from neuralign.curves.storage import endpoints_on_images, load_ends, open_path
from neuralign.evaluation import on_plane
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.training import augmentation
from neuralign.training.batch_norm import Estimate
from neuralign.training.loop import objective_of
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
    objective=None,
):
    images, net = load_data_and_model(data, model)
    drawn_curve, aligned = None, "theta2" if permutation is None else "P theta2"
    if curve:
        path = open_path(net, images.train, target, source, curve=curve, permutation=permutation, bends=bends)
        ends, drawn_curve = path.endpoints, path.curve
        models = dict(zip(("theta1", aligned, "midpoint"), (*ends.vectors, drawn_curve(0.5)), strict=True))
    else:
        start, end = load_ends(net, images.train, target, source, permutation)
        ends = endpoints_on_images(net, images.train, start, load_state(source, net), end)
        models = dict(zip(("theta1", "theta2", aligned), ends.vectors, strict=True))
    plane = on_plane.plane_through(*models.values())
    options = {k: protocol[k] for k in ("batch_size", "seed", "images", "full_passes")}
    estimate = Estimate.on(images.train, augmentation.transform_of(augment, images.train), **options)
    places, size = on_plane.covering(plane, window["t1"], window["t2"], protocol["points"]), protocol["batch_size"]
    measured = {"batch_size": size, "objective": objective_of(objective)}
    write_rows(on_plane.landscape(net, plane, ends, places, estimate, images.test, **measured), grid)
    write_rows(on_plane.marks(plane, models, drawn_curve), marks)


if __name__ == "__main__":
    run(main)
