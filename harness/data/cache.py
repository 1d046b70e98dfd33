"""Remote shards on the node's own disk: each fetched once per node, bounded in bytes, never seen half-fetched.

Processes on a node share the folder. A lock file per shard lets one of them fetch while the others wait. Readers hold
a shared lock on the files that they have open, and eviction (least recently used first) leaves locked files alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from harness.data.fetching import fetch_into
from harness.errors import CacheFullError, DataError, InputError, UnreachableError

if TYPE_CHECKING:
    from harness.data.config import DataConfig, SourceConfig


_USUAL_GB = 20.0
_MOST_GB = 1_000_000
RAISE_BOUND = "raise data.cache_gb, or SR_CACHE_GB"


class NodeCache:
    """A folder of at most `limit_bytes` of fetched files."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataError(
                f"{folder}: the cache folder cannot be made ({error.strerror}); set SR_CACHE_DIR to another one."
            ) from None

    @classmethod
    def default(cls, limit_gb: float | None = None) -> NodeCache:
        """The cache at $SR_CACHE_DIR, else below $SLURM_TMPDIR or $TMPDIR, of $SR_CACHE_GB unless a bound is given.

        Raises:
            InputError: $SR_CACHE_GB is no amount.
        """
        given = os.environ.get("SR_CACHE_DIR")
        base = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
        folder = Path(given) if given else Path(base) / f"sr-harness-cache-{os.getuid()}"
        return cls(folder, int((limit_gb or _usual_gb()) * 1e9))

    @classmethod
    def of(cls, data: DataConfig, sources: tuple[SourceConfig, ...]) -> NodeCache | None:
        """The cache that a run's remote sources share; None where all are local, which need none."""
        remote = any("://" in source.path and not source.path.startswith("file://") for source in sources)
        return cls.default(data.cache_gb) if remote else None

    def fetch(self, url: str, size: int | None, version: str) -> Path:
        """The local path of a whole file; fetches it where it is not there yet.

        Args:
            size: bytes it must have; None where unknown.
            version: what tells another content under the same URL apart.

        Raises:
            UnreachableError: it cannot be fetched to its end or does not fit the cache, or there can be no cache there.
            DataError: it is longer.
        """
        path = self.path_of(url, version)
        try:
            if self._touch(path, size):
                return path
            with self._locked(path.with_name(path.name + ".lock")):
                if not self._touch(path, size):
                    self._download(url, path, size)
        except OSError as error:  # no right to write, say, or a network's file system without locks
            raise UnreachableError(
                f"{self.folder}: the cache cannot be used ({error.strerror}); set SR_CACHE_DIR to another folder."
            ) from None
        return path

    def path_of(self, url: str, version: str) -> Path:
        """Where a file lies once it is fetched."""
        name = hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:24]
        return self.folder / f"{name}-{url.rsplit('/', 1)[-1]}"

    def _touch(self, path: Path, size: int | None) -> bool:
        try:
            status = path.stat()
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # the other time tells a content from another
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def _download(self, url: str, path: Path, size: int | None) -> None:
        """Fetches into a `.part` file, which is locked and has its full size from the start, so that it is counted."""
        part = path.with_name(path.name + ".part")
        with self._reserved(part, size or 0) as target:
            try:
                found = fetch_into(url, target, size)
                if size is not None and found != size:
                    raise DataError(f"{url}: has {found} bytes instead of {size}; upload or pack it again.")
            except DataError:
                part.unlink()
                raise
            with self._locked(self.folder / ".evict"):  # or whoever counts the files might see neither name
                os.replace(part, path)

    def _reserved(self, part: Path, size: int) -> BinaryIO:
        """A new file that counts `size` bytes, after the least recently used files that nobody has open made room."""
        if size > self.limit_bytes:
            raise UnreachableError(f"{part.name}: {size} bytes exceed the cache of {self.limit_bytes}; {RAISE_BOUND}.")
        with self._locked(self.folder / ".evict"):
            part.unlink(missing_ok=True)
            files = sorted(self._files(), key=lambda entry: entry[1])
            total = sum(length for _, _, length in files)
            for path, _, length in files:
                if total + size > self.limit_bytes and _remove_unless_open(path):
                    total -= length
            if total + size > self.limit_bytes:
                raise CacheFullError(
                    f"{self.folder}: the shards in use fill the cache of {self.limit_bytes} bytes; "
                    f"{RAISE_BOUND}, lower data.window, or pack smaller shards."
                )
            target = part.open("wb")
            fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
            target.truncate(size)
            return target

    def _files(self) -> Iterator[tuple[Path, float, int]]:
        for entry in os.scandir(self.folder):
            if entry.name.startswith(".") or entry.name.endswith(".lock"):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                yield Path(entry.path), status.st_atime, status.st_size

    @contextlib.contextmanager
    def _locked(self, lock: Path) -> Iterator[None]:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _usual_gb() -> float:
    """The bound of caches for which none is given: of evaluation, inspection, and runs without `data.cache_gb`."""
    text = os.environ.get("SR_CACHE_GB")
    if not text:
        return _USUAL_GB
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= _MOST_GB:
            return float(text)
    raise InputError(f"SR_CACHE_GB '{text}' is no size of a cache; give gigabytes, such as 20.")


def _remove_unless_open(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    finally:
        os.close(fd)
