"""One process at work in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import InputError

_PATIENCE_S = 10.0
"""A process that was asked to leave may still be closing its files when the next one starts."""
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}


@contextmanager
def alone_in(folder: Path, patience_s: float = _PATIENCE_S, lock: str | None = ".lock") -> Iterator[None]:
    """Keeps others that ask likewise out of an existing folder, through a file in it or (lock None) the folder itself.

    On a file system without such locks it keeps nobody out, and says so.

    Raises:
        InputError: another process is at work there.
    """
    if lock is None:
        descriptor = os.open(folder, os.O_RDONLY)
    else:
        descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until = time.monotonic() + patience_s
        while not locked(descriptor, folder):
            if time.monotonic() >= until:
                raise InputError(
                    f"{folder}: another process is at work there; wait until it is through, stop it, or give another"
                    f" folder."
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def locked(descriptor: int, where: Path) -> bool:
    """Whether an open file is this process's now, until it is closed; without locks it is, with a note."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        reason = os.strerror(error.errno)
        print(f"note: {where}: cannot be locked ({reason}); start only one command there.", file=sys.stderr, flush=True)
    return True
