"""The metrics of an objective on a plane of weight space through three models.

As in the paper's figures 2 and 3, and in Garipov et al. 2018.

A point of the plane has two kinds of coordinates. (x, y) are distances in weight space: the first model is the origin,
the second lies on the x-axis, and the third has a positive y. (t1, t2) are x and y divided by the x of the second model
and the y of the third, so that planes of several pairs can be compared.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from neuralign.curves.endpoints import Endpoints
from neuralign.datasets.batches import Examples
from neuralign.evaluation.along_curve import measure
from neuralign.networks.model import Model
from neuralign.training.batch_norm import Estimate, Place, statistics
from neuralign.training.objective import Objective
from neuralign.training.objectives.cross_entropy import CLASSIFICATION

log = logging.getLogger(__name__)

# Three points count as collinear if the third is closer to the line through the others than this share of its distance
# from the origin: rounding in float32 moves points of a line as far.
FLATTEST = 1e-5


@dataclass(frozen=True)
class Plane:
    """The plane through three points of weight space."""

    points: Tensor  # (3, d); the first is the origin
    axes: Tensor  # (2, d) float64, orthonormal
    corners: Tensor  # (3, 2) float64: (x, y) of the three points

    @property
    def unit(self) -> tuple[float, float]:
        """The x at which t1 is 1, and the y at which t2 is 1."""
        return self.corners[1, 0].item(), self.corners[2, 1].item()

    def __call__(self, t1: float, t2: float) -> Tensor:
        """The parameters (d,) at (t1, t2). At a corner they are exactly those of the model."""
        weights = torch.tensor(self.shares(t1, t2), dtype=torch.float64)
        return weights.to(self.points) @ self.points

    def shares(self, t1: float, t2: float) -> tuple[float, float, float]:
        """The weights of the three models at (t1, t2), which sum to one."""
        second = t1 - t2 * (self.corners[2, 0].item() / self.unit[0])
        return 1 - second - t2, second, t2

    def place(self, point: Tensor) -> dict[str, float]:
        """x, y, t1, t2 of the projection of `point` (d,) onto the plane, and the distance `off_plane` from it."""
        offset = point.double() - self.points[0].double()  # from the origin of the plane
        x, y = (self.axes @ offset).tolist()
        off_plane = (offset - x * self.axes[0] - y * self.axes[1]).norm().item()
        return {"x": x, "y": y, "t1": x / self.unit[0], "t2": y / self.unit[1], "off_plane": off_plane}


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> Plane:
    """The plane through three points (d,), by Gram-Schmidt in float64. Raises ValueError if they lie on a line."""
    points = torch.stack([first, second, third])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if torch.equal(points[i], points[j]):
            raise ValueError(f"no plane: its points {i + 1} and {j + 1} are the same model")
    to_second, to_third = points[1:].double() - points[0].double()
    length = to_second.norm()
    x_axis = to_second / length
    third_x = to_third @ x_axis
    perpendicular = to_third - third_x * x_axis
    perpendicular -= (perpendicular @ x_axis) * x_axis  # once more, against rounding
    third_y = perpendicular.norm()
    if third_y < FLATTEST * to_third.norm():
        raise ValueError("no plane: its three models lie on a line, as the middle of an untrained curve does")
    zero = torch.zeros_like(length)
    corners = torch.stack([zero, zero, length, zero, third_x, third_y]).view(3, 2)
    return Plane(points, torch.stack([x_axis, perpendicular / third_y]), corners)


def grid(t1: Sequence[float], t2: Sequence[float], points: int) -> list[tuple[float, float]]:
    """An evenly spaced grid of `points` x `points` places (t1, t2) over the ranges `t1` and `t2`, row by row."""
    columns, rows = (torch.linspace(a, b, points, dtype=torch.float64).tolist() for a, b in (t1, t2))
    return [(x, y) for y in rows for x in columns]


def covering(plane: Plane, t1: Sequence[float], t2: Sequence[float], points: int) -> list[tuple[float, float]]:
    """The `grid` over the window `t1` x `t2`, extended by columns until it contains the third model.

    The added columns are as far apart as the others, so that the grids of several pairs have common nodes. A window
    that leaves out one of the first two models, or the height of the third, is not extended.
    """
    places, (left, right) = grid(t1, t2, points), t1
    if not (left <= 0 and 1 <= right and t2[0] <= 0 and 1 <= t2[1]):
        return places
    third, step = plane.corners[2, 0].item() / plane.unit[0], (right - left) / (points - 1)
    before, after = (max(0, ceil(beyond / step)) for beyond in (left - third, third - right))
    columns = [left + i * step for i in (*range(-before, 0), *range(points, points + after))]
    if columns:
        log.info("the third model lies at t1 = %.2f: %d columns are added to %d", third, len(columns), points)
    rows = dict.fromkeys(y for _, y in places)
    return sorted([*places, *((x, y) for y in rows for x in columns)], key=lambda place: (place[1], place[0]))


def landscape(
    model: Model,
    plane: Plane,
    ends: Endpoints,
    places: Sequence[tuple[float, float]],
    estimate: Estimate,
    images: Examples,
    *,
    batch_size: int,
    objective: Objective = CLASSIFICATION,
) -> Iterator[dict[str, Any]]:
    """One row per place: x, y, t1, t2, the objective's metrics, images (their number).

    Args:
        plane: through three models.
        ends: these three models, or the first two if the third is the middle of a curve between them.
        places: (t1, t2) of the points that are measured.
        estimate: the training images on which batch-norm statistics are re-estimated at every place.
        images: the test images.
        batch_size: test images per batch.
        objective: whose metrics are measured.
    """
    ends.demand_interpolable()
    width, height = plane.unit

    def point(place: Place) -> dict[str, Tensor]:
        first, second, third = plane.shares(*place)
        third_is_middle = len(ends.vectors) == 2
        shares = (first + third / 2, second + third / 2) if third_is_middle else (first, second, third)
        return ends.state_at(plane(*place), shares)

    estimates = statistics(model, point, places, ends.statistics, estimate)
    for i, ((t1, t2), buffers) in enumerate(zip(places, estimates, strict=True)):
        state = {**point((t1, t2)), **buffers}
        draws = torch.Generator()  # no attack draws from it
        values = measure(model, state, images, batch_size=batch_size, attack=None, generator=draws, objective=objective)
        yield {"x": t1 * width, "y": t2 * height, "t1": t1, "t2": t2} | values | {"images": len(images)}
        if i % max(1, len(places) // 10) == 0:
            log.info("%d of %d  %s", i + 1, len(places), "  ".join(f"{m} {v:.3f}" for m, v in values.items()))


def marks(
    plane: Plane, models: Mapping[str, Tensor], curve: Callable[[float], Tensor] | None = None, points: int = 65
) -> Iterator[dict[str, Any]]:
    """The positions of models and of a curve in the plane: one row per model, then one per point of the curve.

    Columns: name ("curve" for its `points` points), t (on the curve; None for models), x, y, t1, t2, off_plane. A curve
    with one bend lies in the plane through its ends and its middle. Other points are projected onto the plane;
    `off_plane` is their distance from it.
    """
    for name, model in models.items():
        yield {"name": name, "t": None} | plane.place(model)
    if curve:
        for t in torch.linspace(0, 1, points, dtype=torch.float64).tolist():
            yield {"name": "curve", "t": t} | plane.place(curve(t))
