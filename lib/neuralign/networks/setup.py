"""The dataset and the model of a job, on the job's device."""

from typing import Any

import torch

from neuralign.datasets.images import Data, as_float, load
from neuralign.networks.foreign_networks import NetworkError
from neuralign.networks.model import Model, build, check_outputs


def device() -> torch.device:
    """The first GPU that is visible to this process, else the CPU.

    On a GPU this also restricts cuDNN to deterministic algorithms; with others a resumed training would differ.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")


def load_data_and_model(path: str, settings: dict[str, Any], seed: int | None = None) -> tuple[Data, Model]:
    """The prepared dataset at `path` and a freshly initialised model for it, both on this job's device.

    Args:
        path: the file of a dataset that the rule `fetch_data` wrote.
        settings: `network` (a config entry), `input_size` (side in pixels; None: as stored), `normalise` (bool), `mean`
            and `std` (of pixels in [0, 1], one number for each channel; None: those of the dataset).
        seed: of the initialisation. None: torch's global generator is used without seeding it.

    Raises as `build_model` does.
    """
    data = load(path, device(), settings["input_size"])
    return data, build_model(path, data, settings, seed)


def build_model(path: str, data: Data, settings: dict[str, Any], seed: int | None = None) -> Model:
    """A freshly initialised model for `data`, on this job's device; other arguments as in `load_data_and_model`.

    Raises NetworkError if the network does not return one logit for each class, and ValueError if `mean` and `std` do
    not have one number for each channel.
    """
    mean, std = (settings[k] or getattr(data, k) for k in ("mean", "std")) if settings["normalise"] else (None, None)
    if seed is not None:
        torch.manual_seed(seed)
    if mean is not None and len(mean) != data.channels:
        raise ValueError(f"{path}: images of {data.channels} channels, but `mean` and `std` have {len(mean)} numbers")
    model = build(settings["network"], classes=len(data.classes), channels=data.channels, mean=mean, std=std)
    model = model.to(device())
    try:
        check_outputs(model, as_float(data.train.pixels[:1]), len(data.classes))
    except NetworkError as error:
        raise NetworkError(f"{path}: {settings['network']}: {error}") from error
    return model
