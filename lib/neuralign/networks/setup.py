"""The dataset and the model of a job, on the job's device."""

import os
from typing import Any

import torch

from neuralign.common.errors import UserError
from neuralign.datasets import arrays, images
from neuralign.datasets.arrays import ArrayData
from neuralign.datasets.images import Data
from neuralign.networks.foreign_networks import NetworkError, summary
from neuralign.networks.model import Model, build, check_outputs

AnyData = Data | ArrayData


def device() -> torch.device:
    """The first GPU that is visible to this process, else the CPU.

    On a GPU this also restricts cuDNN to deterministic algorithms, for with others a resumed training would differ, and
    lets convolutions in float32 run in TF32, but not products. Raises UserError if CUDA_VISIBLE_DEVICES names a GPU, as
    it does in a job that was assigned one, and torch cannot use it: the job would take days on the CPU and nobody would
    know why.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # PyTorch's defaults today
        return torch.device("cuda")
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first and not first.startswith("-"):  # CUDA ignores negative numbers
        raise UserError(
            f"CUDA_VISIBLE_DEVICES names the GPU {first}, which torch {torch.__version__} cannot use: {_reason()}; "
            "mend that, or compute on the CPU with `snakemake --resources gpu=0` or an empty CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cpu")


def _reason() -> str:
    """Why torch cannot use a GPU, in its own words, on one line."""
    try:
        torch.cuda.init()
    except Exception as error:  # of many kinds: no driver, an old one, a build without CUDA
        return summary(error)
    return "no device of this name was found"


def load_data_and_model(path: str, settings: dict[str, Any], seed: int | None = None) -> tuple[AnyData, Model]:
    """The prepared dataset at `path` and a freshly initialised model for it, both on this job's device.

    Args:
        path: the file of a dataset that the rule `fetch_data` wrote.
        settings: `network` (a config entry), `input_size` (side in pixels; None: as stored), `normalise` (bool), `mean`
            and `std` (of pixels in [0, 1], one number for each channel; None: those of the dataset).
        seed: of the initialisation. None: torch's global generator is used without seeding it.

    Raises as `build_model` does.
    """
    data = load_data(path, settings["input_size"])
    return data, build_model(path, data, settings, seed)


def load_data(path: str, size: int | None) -> AnyData:
    """The prepared dataset at `path`, on this job's device, its images resized to `size` x `size` pixels.

    None keeps their size. Raises UserError if a dataset that holds no images is to be resized.
    """
    if not arrays.holds_arrays(path):
        return images.load(path, device(), size)
    if size is not None:
        raise UserError(f"{path}: holds arrays, not images, and `input_size` {size} is for images; remove it")
    return arrays.load(path, device())


def build_model(path: str, data: AnyData, settings: dict[str, Any], seed: int | None = None) -> Model:
    """A freshly initialised model for `data`, on this job's device; other arguments as in `load_data_and_model`.

    Only images are normalised. Raises NetworkError if the network does not return one number for each class or output,
    and ValueError if `mean` and `std` do not have one number for each channel.
    """
    is_normalised = settings["normalise"] and isinstance(data, Data)
    mean, std = (settings[k] or getattr(data, k) for k in ("mean", "std")) if is_normalised else (None, None)
    if seed is not None:
        torch.manual_seed(seed)
    if mean is not None and len(mean) != data.channels:
        raise ValueError(f"{path}: images of {data.channels} channels, but `mean` and `std` have {len(mean)} numbers")
    model = build(settings["network"], classes=len(data.classes), channels=data.channels, mean=mean, std=std)
    if not isinstance(data, Data):
        model = Model(model.network, None, None)
    model = model.to(device())
    try:
        check_outputs(model, next(data.train.batches(1))[0], len(data.classes))
    except NetworkError as error:
        raise NetworkError(f"{path}: {settings['network']}: {error}") from error
    return model
