"""The metrics of an objective on a grid of the plane through one, two or three networks and random directions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.batches import Examples
from neuralign.evaluation import on_plane
from neuralign.evaluation.directions import CORNERS, spanning_states
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import Model, State
from neuralign.training.batch_norm import Estimate
from neuralign.training.objective import Objective

BETWEEN, AROUND = (-0.5, 1.5), (-1.0, 1.0)  # windows: between two networks, and along a random direction
DIGITS = 12  # decimals of t1 and t2: a grid that should meet a network, at 0 or 1, meets it in spite of rounding
COORDINATES = ("x", "y", "t1", "t2")


@dataclass(frozen=True)
class Landscape:
    """Metrics on a grid of a plane of weight space.

    The first network is at (0, 0). The second point that spans the plane is at t1 = 1, and the third at t2 = 1.
    """

    t1: Tensor  # (columns,) float64
    t2: Tensor  # (rows,) float64
    unit: tuple[float, float]  # the lengths of t1 = 1 and t2 = 1: L2 distances in weight space
    values: dict[str, Tensor]  # {metric: (rows, columns) float64}
    models: tuple[dict[str, Any], ...]  # of each network: name, x, y, t1, t2, the metrics, images

    def rows(self) -> Iterator[dict[str, float]]:
        """One row per point: x, y, t1, t2 and the metrics; x and y are distances from the first network."""
        for i, t2 in enumerate(self.t2.tolist()):
            for j, t1 in enumerate(self.t1.tolist()):
                values = {metric: grid[i, j].item() for metric, grid in self.values.items()}
                yield {"x": t1 * self.unit[0], "y": t2 * self.unit[1], "t1": t1, "t2": t2} | values


def landscape_of(
    model: Model,
    states: Mapping[str, State],
    estimate: Estimate | None,
    examples: Examples,
    *,
    points: int,
    window: tuple[Sequence[float] | None, Sequence[float] | None],
    seed: int,
    batch_size: int,
    objective: Objective,
) -> Landscape:
    """The metrics on the plane through the states, completed by random directions (`spanning_states`).

    Args:
        model: the network.
        states: one to three, by name.
        estimate: the training examples on which batch-norm statistics are re-estimated at every point. None: they are
            those of the nearest state.
        examples: on which metrics are measured.
        points: of the grid in each direction.
        window: the ranges of t1 and t2; None: the default. If both are, columns are added until the grid contains a
            third state.
        seed: of the directions.
        batch_size: largest number of examples at once.
        objective: whose metrics are measured.

    Raises UserError if the states do not span a plane, or if a tensor cannot be interpolated between them.
    """
    inputs, _ = next(examples.batches(IMAGES))
    ends = endpoints_of(model, spanning_states(model, list(states.values()), inputs, seed), inputs)
    try:
        plane = on_plane.plane_through(*ends.vectors)
    except ValueError as error:  # two of the states are equal, or three lie on a line
        raise UserError(f"{', '.join(states)}: {error}") from error
    defaults = (BETWEEN if len(states) > 1 else AROUND, BETWEEN if len(states) == CORNERS else AROUND)
    t1, t2 = (chosen or default for chosen, default in zip(window, defaults, strict=True))
    is_extended = len(states) == CORNERS and window == (None, None)
    nodes = on_plane.covering(plane, t1, t2, points) if is_extended else on_plane.grid(t1, t2, points)
    places = [(round(x, DIGITS), round(y, DIGITS)) for x, y in nodes]
    if len({*places}) < len(nodes):
        raise UserError(f"t1 {list(t1)}, t2 {list(t2)}: too narrow; neighbours of the grid are nearer than 1e-{DIGITS}")
    at_states = [(0.0, 0.0), (1.0, 0.0), (plane.corners[2, 0].item() / plane.unit[0], 1.0)][: len(states)]
    if estimate is None:  # no statistics are left to estimate, so no example of these is read
        ends, estimate = replace(ends, estimated=frozenset()), Estimate(lambda: [], lambda: [])
    rows = list(
        on_plane.landscape(
            model, plane, ends, [*at_states, *places], estimate, examples, batch_size=batch_size, objective=objective
        )
    )
    of_states, of_places = rows[: len(states)], rows[len(states) :]
    columns, heights = (torch.tensor(sorted({p[i] for p in places}), dtype=torch.float64) for i in (0, 1))
    values = {
        name: torch.tensor([row[name] for row in of_places], dtype=torch.float64).view(len(heights), len(columns))
        for name in rows[0]
        if name not in (*COORDINATES, "images")
    }
    models = tuple({"name": name} | row for name, row in zip(states, of_states, strict=True))
    return Landscape(columns, heights, plane.unit, values, models)
