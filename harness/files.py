"""Files that are whole where they are there: written under another name, which becomes their own at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from harness.errors import NotWritten

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""A disk without room."""
BROKEN = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}
"""A disk's trouble, or that of the network it hangs on."""
_numbers = itertools.count()
_BLOCK_BYTES = 1 << 20


@contextlib.contextmanager
def whole(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yields a hidden path beside `path` to write to, which becomes `path` when the block ends well.

    However else it ends (an error, Ctrl-C), what was written is removed, and a file that `path` was stays as it is.

    Args:
        sync: wait until the content is on the disk, so that not even a power failure leaves half of it.

    Raises:
        NotWritten: nothing can be written there: no such place, no right to it.
        OSError: the disk is full, or fails; it carries the file's name.
    """
    temporary = path.parent / f".{path.stem[:30]}.{os.getpid()}.{next(_numbers)}.part{path.suffix}"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            _wait_for_the_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[IO[bytes]]:
    """The opened file, of which any error of the disk carries the name; what was written stays. Raises as `whole`."""
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise not_written(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Replaces a small text file, so that a reader sees the old or the new one, never half of it; raises as `whole`."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """The sha256 of a file, read block by block into the same memory; other threads run meanwhile.

    Args:
        progress: is called with the bytes done and those of the file.

    Raises:
        OSError: it cannot be read.
    """
    digest, block, done = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES)), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while count := file.readinto(block):
            digest.update(block[:count])
            done += count
            if progress:
                progress(done, size)
    return digest.hexdigest()


def not_written(path: Path, error: OSError) -> Exception:
    """What to raise where `path` could not be written: the user's mistake, or a disk that is full or broken."""
    if error.errno in FULL | BROKEN:
        return OSError(error.errno, error.strerror, str(path))
    return NotWritten(f"{path}: cannot be written ({error.strerror or error}); name another place.")


def _wait_for_the_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
