"""Where a dataset's files lie: a local folder, or an fsspec URL that is read through the node-local cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.data.reading import ShardFile
from harness.errors import DataError, UnreachableError
from harness.files import BROKEN, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.data.cache import NodeCache

SCHEMES = ("file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "memory")
"""URL schemes that are read; whatever could start a program (`pipe:`) or log in somewhere is not among them."""


class Store(Protocol):
    """Files of a dataset by name."""

    url: str
    remote: bool

    def pin(self, version: str) -> None:
        """Says which version of the dataset is meant, so that a cache keeps versions apart."""

    def name(self, file: str) -> str:
        """The file's full path or URL, for messages."""

    def read(self, file: str) -> bytes:
        """A small file's content."""

    def keep(self, file: str, sha256: str) -> Path:
        """A local path of the whole file, which stays there as long as the store is in use.

        Raises:
            DataError: it is not there, or is another one than the checksum says.
        """

    def open_shard(self, file: str, size: int) -> ShardFile:
        """An open shard of `size` bytes."""

    def prefetch(self, files: Iterable[tuple[str, int]]) -> None:
        """Says which (file, size) will be wanted soon."""


class LocalStore:
    """A folder on a local or shared disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        self.remote = False

    def pin(self, version: str) -> None:
        """Nothing to do: there is no cache."""

    def name(self, file: str) -> str:
        return str(self.folder / file)

    def read(self, file: str) -> bytes:
        try:
            return (self.folder / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{self.folder}: is not a packed dataset (no {file}); run `harness pack`, or `harness index` on shards "
                "that others wrote."
            ) from None
        except OSError as error:
            raise _unreadable(self.folder / file, error) from None

    def keep(self, file: str, sha256: str) -> Path:
        path = self.folder / file
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            raise DataError(f"{path}: is missing; copy or pack the dataset again.") from None
        except OSError as error:
            raise _unreadable(path, error) from None
        if found != sha256:
            raise other_than_described(str(path))
        return path

    def open_shard(self, file: str, size: int) -> ShardFile:
        return ShardFile(self.folder / file, size)

    def prefetch(self, files: Iterable[tuple[str, int]]) -> None:
        """Nothing to do: the operating system reads ahead."""

    def check_sizes(self, sizes: dict[str, int]) -> None:
        """Raises DataError where a shard is missing or has another size than it was written with."""
        for shard, size in sizes.items():
            path = self.folder / shard
            try:
                found = path.stat().st_size
            except OSError:
                raise DataError(f"{path}: the shard is missing; copy or pack it again.") from None
            if found != size:
                raise DataError(f"{path}: the shard has {found} bytes instead of {size}; copy or pack it again.")


def _unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that is there: the user may not read it, or the disk fails."""
    if error.errno in BROKEN:
        return UnreachableError(f"{path}: cannot be read ({error.strerror}); try again once the disk answers.")
    return DataError(f"{path}: cannot be read ({error.strerror}); check its rights.")


def other_than_described(name: str) -> DataError:
    """The error for a file that is not the one whose checksum the description tells."""
    return DataError(f"{name}: does not match dataset.json beside it; copy both again, or run `harness index`.")


def open_store(path: str, cache: NodeCache | None) -> Store:
    """The store for a path or URL.

    Raises:
        DataError: a URL scheme that is not read.
    """
    scheme, found, rest = path.partition("://")
    if not found:
        if path.startswith("pipe:"):
            raise DataError(f"{path}: `pipe:` would start a program and is never read; give a folder or a URL.")
        return LocalStore(Path(path))
    if "::" in path or scheme not in SCHEMES:
        raise DataError(f"{path}: URLs of this kind are not read; give a folder or one of {', '.join(SCHEMES)}.")
    if scheme == "file":
        return LocalStore(Path(rest))
    from harness.data.cache import NodeCache
    from harness.data.remote import RemoteStore

    return RemoteStore(path.rstrip("/"), cache or NodeCache.default())
