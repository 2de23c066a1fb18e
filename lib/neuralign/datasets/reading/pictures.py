"""Image files as uint8 arrays."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from neuralign.datasets.dataset import DataError

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")
GREYS = ("1", "L", "LA")
COLOURS = ("P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def stack(files: Iterable[tuple[str, Path | BytesIO]], count: int, size: int | None) -> tuple[np.ndarray, bool]:
    """RGB images (count, 3, h, w) of (name, file) pairs, and whether any is not greyscale; resized if `size` is given.

    Resizing is PIL's bilinear filter with antialiasing, to size x size.
    """
    images, coloured = np.empty((0, 3, 0, 0), np.uint8), False
    for i, (source, file) in enumerate(files):
        image = picture(source, file)
        if size is not None:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        if i == 0:
            images = np.empty((count, 3, image.height, image.width), np.uint8)
        if images.shape[2:] != (image.height, image.width):
            raise DataError(
                f"{source}: {image.height}x{image.width} pixels, but the first image of the split has "
                f"{images.shape[2]}x{images.shape[3]}; all must have one size (or be given one)"
            )
        coloured |= image.mode == "RGB"
        images[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return images, coloured


def picture(source: str, file: Path | BytesIO) -> Image.Image:
    """The image in mode L or RGB. An alpha channel may go only where it hides nothing; nor are 16 bits cut to 8."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode not in GREYS + COLOURS:
                raise DataError(f"{source}: pixels of mode {image.mode}, only 8-bit greyscale and colour are allowed")
            if _is_deep(image):
                raise DataError(f"{source}: 16 bits a channel, only 8 are allowed")
            if getattr(image, "is_animated", False):
                raise DataError(f"{source}: has several frames, only one is allowed")
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                if rgba.getchannel("A").getextrema() != (255, 255):
                    raise DataError(f"{source}: has transparent pixels, only opaque images are allowed")
                return rgba.convert("L" if image.mode in GREYS else "RGB")
            return image.convert("L" if image.mode in GREYS else "RGB")
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{source}: not a readable image: {error}") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether a colour image has 16 bits a channel: PIL opens it in the mode of 8 bits and would cut it in silence.

    The decoder's arguments tell: `RGB;16B` in a PNG, in a PPM the largest value.
    """
    tiles = getattr(image, "tile", [])
    return any(str(t.args).endswith(";16B") or (t.codec_name.startswith("ppm") and t.args[1] > 255) for t in tiles)
