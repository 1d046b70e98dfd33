"""Files written piece by piece, hashed on the way, and on the disk before anyone relies on them.

The pieces are views of the tensors themselves, or one tensor's copy in order: nothing is put together in memory first,
and both the hash and the write let other threads run, so that a checkpoint of any size costs the training thread next
to nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

_SAFETENSORS_NAMES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64",
    torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The format's names of number types, in the order in which tensors lie in a file."""
_BLOCK_BYTES = 4 * 2**20
_NOT_FOR_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS}


class HashedFile:
    """What a writer of files needs: `write`, which also hashes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.error: OSError | None = None
        """What went wrong; torch hands it on as a RuntimeError that does not say."""

    def write(self, piece: bytes | memoryview) -> int:
        view = memoryview(piece).cast("B")
        for begin in range(0, len(view), _BLOCK_BYTES):
            block = view[begin : begin + _BLOCK_BYTES]
            self._hash.update(block)
            try:
                self._file.write(block)
            except OSError as error:
                self.error = error
                raise
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def write_durably(path: Path, fill: Callable[[HashedFile], Any]) -> str:
    """Lets `fill` write a file, waits until it is on the disk, and returns its sha256.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        hashed = HashedFile(file)
        try:
            fill(hashed)
        except RuntimeError as error:
            raise hashed.error or error from None
        file.flush()
        os.fsync(file.fileno())
    return hashed.sha256


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, which some file systems (SMB, in user space) cannot do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def safetensors_pieces(
    weights: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces; the same bytes as the safetensors package writes, which joins them in memory.

    The format: the header's length (8 bytes, little-endian), a JSON header padded to 8 bytes, then the tensors, those
    of wide numbers first so that each is aligned, by name among equals.
    """
    place = {dtype: number for number, dtype in enumerate(_SAFETENSORS_NAMES)}
    order = sorted(weights, key=lambda name: (place[weights[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in order:
        value = weights[name]
        end = offset + value.numel() * value.element_size()
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        if weights[name].numel():  # in channels_last a copy, of this tensor alone
            yield weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
