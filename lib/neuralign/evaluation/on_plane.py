"""Loss and accuracy on a plane of weight space through three models (the paper's figures 2 and 3; Garipov et al. 2018).

(x, y) are distances in weight space: the first model is the origin, the second lies on the x-axis, the third above it.
(t1, t2) are the same in units of the plane: t1 = 1 is as far as the second model, t2 = 1 as high as the third, so that
the grids of several pairs agree.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from neuralign.curves.endpoints import Endpoints
from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure
from neuralign.networks.model import Model
from neuralign.training.batch_norm import Estimate, Place, statistics

log = logging.getLogger(__name__)

FLATTEST = 1e-5  # height of the third point, of its distance: below it there is only what float32 leaves of a line


@dataclass(frozen=True)
class Plane:
    points: Tensor  # (3, d); the first is the origin
    axes: Tensor  # (2, d) float64, orthonormal
    corners: Tensor  # (3, 2) float64: (x, y) of the points

    @property
    def unit(self) -> tuple[float, float]:
        """(x, y) of t1 = t2 = 1."""
        return self.corners[1, 0].item(), self.corners[2, 1].item()

    def __call__(self, t1: float, t2: float) -> Tensor:
        """The parameters (d,) there; at a corner those of the model itself, to the bit."""
        weights = torch.tensor(self.shares(t1, t2), dtype=torch.float64)
        return weights.to(self.points) @ self.points

    def shares(self, t1: float, t2: float) -> tuple[float, float, float]:
        """The weights of the three models there; they sum to one."""
        second = t1 - t2 * (self.corners[2, 0].item() / self.unit[0])
        return 1 - second - t2, second, t2

    def place(self, point: Tensor) -> dict[str, float]:
        """Where the point of the plane closest to `point` (d,) lies: x, y, t1, t2; and how far it is, `off_plane`."""
        arm = point.double() - self.points[0].double()
        x, y = (self.axes @ arm).tolist()
        off = (arm - x * self.axes[0] - y * self.axes[1]).norm().item()
        return {"x": x, "y": y, "t1": x / self.unit[0], "t2": y / self.unit[1], "off_plane": off}


def through(first: Tensor, second: Tensor, third: Tensor) -> Plane:
    """The plane through three points (d,), by Gram-Schmidt in float64; refused where they lie on a line."""
    points = torch.stack([first, second, third])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if torch.equal(points[i], points[j]):
            raise ValueError(f"no plane: its points {i + 1} and {j + 1} are the same model")
    base, arm = points[1:].double() - points[0].double()
    length = base.norm()
    across = base / length
    along = arm @ across
    up = arm - along * across
    up -= (up @ across) * across  # once more, for what rounding left
    height = up.norm()
    if height < FLATTEST * arm.norm():
        raise ValueError("no plane: its three models lie on a line (is the curve trained?)")
    zero = torch.zeros_like(length)
    corners = torch.stack([zero, zero, length, zero, along, height]).view(3, 2)
    return Plane(points, torch.stack([across, up / height]), corners)


def grid(t1: Sequence[float], t2: Sequence[float], points: int) -> list[tuple[float, float]]:
    """`points` x `points` places (t1, t2), evenly from the first to the last number of either range, row by row."""
    columns, rows = (torch.linspace(a, b, points, dtype=torch.float64).tolist() for a, b in (t1, t2))
    return [(x, y) for y in rows for x in columns]


def covering(plane: Plane, t1: Sequence[float], t2: Sequence[float], points: int) -> list[tuple[float, float]]:
    """The `grid` of a window of a plane, with as many more columns as it takes to hold all three models.

    The columns keep their distance, so that the grids of several pairs agree where they overlap. A window that leaves
    out one of the first two models, or the height of the third, is an excerpt and stays as it is.
    """
    places, (left, right) = grid(t1, t2, points), t1
    if not (left <= 0 and 1 <= right and t2[0] <= 0 and 1 <= t2[1]):
        return places
    third, step = plane.corners[2, 0].item() / plane.unit[0], (right - left) / (points - 1)
    before, after = (max(0, ceil(beyond / step)) for beyond in (left - third, third - right))
    more = [left + i * step for i in (*range(-before, 0), *range(points, points + after))]
    if more:
        log.info("the third model lies at t1 = %.2f: %d columns more than %d", third, len(more), points)
    rows = dict.fromkeys(y for _, y in places)
    return sorted([*places, *((x, y) for y in rows for x in more)], key=lambda place: (place[1], place[0]))


def landscape(
    model: Model,
    plane: Plane,
    ends: Endpoints,
    places: Sequence[tuple[float, float]],
    estimate: Estimate,
    images: Images,
    *,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """One tidy row per place (t1, t2): x, y, t1, t2, the metrics, images.

    Batch-norm statistics are re-estimated at every place. `ends` are the three models that the plane goes through, or
    the first two of them, where the third is the middle of a curve between these.
    """
    ends.demand_between()
    width, height = plane.unit

    def point(place: Place) -> dict[str, Tensor]:
        first, second, third = plane.shares(*place)
        middle = len(ends.vectors) == 2
        shares = (first + third / 2, second + third / 2) if middle else (first, second, third)
        return ends.point(plane(*place), shares)

    found = statistics(model, point, places, ends.statistics, estimate)
    for i, ((t1, t2), own) in enumerate(zip(places, found, strict=True)):
        state = {**point((t1, t2)), **own}
        values = measure(model, state, images, batch_size=batch_size, attack=None, noise=torch.Generator())
        yield {"x": t1 * width, "y": t2 * height, "t1": t1, "t2": t2} | values | {"images": len(images)}
        if i % max(1, len(places) // 10) == 0:
            log.info("%d of %d  %s", i + 1, len(places), "  ".join(f"{m} {v:.3f}" for m, v in values.items()))


def marks(
    plane: Plane, models: Mapping[str, Tensor], curve: Callable[[float], Tensor] | None = None, points: int = 65
) -> Iterator[dict[str, Any]]:
    """One tidy row per model, then per point of the curve ("curve"): name, t on the curve, x, y, t1, t2, off_plane.

    A curve with one bend lies in the plane through its ends and its middle; any other is projected, `off_plane` away.
    """
    for name, model in models.items():
        yield {"name": name, "t": None} | plane.place(model)
    if curve:
        for t in torch.linspace(0, 1, points, dtype=torch.float64).tolist():
            yield {"name": "curve", "t": t} | plane.place(curve(t))
