"""Image files as uint8 arrays."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from neuralign.datasets.dataset import DataError
from neuralign.datasets.reading import large_arrays

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")
GREYS = ("1", "L", "LA")
COLOURS = ("P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def stack_images(
    files: Iterable[tuple[str, Path | BytesIO]], count: int, size: int | None, folder: Path
) -> tuple[np.ndarray, bool]:
    """RGB images, uint8 (count, 3, h, w), and whether any is coloured.

    Raises DataError, which names the file, for one that is no such image or has another size than the first.

    Args:
        files: (name for messages, file), `count` of them.
        count: Number of files.
        size: Height and width to which images are resized, by PIL's bilinear filter with antialiasing; None: they keep
            their size.
        folder: Where an array that does not fit into memory is kept.
    """
    images, coloured = np.empty((0, 3, 0, 0), np.uint8), False
    for i, (name, file) in enumerate(files):
        image = _open_image(name, file)
        if size is not None:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        if i == 0:
            images = large_arrays.empty((count, 3, image.height, image.width), np.uint8, folder)
        if images.shape[2:] != (image.height, image.width):
            raise DataError(
                f"{name}: {image.height}x{image.width} pixels, but the first image of the split has "
                f"{images.shape[2]}x{images.shape[3]}; all must have one size, or `size` must be set"
            )
        coloured |= image.mode == "RGB"
        images[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return images, coloured


def _open_image(name: str, file: Path | BytesIO) -> Image.Image:
    """The image in mode L or RGB. Refuses images that this conversion would change: transparent ones, 16 bits."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode not in GREYS + COLOURS:
                raise DataError(f"{name}: found mode {image.mode}; only 8-bit greyscale and colour are allowed")
            if _is_deep(image):
                raise DataError(f"{name}: found 16 bits a channel; only 8 are allowed")
            if getattr(image, "is_animated", False):
                raise DataError(f"{name}: has several frames; only one is allowed")
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                if rgba.getchannel("A").getextrema() != (255, 255):
                    raise DataError(f"{name}: has transparent pixels; only opaque images are allowed")
                return rgba.convert("L" if image.mode in GREYS else "RGB")
            return image.convert("L" if image.mode in GREYS else "RGB")
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a readable image: {error}") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether a colour image has 16 bits a channel, which PIL would silently reduce to 8.

    Only the arguments of its decoder show it: `RGB;16B` for a PNG, the largest value for a PPM.
    """
    tiles = getattr(image, "tile", [])
    return any(str(t.args).endswith(";16B") or (t.codec_name.startswith("ppm") and t.args[1] > 255) for t in tiles)
