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
        DataError: not a tar, cut off, damaged between two members, not stored byte for byte, or a member with an
            unsafe name.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                _check_name(info.name, path)
                if info.isdir():
                    continue
                if not info.isreg():
                    raise DataError(f"{path}: member '{info.name}' is no regular file; pack the images again.")
                if info.issparse():
                    raise DataError(
                        f"{path}: member '{info.name}' is stored without its holes; write the tar without --sparse."
                    )
                yield Member(info.name, info.offset_data, info.size)
            _check_end(path, archive.offset)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy it again, or take it out.") from None
    except (tarfile.TarError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: is not a sound tar ({error}); copy or pack it again.") from None


def _check_end(path: Path, end: int) -> None:
    """Raises DataError unless a block of zeros is at the byte `end`, and nothing behind it: readers of tars take a
    damaged header, the end of a file that is cut off, and that of the first of two joined tars for the end of all."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise DataError(f"{path}: is cut off or damaged behind byte {end}; copy or pack it again.")
        while block := file.read(1 << 20):
            if any(block):
                raise DataError(f"{path}: goes on behind its end (joined tars?); give each a file of its own.")


def _check_name(name: str, path: Path) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise DataError(f"{path}: member '{name}' leads outside the shard; such a shard is not read, pack it again.")
