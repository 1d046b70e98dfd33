"""Any image file to uint8 H x W x 3, by one stated rule per kind, or a sentence that says why not.

- grey (and 1-bit, grey with alpha): repeated to three channels, and remembered as grey, because it is scored as grey;
- 16 bits a channel: the upper 8 bits; palette, CMYK, YCbCr: converted to RGB (colour profiles are not applied);
- alpha: composited on black; EXIF orientation: applied; several frames: the first;
- of values that are no levels for certain (see `check_levels`), truncated, damaged, too large (Pillow's bound against
  decompression bombs), or no image: refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""The formats that are tried; among the rest are some that would start another program (EPS)."""
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_TURNED = frozenset({5, 6, 7, 8})
_EXIF_ORIENTATION = 0x0112
_PNG_MAY_BE_TURNED = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")
"""What stands somewhere in a PNG whose orientation Pillow reads: its chunk, or a text of older programs or of XMP."""
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of a TIFF that say how its values are meant."""
_SIGNED, _WHITE_IS_ZERO, _SEPARATE = 2, 0, 2


@dataclass(frozen=True)
class Header:
    """What an image file says about itself before it is decoded."""

    height: int
    width: int
    grey: bool


def read_header(content: bytes, name: str) -> Header:
    """Height and width (after EXIF orientation) without decoding.

    Raises:
        DataError: not an image of a known format, of values that are no levels, or larger than the bound.
    """
    with _open(content, name) as image:
        width, height = image.size
        if _orientation(image, content, name) in _TURNED:
            width, height = height, width
        return Header(height, width, image.mode in _GREY_MODES)


def _orientation(image: Image.Image, content: bytes, name: str) -> int | None:
    """The EXIF orientation that the size does not tell yet, as it does of a TIFF; few PNGs are decoded for it."""
    if image.format == "TIFF":
        return None
    if image.format == "PNG" and not any(mark in content for mark in _PNG_MAY_BE_TURNED):
        return None
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception as error:  # Pillow's parsers raise many kinds on damaged files
        raise DataError(f"{name}: is damaged or truncated ({error}); replace or remove it.") from None


def decode(content: bytes, name: str) -> np.ndarray:
    """The image as uint8, H x W x 3.

    Raises:
        DataError: not an image, of values that are no levels, truncated, damaged or too large; it names `name`.
    """
    with _open(content, name) as image:
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # else a copy, also of what is upright
            return np.asarray(_to_rgb(image))
        except DataError:
            raise
        except Exception as error:  # Pillow's plugins raise many kinds on damaged files
            raise DataError(f"{name}: is damaged or truncated ({error}); replace or remove it.") from None


def decode_natural(content: bytes, name: str) -> np.ndarray:
    """As `decode`, but a grey image stays H x W."""
    header = read_header(content, name)
    image_HWC = decode(content, name)
    return np.ascontiguousarray(image_HWC[:, :, 0]) if header.grey else image_HWC


def read_image(path: Path) -> np.ndarray:
    """The image file as uint8: H x W x 3, or H x W where the file is grey.

    Raises:
        DataError: the file cannot be read or is no usable image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a readable image.") from None
    return decode_natural(content, str(path))


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 image, H x W x 3 or H x W.

    One filter for the whole image (Up or Sub, whichever leaves the smaller differences) and Huffman coding alone:
    files of the size of Pillow's default in a tenth of its time.
    """
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    lines = min((_differences(rows, step) for step in (0, channels)), key=_magnitude)
    coder = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    pixels = coder.compress(lines.data) + coder.flush()
    shape = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", shape) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _differences(rows: np.ndarray, step: int) -> np.ndarray:
    """Each line's filter number and its differences to the line above (step 0) or to `step` bytes before."""
    lines = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    if step:
        lines[:, 0] = 1
        lines[:, 1 : step + 1] = rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=lines[:, step + 1 :])
    else:
        lines[:, 0] = 2
        lines[0, 1:] = rows[0]
        np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    return lines


def _magnitude(lines: np.ndarray) -> int:
    """The sum of the absolute differences over every fourth line."""
    return int(np.abs(lines[::4].view(np.int8).astype(np.int16)).sum())


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _open(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        check_levels(image, name)
        return image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name}: is not an image ({', '.join(FORMATS).lower()}); remove it or convert it.") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: holds more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels (a decompression bomb?); split it."
        ) from None
    except Exception as error:
        raise DataError(f"{name}: is damaged or truncated ({error}); replace or remove it.") from None


def check_levels(image: Image.Image, name: str) -> None:
    """That the values of an opened image are levels from black to white, and Pillow reads them as such.

    Raises:
        DataError: floating-point values, or a TIFF's of 12 or 32 bits or with a sign, whose black and white nothing
            states, or a TIFF's of 16 bits in an arrangement that Pillow takes for another.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    kind = "floating-point values" if image.mode == "F" else None
    bits_C = tags.get(_BITS, (8,))
    bits = max(bits_C)
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        kind = "values with a sign"
    elif bits in (12, 32) and kind is None:
        kind = f"values of {bits} bits"
    elif bits == 16 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        kind = "values of 16 bits with white as zero"
    elif bits == 16 and len(bits_C) > 1 and tags.get(_PLANES) == _SEPARATE:
        kind = "values of 16 bits in separate planes"
    if kind is not None:
        raise DataError(f"{name}: holds {kind}, which might be misread; convert it to a plain 8- or 16-bit image.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
