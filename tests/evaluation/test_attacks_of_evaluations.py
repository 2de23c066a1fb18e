"""The attacks of an evaluation: in another precision they search with it, and what they find is measured in float32."""

import pytest
import torch
from tiny import BUDGET, attack_entry, generator, randomised
from torch import Tensor

from neuralign.config.signatures import plugins
from neuralign.datasets.images import Images
from neuralign.evaluation.along_curve import measure
from neuralign.evaluation.attacks import attacks_of
from neuralign.networks.model import Model
from neuralign.training.progress import in_precision

ENTRIES = {use: attack_entry(use) for use in plugins("attacks")}


@pytest.fixture
def single(tinyten: Model) -> tuple[Model, dict[str, Tensor]]:
    """A network in float32, as trained ones are, and a state of it."""
    state = randomised(tinyten.network.float())
    return Model(tinyten.network, None, None), state


def test_clean_images_come_first() -> None:
    assert list(attacks_of(ENTRIES)) == ["clean", *plugins("attacks")]
    assert attacks_of(ENTRIES)["clean"] is None


@pytest.mark.parametrize("use", plugins("attacks"))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_search_has_the_precision_and_the_measurement_has_not(
    use: str, precision: str, single: tuple[Model, dict[str, Tensor]], images: Images
) -> None:
    model, state = single
    seen = []
    handle = model.network.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    attack = attacks_of({use: ENTRIES[use]}, precision)[use]
    values = measure(model, state, images, batch_size=12, attack=attack, generator=generator())
    handle.remove()
    assert set(seen[:-1]) == {getattr(torch, precision)} and seen[-1] == torch.float32
    assert 0 <= values["accuracy"] <= 100 and values["loss"] > 0


@pytest.mark.parametrize("use", plugins("attacks"))
def test_what_is_found_in_bfloat16_stays_within_the_bounds(
    use: str, single: tuple[Model, dict[str, Tensor]], images: Images
) -> None:
    model, state = single
    model.network.eval()
    pixels, labels = next(images.batches(12))
    attack = attacks_of({use: ENTRIES[use]}, "bfloat16")[use]
    assert attack is not None
    with model.holding(state) as predict:
        attacked = attack(predict, pixels, labels, generator())
        assert predict(attacked).dtype == torch.float32
    assert attacked.dtype == torch.float32 and 0 <= attacked.min() and attacked.max() <= 1
    assert (attacked - pixels).abs().max() <= BUDGET["eps"] + 1e-6


def test_float32_is_the_attack_itself() -> None:
    def attack(*_: object) -> Tensor:
        return torch.zeros(())

    assert in_precision(attack, "float32") is attack
