"""One image file to one uint8 array."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipeline.datasets.base import Images
from pipeline.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def is_colour(path: str) -> bool:
    """Whether a file holds a colour image; reads its header alone."""
    with _opened(path) as image:
        return image.mode not in ("1", "L", "LA", "I", "F") and not _is_16_bit(image)


def decode(path: str, channels: int, size: int) -> Images:
    """The image in the middle square, resized (bilinear, antialiased), uint8, (channels, H, W).

    The shorter side is kept whole. Transparency is dropped, 16-bit grey keeps its upper 8 bits, and
    of an animation the first frame counts.

    Raises:
        UserError: the file is truncated, damaged or no image.
    """
    from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    with _opened(path) as image:
        image.draft(mode, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
        if _is_16_bit(image):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode!r} have no known range")
        elif image.has_transparency_data:
            image = image.convert("RGBA")
        square = ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _opened(path: str) -> Iterator[Image]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    # what Pillow's decoders raise on files that are not what they seem
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(
            f"cannot decode the image: {error}",
            where=path,
            rule="every image of the data set can be decoded, with 8 or 16 bits a channel",
            cure="replace the file by an intact one, or delete it",
        ) from error


def _is_16_bit(image: Image) -> bool:
    return image.mode.startswith("I;16")
