"""Tar members: written so that the bytes depend on the content alone, and listed without trusting the file.

Only regular members count. A member with an absolute name or a `..` in it is refused, and nothing is ever extracted.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from harness.errors import DataError

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Member:
    """A regular file inside a shard: its name, and where its content lies."""

    name: str
    offset: int
    length: int


def member_header(name: str, length: int) -> bytes:
    """The tar header of a member, the same for the same name and length wherever and whenever it is written."""
    info = tarfile.TarInfo(name)
    info.size = length
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8")


def write_member(file: IO[bytes], name: str, content: bytes | memoryview, length: int | None = None) -> int:
    """Appends a member and its padding; returns the offset of its content."""
    length = len(content) if length is None else length
    file.write(member_header(name, length))
    offset = file.tell()
    file.write(content)
    file.write(bytes(-length % BLOCK))
    return offset


def list_members(path: Path) -> Iterator[Member]:
    """The regular members of a tar, in the order of the file.

    Raises:
        DataError: not a tar, cut off, or a member with an unsafe name.
    """
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                _check_name(info.name, path)
                if info.isdir():
                    continue
                if not info.isreg():
                    raise DataError(f"{path}: member '{info.name}' is no regular file; pack the images again.")
                if info.offset_data + info.size > size:
                    raise DataError(f"{path}: is cut off inside '{info.name}'; copy or pack it again.")
                yield Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not a sound tar ({error}); copy or pack it again.") from None


def _check_name(name: str, path: Path) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise DataError(f"{path}: member '{name}' leads outside the shard; such a shard is not read, pack it again.")
