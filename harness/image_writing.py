"""Pictures to image files: a format that would lose something is refused, and a file appears when it is whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from harness.errors import DataError, InputError
from harness.files import whole
from harness.images import PNG_SIGNATURE, SUFFIXES, Picture

_WITH_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff"})
_WITH_PROFILE = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})
_STRIP_ROWS = 256
_LONGEST_EDGE = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}
_LONGEST_EXIF_OF_A_JPEG = 65_533
_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"compress_level": 4},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True, "exact": True},
}


def check_writable(path: Path, picture: Picture, scale: int = 1) -> None:
    """That the format of `path` can hold what the picture has, once it is enlarged by `scale`.

    Raises:
        DataError: it cannot; the sentence says what can.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: is of no known image format; end the name in .png.")
    if suffix == ".gif":
        raise DataError(f"{path}: GIF would lose all but 256 colours; write .png.")
    if picture.pixels.dtype == np.uint16 and suffix != ".png":
        raise DataError(f"{path}: {suffix} would lose the 16 bits a channel; write .png.")
    if picture.alpha is not None and suffix not in _WITH_ALPHA:
        raise DataError(f"{path}: {suffix} would lose the alpha channel; write .png.")
    edge = scale * max(picture.pixels.shape[:2])
    if edge > _LONGEST_EDGE.get(suffix, edge):
        raise DataError(
            f"{path}: {suffix} holds at most {_LONGEST_EDGE[suffix]:,} px a side, not {edge:,}; write .png."
        )
    if suffix in (".jpg", ".jpeg") and len(picture.exif or b"") > _LONGEST_EXIF_OF_A_JPEG:
        raise DataError(f"{path}: {suffix} would lose the EXIF block, which is too long for it; write .png.")


def write_picture(path: Path, picture: Picture) -> None:
    """Writes the image in the format of its suffix, under a temporary name until it is whole.

    Raises:
        DataError: the format cannot hold it, or the file cannot be written.
        OSError: the disk is full.
    """
    check_writable(path, picture)
    try:
        with whole(path, sync=True) as temporary, temporary.open("wb") as file:
            if picture.pixels.dtype == np.uint16:
                _write_deep_png(file, picture)
            else:
                _write_with_pillow(file, picture, path.suffix.lower())
    except InputError as error:
        raise DataError(str(error)) from None


def _stacked(picture: Picture) -> np.ndarray:
    if picture.alpha is None:
        return picture.pixels
    return np.dstack([picture.pixels, picture.alpha])


def _write_with_pillow(file: IO[bytes], picture: Picture, suffix: str) -> None:
    image = Image.fromarray(_stacked(picture))
    options: dict[str, Any] = dict(_OPTIONS.get(suffix, {}))
    if suffix in _WITH_PROFILE:
        options.update(icc_profile=picture.icc_profile, exif=picture.exif)
    image.save(file, Image.registered_extensions()[suffix], **{k: v for k, v in options.items() if v is not None})


def _write_deep_png(file: IO[bytes], picture: Picture) -> None:
    values = _stacked(picture)
    height, width = values.shape[:2]
    num_channels = 1 if values.ndim == 2 else values.shape[2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[num_channels]
    file.write(PNG_SIGNATURE)
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    if picture.icc_profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc_profile))
    if picture.exif:
        _write_chunk(file, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    for part in _compressed_rows(values, 2 * num_channels):
        _write_chunk(file, b"IDAT", part)
    _write_chunk(file, b"IEND", b"")


def _compressed_rows(values: np.ndarray, pixel_bytes: int) -> Iterator[bytes]:
    """PNG's image data: every row as differences to the pixel on the left (filter 1)."""
    deflate = zlib.compressobj(4)
    for start in range(0, len(values), _STRIP_ROWS):
        strip = values[start : start + _STRIP_ROWS].astype(">u2")
        rows = strip.reshape(len(strip), -1).view(np.uint8)
        filtered = np.ones((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 1:] = rows
        filtered[:, 1 + pixel_bytes :] -= rows[:, :-pixel_bytes]
        yield deflate.compress(filtered.tobytes())
    yield deflate.flush()


def _write_chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
