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
import queue
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from harness.data.reading import ShardFile
from harness.errors import DataError

_CHUNK_BYTES = 8 << 20
_SMALL_BYTES = 64 << 20
_OPEN_ATTEMPTS = 5
_PREFETCH_THREADS = 4


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
    def default(cls, limit_bytes: int = 20_000_000_000) -> NodeCache:
        """The cache at $SR_CACHE_DIR, else below $SLURM_TMPDIR or $TMPDIR."""
        given = os.environ.get("SR_CACHE_DIR")
        base = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
        return cls(Path(given) if given else Path(base) / f"sr-harness-cache-{os.getuid()}", limit_bytes)

    def fetch(self, url: str, size: int | None, version: str) -> Path:
        """The local path of a whole file; fetches it where it is not there yet.

        Args:
            size: bytes it must have; None where unknown.
            version: what tells another content under the same URL apart.

        Raises:
            DataError: it cannot be fetched, has another size, or does not fit the cache.
        """
        path = self.path_of(url, version)
        if self._touch(path, size):
            return path
        with self._locked(path.with_name(path.name + ".lock")):
            if not self._touch(path, size):
                self._download(url, path, size)
        return path

    def path_of(self, url: str, version: str) -> Path:
        """Where a file lies once it is fetched."""
        name = hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:24]
        return self.folder / f"{name}-{url.rsplit('/', 1)[-1]}"

    def _touch(self, path: Path, size: int | None) -> bool:
        try:
            found = path.stat().st_size
            os.utime(path)
        except FileNotFoundError:
            return False
        return size is None or found == size

    def _download(self, url: str, path: Path, size: int | None) -> None:
        """Fetches into a `.part` file, which is locked and has its full size from the start, so that it is counted."""
        part = path.with_name(path.name + ".part")
        with self._reserved(part, size or 0) as target:
            try:
                found = _copy(url, target)
            except DataError:
                part.unlink()
                raise
            except Exception as error:  # every fsspec back end raises its own kinds
                part.unlink()
                raise DataError(f"{url}: cannot be fetched ({_reason(error)}); check the URL and network.") from None
            if size is not None and found != size:
                part.unlink()
                raise DataError(f"{url}: has {found} bytes instead of {size}; upload or pack it again.")
            target.flush()
            with self._locked(self.folder / ".evict"):  # or whoever counts the files might see neither name
                os.replace(part, path)

    def _reserved(self, part: Path, size: int) -> BinaryIO:
        """A new file that counts `size` bytes, after the least recently used files that nobody has open made room."""
        if size > self.limit_bytes:
            raise DataError(f"{part.name}: {size} bytes exceed the cache of {self.limit_bytes}; raise data.cache_gb.")
        with self._locked(self.folder / ".evict"):
            part.unlink(missing_ok=True)
            files = sorted(self._files(), key=lambda entry: entry[1])
            total = sum(length for _, _, length in files)
            for path, _, length in files:
                if total + size > self.limit_bytes and _remove_unless_open(path):
                    total -= length
            if total + size > self.limit_bytes:
                raise DataError(
                    f"{self.folder}: the shards in use fill the cache of {self.limit_bytes} bytes; "
                    "raise data.cache_gb, lower data.window, or pack smaller shards."
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
                yield Path(entry.path), status.st_mtime, status.st_size

    @contextlib.contextmanager
    def _locked(self, lock: Path) -> Iterator[None]:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


class RemoteStore:
    """A dataset behind an fsspec URL."""

    def __init__(self, url: str, cache: NodeCache, version: str = "") -> None:
        self.url = url
        self.cache = cache
        self.version = version
        self.remote = True
        self._wanted: queue.Queue[tuple[str, int]] = queue.Queue()
        self._asked: set[str] = set()
        self._kept: list[ShardFile] = []
        self._threads: list[threading.Thread] = []

    def pin(self, version: str) -> None:
        self.version = version

    def name(self, file: str) -> str:
        return f"{self.url}/{file}"

    def read(self, file: str) -> bytes:
        url = self.name(file)
        try:
            with open_url(url) as source:
                return source.read(_SMALL_BYTES)
        except DataError:
            raise
        except Exception as error:  # every fsspec back end raises its own kinds
            raise DataError(
                f"{url}: cannot be read ({_reason(error)}); check the URL, or run `harness pack` and upload the folder."
            ) from None

    def keep(self, file: str, version: str) -> Path:
        path = self.cache.fetch(self.name(file), None, version)
        self._kept.append(self._opened(file, None, version))
        return path

    def open_shard(self, file: str, size: int) -> ShardFile:
        """The fetched shard, marked as in use until it is closed."""
        return self._opened(file, size, self.version)

    def _opened(self, file: str, size: int | None, version: str) -> ShardFile:
        for _ in range(_OPEN_ATTEMPTS):  # it may be evicted between the two, and is fetched again
            path = self.cache.fetch(self.name(file), size, version)
            try:
                shard = ShardFile(path, path.stat().st_size if size is None else size)
                fcntl.flock(shard.fd, fcntl.LOCK_SH)  # whoever fetched or evicts it holds it for a moment only
                if path.exists():
                    return shard
            except (DataError, FileNotFoundError):
                continue
        raise DataError(f"{self.name(file)}: is evicted from {self.cache.folder} again and again; raise data.cache_gb.")

    def prefetch(self, files: Iterable[tuple[str, int]]) -> None:
        """Fetches files that will be wanted soon, in threads of its own; a failure shows when the file is read."""
        for file, size in files:
            if file not in self._asked:
                self._asked.add(file)
                self._wanted.put((file, size))
        while len(self._threads) < _PREFETCH_THREADS:
            self._threads.append(threading.Thread(target=self._work, name="prefetch", daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while True:
            file, size = self._wanted.get()
            with contextlib.suppress(DataError):  # the reader meets the same error and reports it
                self.cache.fetch(self.name(file), size, self.version)
            self._asked.discard(file)


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
        return fsspec.open(url, "rb").open()
    except ImportError as error:
        raise DataError(f"{url}: needs another package ({error}); install it.") from None


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


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
