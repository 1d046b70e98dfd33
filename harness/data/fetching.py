"""Fetching what lies at a URL, again where the network is in trouble: a minute's must not end a training of weeks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from harness.errors import DataError, UnreachableError
from harness.files import FULL

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK_BYTES = 8 << 20
_BUSY = {408, 425, 429}
"""HTTP's answers below 500 that mean: later."""
_PAUSES_S: tuple[float, ...] = (1.0, 5.0, 25.0)
"""Before a fetch is tried again. fsspec calls much of a network's trouble "not found", so that is tried again, too."""


def fetch_into(url: str, target: BinaryIO, size: int | None) -> int:
    """Writes what lies at a URL into a file; returns the number of bytes.

    It is made again after some pauses, also where it ended early, which not every server's answer shows.

    Raises:
        UnreachableError: the network is still in trouble, the file there is shorter than `size`, or the disk is full.
    """

    def attempt() -> int:
        target.seek(0)
        found = _copy(url, target)
        if size is not None and found < size:
            raise EOFError(f"has {found} bytes instead of {size}")
        target.truncate()
        target.flush()
        os.fsync(target.fileno())  # it has had its size since it was begun: a power failure would leave holes in it
        return found

    try:
        return patiently(url, attempt)
    except DataError:
        raise
    except EOFError as error:
        raise UnreachableError(f"{url}: {error} each time; upload it again, or check the network.") from None
    except Exception as error:  # every fsspec back end raises its own kinds
        if isinstance(error, OSError) and error.errno in FULL:
            where = Path(target.name).parent
            raise UnreachableError(
                f"{where}: the cache's disk is full ({error.strerror}); free space, or set SR_CACHE_DIR to another."
            ) from None
        raise UnreachableError(f"{url}: cannot be fetched ({reason(error)}); check the URL and network.") from None


def patiently(url: str, attempt: Callable[[], T]) -> T:
    """What an attempt gives, made again after some pauses.

    Raises:
        Exception: what the last attempt raised, or one that no waiting mends.
    """
    for pause_s in _PAUSES_S:
        try:
            return attempt()
        except Exception as error:
            if _is_final(error):
                raise
            log.warning("%s: %s; it is asked for again in %g s.", url, reason(error), pause_s)
        time.sleep(pause_s)
    return attempt()


def _is_final(error: Exception) -> bool:
    """Whether no waiting mends it: the data's fault, a full disk, a server's plain no."""
    status = getattr(error.__cause__ or error, "status", 0)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return refused or isinstance(error, DataError) or (isinstance(error, OSError) and error.errno in FULL)


def _copy(url: str, target: BinaryIO) -> int:
    """Writes what lies at a URL; returns the number of bytes."""
    found = 0
    with open_url(url) as source:
        while block := source.read(_CHUNK_BYTES):
            target.write(block)
            found += len(block)
    return found


def open_url(url: str) -> Any:
    """A readable file object for a URL; opened read-only.

    Raises:
        DataError: the package for its scheme is not installed.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        return system.open(path, "rb", cache_type="none")  # the usual cache fetches 5 MB ahead of each read, twice
    except ImportError as error:
        raise DataError(f"{url}: needs another package ({error}); install it.") from None


def reason(error: BaseException) -> str:
    """An error's kind and first line, for messages; of fsspec's "not found", what really happened."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
