"""Evaluation of a curve and of a plane, against ordinary code with a pass over all training images at every point.

Passes over two thousand images are timed; the table has the seconds that follow for 50,000 training and 10,000 test
images.
"""

from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks import plain
from benchmarks.problems import MEAN, NETWORKS, SMALL, STD, Problem, augment, pictures
from benchmarks.timing import Action, Row, interleaved, row
from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure as measure_point
from neuralign.training.batch_norm import POINTS_AT_ONCE, Estimate, refresh_each

TRAIN, TEST = 50_000, 10_000
POINTS, SIDE = 65, 17  # points of a curve; points of a plane in each direction
IMAGES = 2048  # for the statistics at every point, as in config.yaml
SIZE, PUBLISHED = 256, 512  # batch sizes: the faster one, and that of the published code
NETWORK = "TinyTen"


def measure(*, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Rows for curve and plane against ordinary passes and against passes of this library."""
    problem = Problem.of(NETWORK, (SMALL if quick else NETWORKS)[NETWORK], device)
    count = SIZE if quick else 8 * SIZE  # eight networks, each on an eighth of the images
    seconds = interleaved(*_passes(problem, pictures(count, device)), repeats=2 if quick else 5, device=device)
    rounds = [[total / count for total in once] for once in zip(*seconds, strict=True)]
    rows = []
    for what, points, nodes, stored in (
        (f"curve of {POINTS}", POINTS, 9, 2),
        (f"plane of {SIDE}x{SIDE}", SIDE**2, 25, 0),
    ):
        note = f"from passes of {count} images; {IMAGES} at every point, {nodes} full passes"
        ours = [
            (points + nodes) * IMAGES * kept_images + nodes * TRAIN * full_pass + (points + stored) * TEST * test
            for *_, full_pass, kept_images, test in rounds
        ]
        ordinary = [points * (TRAIN * train + TEST * test) for train, test, *_ in rounds]
        full = [points * (TRAIN * train + TEST * test) for _, _, train, test, *_ in rounds]
        name = f"{NETWORK}: {what}"
        rows += [
            row(f"{name} / full passes, ordinary", baseline=ordinary, ours=ours, target=">= 5", note=note),
            row(f"{name} / full passes, this library", baseline=full, ours=ours, target=">= 1", note=note),
            row(f"{name}, full passes / ordinary", baseline=ordinary, ours=full, target=">= 1", note=note),
        ]
    return rows


def _passes(problem: Problem, images: Images) -> list[Action]:
    """Seven passes over all images.

    Statistics and test by ordinary code; by this library with the published batch size; statistics at the nodes
    (several networks at once), statistics on augmented images kept from before, and test, by this library.
    """
    network = deepcopy(problem.model.network)
    train = plain.loader(images, MEAN, STD, batch_size=PUBLISHED, workers=0)
    test_images = plain.Pictures(images, MEAN, STD)
    test_images.transform = transforms.Compose(test_images.transform.transforms[-2:])  # without augmentation
    test = DataLoader(test_images, PUBLISHED)
    point, place = problem.layout.views(problem.curve.ends[0]), problem.curve.ends.device
    state = {**point, **problem.buffers}
    by_size = {size: Estimate.on(images, augment(), batch_size=size, seed=0) for size in (SIZE, PUBLISHED)}
    kept = list(by_size[SIZE].sample())

    def estimate(batches, points: int = 1):
        return refresh_each(problem.model, [point] * points, problem.buffers, batches)

    def evaluate(size: int):
        return measure_point(problem.model, state, images, batch_size=size, attack=None, generator=torch.Generator())

    few = Images(images.pixels[: len(images) // POINTS_AT_ONCE], images.labels[: len(images) // POINTS_AT_ONCE])
    nodes = Estimate.on(few, augment(), batch_size=SIZE, seed=0)
    return [
        lambda: update_bn(train, network, device=place),
        lambda: _test(network, test, place),
        lambda: estimate(by_size[PUBLISHED].sample()),
        lambda: evaluate(PUBLISHED),
        lambda: estimate(nodes.sample(), POINTS_AT_ONCE),
        lambda: estimate(kept),
        lambda: evaluate(SIZE),
    ]


@torch.no_grad()
def _test(network: nn.Module, loader: DataLoader, device: torch.device) -> tuple[float, float]:
    """Summed loss and number of correct predictions, by ordinary code."""
    network.eval()
    loss, correct = 0.0, 0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        outputs = network(x)
        loss += F.cross_entropy(outputs, y, reduction="sum").item()
        correct += (outputs.argmax(1) == y).sum().item()
    return loss, correct
