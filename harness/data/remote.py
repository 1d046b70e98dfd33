"""A dataset behind an fsspec URL, read through the node's cache and fetched ahead of the window."""

from __future__ import annotations

import contextlib
import fcntl
import queue
import threading
from collections.abc import Iterable
from pathlib import Path

from harness.data.cache import RAISE_BOUND, NodeCache
from harness.data.fetching import open_url, patiently, reason
from harness.data.reading import ShardFile
from harness.data.store import other_than_described
from harness.errors import DataError, UnreachableError
from harness.files import sha256_of

_SMALL_BYTES = 64 << 20
_OPEN_ATTEMPTS = 5
_PREFETCH_THREADS = 4


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
            return patiently(url, lambda: _content(url))
        except DataError:
            raise
        except Exception as error:  # every fsspec back end raises its own kinds
            raise _unreadable(url, error) from None

    def keep(self, file: str, sha256: str) -> Path:
        url = self.name(file)

        def attempt() -> ShardFile:
            whole = self._opened(file, None, sha256)
            if sha256_of(whole.path) != sha256:  # fetched while it was being uploaded, say, or not to its end
                whole.path.unlink(missing_ok=True)
                raise EOFError("differs from its checksum")
            return whole

        try:
            self._kept.append(patiently(url, attempt))
        except EOFError:
            raise other_than_described(url) from None
        return self._kept[-1].path

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
        raise UnreachableError(
            f"{self.name(file)}: is evicted from {self.cache.folder} again and again; {RAISE_BOUND}."
        )

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
            with contextlib.suppress(DataError, OSError):  # the reader meets the same error and reports it
                self.cache.fetch(self.name(file), size, self.version)
            self._asked.discard(file)


def _content(url: str) -> bytes:
    try:
        with open_url(url) as source:
            return source.read(_SMALL_BYTES)
    except FileNotFoundError as error:
        if error.__cause__ is None:  # it is not there; behind fsspec's other ones stands what really happened
            raise _unreadable(url, error) from None
        raise


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(
        f"{url}: cannot be read ({reason(error)}); check the URL, or run `harness pack` and upload the folder."
    )
