"""Reading shards by ranges: of a raw tile only the rows of the crop, straight into the batch.

Narrow images are read with `preadv` (one call for the crop's rows); of images much wider than the crop only the
crop's own bytes are copied out of a memory map. A shard's size is checked when it is opened, so that a shard that was
cut off is an error and not a signal. A raw sample of up to `CHECKED_BYTES` is compared with its checksum the first time
it is touched, an encoded one each time; larger raw samples are checked by `harness inspect --verify`.
"""

from __future__ import annotations

import mmap
import os
import tokenize
import warnings
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data import images
from harness.errors import DataError, UnreachableError, first_line

if TYPE_CHECKING:
    from harness.data.shards import Dataset

CHECKED_BYTES = 256 << 10
_WIDE = 4
"""From this many times the crop's width on, the memory map is faster than reading whole rows."""
_KEPT_BYTES = 256 << 20
"""Bound of the decoded tiles that are kept for their next crop."""


class ShardFile:
    """An open shard. Readers hold a reference, so that it closes after the last of them."""

    def __init__(self, path: Path, size: int) -> None:
        """Opens it; raises UnreachableError where it cannot be, or has another size than it was indexed with."""
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            raise UnreachableError(f"{path}: the shard is missing; copy or pack it again.") from None
        except OSError as error:
            raise UnreachableError(f"{path}: cannot be opened ({error.strerror}); check its rights.") from None
        status = os.fstat(self.fd)
        if status.st_size != size:
            found = status.st_size
            raise UnreachableError(f"{path}: the shard has {found} bytes instead of {size}; copy or pack it again.")
        self.identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
        """What tells another file that was put in its place, or another content of it."""
        self._map: np.ndarray | None = None

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset` on; fewer at the end of the file."""
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: OSError) -> UnreachableError:
        """The error for a disk that does not give what is there."""
        return UnreachableError(
            f"{self.path}: cannot be read ({error.strerror}); check the disk, or copy the shard again."
        )

    @property
    def mapped(self) -> np.ndarray:
        """The whole shard as uint8, mapped, not read."""
        if self._map is None:
            self._map = np.frombuffer(mmap.mmap(self.fd, 0, prot=mmap.PROT_READ), np.uint8)
        return self._map


class CropReader:
    """Reads crops of a dataset's samples into batches. One per thread: it owns a scratch buffer.

    With `visits` above 1 a decoded image is kept until it was read so many times (or room is needed).
    """

    def __init__(self, dataset: Dataset, visits: int = 1) -> None:
        self.dataset = dataset
        self._scratch = np.empty(0, np.uint8)
        self._visits = visits
        self._kept: OrderedDict[int, tuple[np.ndarray, int]] = OrderedDict()
        self._kept_bytes = 0

    def read(self, index: int, top: int, left: int, out_HX: np.ndarray) -> None:
        """Copies the crop at (top, left) of a sample into `out_HX` (uint8, height x 3 width).

        Raises:
            DataError: the sample cannot be read or differs from its checksum; names the shard and the key.
        """
        data = self.dataset
        height, crop_bytes = out_HX.shape
        header = int(data.header[index])
        if header == 0:
            crop_HWC = self._decoded(index)[top : top + height, left : left + crop_bytes // 3]
            out_HX[:] = crop_HWC.reshape(height, crop_bytes)
            return
        row_bytes = int(data.width[index]) * 3
        length = (height - 1) * row_bytes + crop_bytes
        is_wide = row_bytes > _WIDE * crop_bytes
        found, place = self._stretch(index, header + top * row_bytes + left * 3, length, is_wide)
        out_HX[:] = np.ndarray((height, crop_bytes), np.uint8, found, place, (row_bytes, 1))

    def _stretch(self, index: int, first: int, length: int, is_wide: bool) -> tuple[bytes | np.ndarray, int]:
        """What holds the bytes of a raw sample from `first` on, and where in it they begin."""
        data = self.dataset
        shard = data.shard_file(data.shard_code[index])  # before the checks: of another file they begin anew
        if not data.checked[index] and data.length[index] <= CHECKED_BYTES:
            content = data.read_content(index)
            data.checked[index] = True
            return content, first
        start = int(data.offset[index]) + first
        if is_wide:
            if os.fstat(shard.fd).st_size < start + length:  # reading past the end of a map would kill the process
                raise data.cut_off(index)
            return shard.mapped, start
        if len(self._scratch) < length:
            self._scratch = np.empty(length, np.uint8)
        try:
            found = os.preadv(shard.fd, [self._scratch[:length].data], start)
        except OSError as error:
            raise shard.unreadable(error) from None
        if found != length:
            raise data.cut_off(index)
        return self._scratch, 0

    def _decoded(self, index: int) -> np.ndarray:
        image_HWC, left = self._kept.pop(index, (None, 0))
        if image_HWC is None:
            image_HWC, left = self.dataset.read(index), self._visits
        else:
            self._kept_bytes -= image_HWC.nbytes
        if left > 1:
            self._kept[index] = (image_HWC, left - 1)
            self._kept_bytes += image_HWC.nbytes
            while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1][0].nbytes
        return image_HWC


def decode_payload(content: bytes, extension: str, name: str) -> np.ndarray:
    """A sample's content as uint8, H x W x 3. Nothing is ever unpickled.

    Raises:
        DataError: the content is no such image.
    """
    if extension != "npy":
        return images.decode(content, name)
    header, shape = npy_layout(content[:1024], name)
    pixels = np.frombuffer(content, np.uint8, offset=header)
    if pixels.size != shape[0] * shape[1] * 3:
        raise DataError(f"{name}: holds {pixels.size} values instead of {shape[0]} x {shape[1]} x 3; pack it again.")
    return pixels.reshape(shape)


def npy_layout(start: bytes, name: str) -> tuple[int, tuple[int, int, int]]:
    """(bytes before the pixels, shape) of a uint8 H x W x 3 array, from the first bytes of its .npy file.

    Raises:
        DataError: another type, order or shape (an array of objects would have to be unpickled, and never is).
    """
    import io

    file = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged header, which is Python's syntax, Python may warn besides
            shape, fortran, dtype = read(file, max_header_size=1000)
    except (ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError, TypeError, KeyError) as error:
        reason = first_line(error)
        raise DataError(f"{name}: is not a .npy array ({reason}); pack it again.") from None
    if dtype != np.uint8 or fortran or len(shape) != 3 or shape[2] != 3:
        raise DataError(f"{name}: is {dtype} of shape {shape}; only uint8 of H x W x 3 in C order is read.")
    return file.tell(), shape


def checksum(content: bytes) -> int:
    """CRC-32 of a sample's content, as the sidecar stores it."""
    return zlib.crc32(content)
