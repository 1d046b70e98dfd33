"""Image files with all that a viewer sees: read without losing alpha, grey, 16 bits, EXIF or the colour profile.

`harness.data.images` is the reader for training and scoring, where every image becomes 8-bit RGB; this one is for
upscaling, where what comes out (`harness.image_writing`) should be what went in, only larger. A palette, CMYK or YCbCr
image becomes RGB. EXIF orientation is applied to the pixels and taken out of the EXIF block.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from harness.data.images import FORMATS, check_levels
from harness.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
_JPEG_WITH_PREVIEWS = "MPO"
"""Pillow's name of what many cameras write: further pictures (previews, a gain map) behind the one that is shown."""
_GREY_16 = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PHOTOGRAPH = 0x8769
_SIZE_OF_PHOTOGRAPH = frozenset({0xA002, 0xA003})
_ABOUT_THE_FILE = frozenset(
    {*range(254, 260), 262, 266, 273, *range(277, 282), 284, *range(288, 294), 301, 317, 318, 319, 320, 322, 323, 324}
    | {325, 330, 332, 333, 336, 337, 338, 339, 340, 341, *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675}
)
"""TIFF's tags of the baseline and its extensions that say how pixels are stored, and embedded blocks."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """An upright image: colour (H x W x 3) or grey (H x W), uint8 or uint16, with what belongs to it."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    """H x W, of the pixels' type."""
    icc_profile: bytes | None = None
    exif: bytes | None = None
    """Without the orientation."""


def read_picture(path: Path) -> Picture:
    """The image file.

    Raises:
        DataError: it cannot be read, is no image, is damaged, too large, or of a kind that would lose something.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a readable image.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from twice as many on it is an error
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _picture(image, content, path)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not an image ({', '.join(FORMATS).lower()}); remove or convert it.") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more pixels than Pillow accepts (a decompression bomb?); split it.") from None
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        raise DataError(f"{path}: is damaged or truncated ({error}); replace or remove it.") from None


def _picture(image: Image.Image, content: bytes, path: Path) -> Picture:
    check_levels(image, str(path))
    deep = _deep(image, content, path)
    rawmode_is_rgb = image.mode in ("RGB", "RGBA", "L", "LA", "I", "I;16", "P", "1")
    pixels, alpha = deep if deep is not None else _arrays(image, path)
    exif = image.getexif()
    orientation = exif.pop(_ORIENTATION, 1)
    return Picture(
        upright(pixels, orientation),
        None if alpha is None else upright(alpha, orientation),
        image.info.get("icc_profile") if rawmode_is_rgb else None,
        _described(exif),
    )


def _described(exif: Image.Exif) -> bytes | None:
    """The EXIF block without what described the file that it was in: sizes, and how a TIFF's pixels are stored."""
    for tag in _ABOUT_THE_FILE & set(exif):
        del exif[tag]
    photograph = exif.get_ifd(_PHOTOGRAPH)
    for tag in _SIZE_OF_PHOTOGRAPH & set(photograph):
        del photograph[tag]
    return exif.tobytes() if len(exif) else None


def _arrays(image: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    image.load()
    if getattr(image, "n_frames", 1) > 1 and image.format != _JPEG_WITH_PREVIEWS:
        raise DataError(f"{path}: holds several frames; convert it to a plain 8- or 16-bit image.")
    if image.mode in _GREY_16:
        return np.asarray(image).astype(np.uint16), None
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        grey = image.mode in ("L", "LA", "La", "1")
        array = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(array[..., 0] if grey else array[..., :3]), np.ascontiguousarray(array[..., 3])
    return np.asarray(image.convert("L" if image.mode in ("L", "1") else "RGB")), None


def _deep(image: Image.Image, content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """A PNG or TIFF of 16 bits in several channels, which Pillow would cut to 8; None for any other image.

    Pillow's unpacker for big-endian 16 bits takes the first byte of each value, the little-endian one the second; both
    together are the whole.

    Raises:
        DataError: of 16 bits, in an arrangement of which Pillow gives only 8.
    """
    rawmodes = {_rawmode(tile) for tile in getattr(image, "tile", [])}
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))  # of a TIFF
    deep = max(bits) > 8 or any("16" in rawmode for rawmode in rawmodes)
    if not deep or image.mode in _GREY_16:
        return None
    if "transparency" in image.info:
        raise DataError(f"{path}: has 16 bits and a transparent colour; give it an alpha channel instead.")
    if rawmodes == {"LA;16B"} and image.format == "PNG":
        four = np.asarray(Image.open(io.BytesIO(_as_8_bit_rgba(content)))).astype(np.uint16)
        image.load()
        return four[..., 0] * 256 + four[..., 1], four[..., 2] * 256 + four[..., 3]
    found = re.fullmatch("(RGBA?);16([BLN])", "".join(rawmodes))
    if found is None:
        raise DataError(f"{path}: arranges its 16 bits in a way that is not read; save it as a 16-bit PNG.")
    first_byte_is_high = found[2] == "B" or (found[2] == "N" and sys.byteorder == "big")
    high = np.asarray(image).astype(np.uint16)
    with Image.open(io.BytesIO(content), formats=FORMATS) as again:
        other = f"{found[1]};16{'L' if first_byte_is_high else 'B'}"
        again.tile = [_with_rawmode(tile, other) for tile in again.tile]
        values = high * 256 + np.asarray(again)
    return values[..., :3], values[..., 3] if values.shape[2] == 4 else None


def _rawmode(tile: Any) -> str:
    """How the values of one of Pillow's tiles lie in the file; a PPM's of more than 8 bits is called 16, too."""
    arguments = tile[3]
    if tile[0] == "ppm" and arguments[0] == "RGB" and arguments[1] > 255:
        return "16"
    return str(arguments if isinstance(arguments, str) or not arguments else arguments[0])


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    arguments = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _as_8_bit_rgba(content: bytes) -> bytes:
    """A PNG of 16-bit grey and alpha, declared to be 8-bit RGBA, which has the same bytes a pixel."""
    start = len(PNG_SIGNATURE)
    header = content[start + 4 : start + 16] + bytes([8, 6]) + content[start + 18 : start + 21]
    return content[: start + 4] + header + struct.pack(">I", zlib.crc32(header)) + content[start + 25 :]


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels (H x W [x C]) as they are meant to be seen, from EXIF's orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
