"""The dataset and the model of a job, on the job's device."""

import os
from typing import Any

import torch

from neuralign.common.errors import UserError
from neuralign.config.references import is_hub
from neuralign.datasets import arrays, images
from neuralign.datasets.arrays import ArrayData
from neuralign.datasets.images import BILINEAR, Data
from neuralign.networks.foreign_networks import NetworkError, hub_networks, summary
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
            and `std` (of pixels in [0, 1], one number for each channel; None: those of the dataset). For a network of a
            hub None means what the hub says of it, if it says something that fits the channels.
        seed: of the initialisation. None: torch's global generator is used without seeding it.

    Raises as `build_model` does.
    """
    prepared = _preparation(settings)
    side = settings["input_size"]
    if side is None and prepared is not None and not arrays.holds_arrays(path):
        side = prepared.side
    data = load_data(path, side, (prepared and prepared.interpolation) or BILINEAR)
    return data, build_model(path, data, settings, seed)


def _preparation(settings: dict[str, Any]) -> Any:
    """How images are prepared for a network of a hub (`networks.hubs.networks.Preparation`); None for others."""
    use = settings["network"]["use"]
    return hub_networks().preparation(use) if is_hub(use) else None


def normalisation_warnings(model: Model, settings: dict[str, Any], data: AnyData, checkpoint: str) -> list[str]:
    """What may be wrong with the normalisation of a network whose weights are from somebody else's checkpoint.

    `settings`: as in `load_data_and_model`; `checkpoint`: a file, or a name of a hub.
    """
    if not (settings["normalise"] and isinstance(data, Data)):
        return []
    try:
        known = hub_networks().preparation(checkpoint) if is_hub(checkpoint) else None
    except UserError:  # its repository cannot be asked, so the user has to say it
        known = None
    used = [(t.flatten().tolist() if t is not None else []) for t in (model.mean, model.std)]
    if known is not None and known.mean is not None:
        needed = [list(known.mean), list(known.std)]
        if all(
            len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-3
            for a, b in zip(used, needed, strict=True)
        ):
            return []
        text = "mean {} and std {}".format
        return [f"{checkpoint}: was trained with {text(*needed)}, and the network gets {text(*map(_rounded, used))}"]
    if settings["mean"] is not None or _fitting(_preparation(settings), data) is not None:
        return []
    return [
        f"{checkpoint}: the normalisation that it was trained with is not known, so pixels are normalised by mean "
        f"{_rounded(used[0])} and std {_rounded(used[1])} of the training images; give those of the network: --mean "
        "and --std, or `mean` and `std` of its config entry"
    ]


def _rounded(numbers: list[float]) -> list[float]:
    return [round(number, 4) for number in numbers]


def _fitting(prepared: Any, data: AnyData) -> Any:
    """The preparation if it has one number for each channel of the data; else None."""
    return prepared if prepared is not None and prepared.mean and len(prepared.mean) == data.channels else None


def load_data(path: str, size: int | None, interpolation: str = BILINEAR) -> AnyData:
    """The prepared dataset at `path`, on this job's device, its images resized to `size` x `size` pixels.

    None keeps their size. Raises UserError if a dataset that holds no images is to be resized.
    """
    if not arrays.holds_arrays(path):
        return images.load(path, device(), size, interpolation)
    if size is not None:
        raise UserError(f"{path}: holds arrays, not images, and `input_size` {size} is for images; remove it")
    return arrays.load(path, device())


def build_model(path: str, data: AnyData, settings: dict[str, Any], seed: int | None = None) -> Model:
    """A freshly initialised model for `data`, on this job's device; other arguments as in `load_data_and_model`.

    Only images are normalised. Raises NetworkError if the network does not return one number for each class or output,
    and UserError if `mean` and `std` do not have one number for each channel.
    """
    is_normalised = settings["normalise"] and isinstance(data, Data)
    otherwise = _fitting(_preparation(settings), data) or data
    mean, std = (settings[k] or getattr(otherwise, k) for k in ("mean", "std")) if is_normalised else (None, None)
    if seed is not None:
        torch.manual_seed(seed)
    if mean is not None and len(mean) != data.channels:
        raise UserError(f"{path}: images of {data.channels} channels, but `mean` and `std` have {len(mean)} numbers")
    model = build(settings["network"], classes=len(data.classes), channels=data.channels, mean=mean, std=std)
    if not isinstance(data, Data):
        model = Model(model.network, None, None)
    model = model.to(device())
    try:
        check_outputs(model, next(data.train.batches(1))[0], len(data.classes))
    except NetworkError as error:
        raise NetworkError(f"{path}: {settings['network']}: {error}") from error
    return model
