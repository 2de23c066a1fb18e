"""Named tensors in safetensors files, with facts about them (any JSON object) in the file's metadata."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuralign.common.errors import UserError
from neuralign.common.files import atomic

NAMES_OF_DTYPES = {  # in the headers of safetensors files
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
UNSAVABLE = (torch.complex32, torch.complex128)  # dtypes that the format does not have


def load_tensors(path: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The named tensors of a safetensors file, on `device`. No code in the file is executed, whatever the file is."""
    with _refusing_other_files(path):
        return load_file(path, device=str(device))


class TensorFile(Mapping[str, Tensor]):
    """The named tensors of a safetensors file, on the CPU; each is mapped from the file whenever it is read.

    So the tensors take memory only while they are used, and the system may take back what it read of them. They must
    not be written to. The file must not change.
    """

    def __init__(self, path: str | Path):
        self.path = path
        with _refusing_other_files(path), safe_open(path, "pt") as file:
            self.names = dict.fromkeys(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with _refusing_other_files(self.path), safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class ComputedState(Mapping[str, Tensor]):
    """A state whose tensors are computed whenever they are read, so that it takes no memory itself."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Tensor]):
        self.names, self.compute = dict.fromkeys(names), compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load_facts(path: str | Path) -> dict[str, Any]:
    """The facts that `save_tensors` wrote with the tensors; {} for a file that it did not write."""
    with _refusing_other_files(path), safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("facts", "{}")
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and facts about them to a safetensors file, atomically.

    The same content gives the same bytes: all facts are in one entry of the metadata, because safetensors writes
    several entries in random order.
    """
    demand_savable(path, tensors)
    metadata = {"facts": json.dumps(dict(facts), sort_keys=True)} if facts else None
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(contiguous, temporary, metadata)


def save_when_computed(tensors: Mapping[str, Tensor], path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """As `save_tensors`, but each tensor is read from the mapping once, written, and not kept.

    So states that are computed or mapped when they are read need memory for one tensor only.
    """
    entries: dict[str, Any] = {"__metadata__": {"facts": json.dumps(dict(facts), sort_keys=True)}} if facts else {}
    longest = len(json.dumps(entries | {name: ["0" * 300] for name in tensors}))  # of the header, which comes last
    length = longest + -longest % 8
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.seek(8 + length)
        end = 0
        for name in tensors:
            tensor = tensors[name].detach().cpu()
            demand_savable(path, {name: tensor})
            start, end = end, end + tensor.nbytes
            entry = {"dtype": NAMES_OF_DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            entries[name] = entry
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        file.seek(0)
        file.write(length.to_bytes(8, "little") + json.dumps(entries).encode().ljust(length))


def demand_savable(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError, which names `path`, for a tensor whose dtype the format does not have."""
    for name, tensor in tensors.items():
        if tensor.dtype in UNSAVABLE:
            raise UserError(f"{path}: {name} has dtype {tensor.dtype}, which safetensors files do not have")


@contextmanager
def _refusing_other_files(path: str | Path) -> Iterator[None]:
    """A block that reads a safetensors file. Raises ValueError if the file is damaged or of another kind."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; a safetensors file is needed")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from None
