"""One trainer a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import InputError

LOCK = ".trainer"
_PATIENCE_S = 10.0
"""A trainer that was asked to leave may still be closing its files when the next one starts."""
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def alone_in(folder: Path, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Keeps other trainers out of an existing folder; on file systems without locks it keeps nobody out, and says so.

    Raises:
        InputError: another process trains there.
    """
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        until = time.monotonic() + patience_s
        while not _taken(file.fileno(), folder):
            if time.monotonic() >= until:
                raise InputError(
                    f"{folder}: is being trained by another process; wait until it is through, stop it, or give another"
                    f" folder."
                )
            time.sleep(0.1)
        yield


def _taken(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        print(
            f"note: {folder}: cannot be locked ({os.strerror(error.errno)}); start only one trainer there.", flush=True
        )
    return True
