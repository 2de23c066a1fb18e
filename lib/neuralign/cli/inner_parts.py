"""Which part of each checkpoint `--inside` means, where some checkpoints have it and others are the state itself."""

import logging
from collections.abc import Sequence

log = logging.getLogger("neuralign")


def inner_parts(files: Sequence[str], inside: str | None) -> list[str | None]:
    """The value of `inside` for each checkpoint: that of --inside, or "." for a plain state without such a part.

    So weights that one program averaged (`--inside model_ema`) and a plain state_dict can be used together. If no
    checkpoint has the part, --inside holds for all of them, and reading them says what is wrong.
    """
    if inside is None or len(files) < 2:
        return [inside] * len(files)

    from neuralign.networks.foreign_checkpoints import TOP

    plain = [inside != TOP and _is_plain_without(file, inside) for file in files]
    if all(plain):
        return [inside] * len(files)
    for file, is_plain in zip(files, plain, strict=True):
        if is_plain:
            log.warning(f"{file}: has nothing inside {inside!r}; it is a plain state, which is used as it is")
    return [TOP if is_plain else inside for is_plain in plain]


def _is_plain_without(file: str, inside: str) -> bool:
    """Whether all tensors of a checkpoint are in one mapping at its top, and none of them inside `inside`."""
    from neuralign.networks.foreign_checkpoints import locate
    from neuralign.networks.foreign_files import read_mappings

    mappings = read_mappings(locate(file)[0])
    return mappings.keys() == {()} and not any(name.startswith(f"{inside}.") for name in mappings[()])
