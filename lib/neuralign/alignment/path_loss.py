"""The training loss of networks between the target and the source, by which methods compare permutations."""

from collections.abc import Callable, Iterable

import torch

from neuralign.alignment.problem import Problem
from neuralign.common.seeding import preserved_generators, reseed, stream
from neuralign.datasets.batches import Batch, count_examples
from neuralign.networks.model import State
from neuralign.networks.states import mean_state
from neuralign.symmetry.permutations import Permutation, permute

BATCH_SIZE = 256


def mean_loss(problem: Problem, batches: Iterable[Batch], state_of: Callable[[int], State], seed: int) -> float:
    """The mean loss over all examples, in training mode; `state_of`: number of a batch -> the network it is for.

    Batch-norm statistics are those of the batch. The states' buffers are changed. If the problem has an attack, each
    network gets images attacked against itself, as in training. Dropout and the attack depend on the seed and the
    number of the batch only, so that permutations are compared with the same noise.
    """
    model, objective, device = problem.model, problem.objective, problem.examples.device
    model.network.train()
    total, count = torch.zeros((), device=device), 0
    for i, (inputs, targets) in enumerate(batches):
        draws = stream(seed, "scoring attack", i, device=device)
        with preserved_generators(device), torch.no_grad(), model.holding(state_of(i)) as network:
            reseed(device, seed, "scoring dropout", i)
            if problem.attack:
                with torch.enable_grad():
                    inputs = problem.attack(network, inputs, targets, draws)
            total += objective.loss(network(inputs), targets) * count_examples(inputs)
        count += count_examples(inputs)
    return (total / count).item()


def midpoint_loss(problem: Problem, permutation: Permutation, images: int, seed: int = 0) -> float:
    """The training loss at the midpoint of the line from the target to the permuted source.

    `images`: number of examples, drawn at random by the seed, varied as the problem says; attacked as in `mean_loss`.
    """
    examples = problem.examples.sample(images, stream(seed, "midpoint"))
    end = permute(problem.trace.spec, permutation, problem.source)
    batches = examples.varied(
        examples.even_size(BATCH_SIZE), problem.transform, lambda i: stream(seed, "midpoint augmentation", i)
    )
    middle = mean_state([problem.target, end])
    return mean_loss(problem, batches, lambda _: {n: t.clone() for n, t in middle.items()}, seed)
