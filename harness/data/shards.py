"""A packed dataset, opened for reading: columns of the sidecar in memory, samples read by ranges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from harness import random
from harness.data import sidecar
from harness.data.reading import ShardFile, checksum, decode_payload
from harness.data.sidecar import Description
from harness.data.store import LocalStore, Store, open_store
from harness.errors import CacheFullError, DataError, InputError, UnreachableError

if TYPE_CHECKING:
    from harness.data.cache import NodeCache

_CODED = ("class", "split", "shard", "extension")
_PLAIN = ("source_hash", "offset", "length", "header", "height", "width", "crc32", "grey")
_MAX_OPEN_SHARDS = 128
EXTENSIONS = frozenset({"npy", "png", "jpg", "jpeg", "webp"})
"""The types of samples that are read. Whatever would have to be unpickled is not among them."""


class Dataset:
    """Samples in shards, with their sidecar. Open with `Dataset.open`; safe to read from several threads."""

    def __init__(self, store: Store, description: Description, index_path: Path) -> None:
        self.store = store
        self.path = store.url
        self.description = description
        self.fingerprint = description.fingerprint
        self.num_samples = description.num_samples
        self.index_path = index_path
        coded = {name: sidecar.codes(sidecar.read_columns(index_path, [name])[name]) for name in _CODED}
        self.class_code, self.classes = coded["class"]
        self.split_code, self.splits = coded["split"]
        self.shard_code, self.shards = coded["shard"]
        self.extension_code, self.extensions = coded["extension"]
        columns = {name: sidecar.numbers(sidecar.read_columns(index_path, [name])[name]) for name in _PLAIN}
        pa.default_memory_pool().release_unused()
        self.source_hash: np.ndarray = columns["source_hash"]
        self.offset: np.ndarray = columns["offset"]
        self.length: np.ndarray = columns["length"]
        self.header: np.ndarray = columns["header"]
        self.height: np.ndarray = columns["height"]
        self.width: np.ndarray = columns["width"]
        self.crc32: np.ndarray = columns["crc32"]
        self.grey: np.ndarray = columns["grey"]
        self.checked = np.zeros(len(self.offset), bool)
        """Which samples were compared with their checksum since the dataset was opened."""
        self._identity: dict[int, tuple[int, int, int]] = {}
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._announced = False
        self._lock = threading.Lock()
        self._check_index()

    @classmethod
    def open(cls, path: str | Path, cache: NodeCache | None = None) -> Dataset:
        """Opens a folder, or an fsspec URL through the node-local `cache` (None: the default one).

        Raises:
            DataError: no dataset there, or its parts do not fit each other.
        """
        store = open_store(str(path), cache)
        content = store.read(sidecar.DESCRIPTION_NAME)
        description = sidecar.read_description(content, store.name(sidecar.DESCRIPTION_NAME))
        store.pin(description.fingerprint)
        index_path = store.keep(sidecar.INDEX_NAME, description.index_sha256)
        return cls(store, description, index_path)

    def key(self, index: int) -> str:
        """A sample's key."""
        return self.keys(np.array([index]))[0]

    def keys(self, index_N: np.ndarray) -> list[str]:
        """The keys of some samples."""
        return sidecar.read_texts(self.index_path, "key", index_N)

    def source(self, index: int) -> str:
        """The source image that a sample was cut from."""
        return self.sources(np.array([index]))[0]

    def sources(self, index_N: np.ndarray) -> list[str]:
        """The source images of some samples."""
        return sidecar.read_texts(self.index_path, "source", index_N)

    def select(
        self,
        split: str,
        classes: tuple[str, ...] | list[str] | None = None,
        fraction: float = 1.0,
        fraction_seed: int = 0,
    ) -> np.ndarray:
        """Sample indices (int64, rising) of a split, of some classes, of a fraction of the source images.

        The fraction is taken of each class by a seeded hash of the images' content, at least one image each, so a
        smaller fraction lies inside a larger one.

        Raises:
            InputError: an unknown split or class, or nothing is left.
        """
        if split not in self.splits:
            raise InputError(f"{self.path}: has no split '{split}'; choose one of {', '.join(self.splits)}.")
        chosen = self.split_code == self.splits.index(split)
        if classes is not None:
            unknown = sorted(set(classes) - set(self.classes))
            if unknown:
                raise InputError(f"{self.path}: has no class '{unknown[0]}'; choose among {', '.join(self.classes)}.")
            chosen &= np.isin(self.class_code, [self.classes.index(name) for name in classes])
        if not 0 < fraction <= 1:
            raise InputError(f"fraction {fraction} is not in (0, 1]; give for example 0.1.")
        if fraction < 1:
            chosen &= self._in_fraction(np.flatnonzero(chosen), fraction, fraction_seed)
        result = np.flatnonzero(chosen)
        if not len(result):
            raise InputError(f"{self.path}: split '{split}' holds none of the classes {classes}; ask for others.")
        return result

    def _in_fraction(self, candidates: np.ndarray, fraction: float, seed: int) -> np.ndarray:
        inside = np.zeros(self.num_samples, bool)
        by_class = candidates[np.argsort(self.class_code[candidates], kind="stable")]
        for of_class in np.split(by_class, np.flatnonzero(np.diff(self.class_code[by_class])) + 1):
            sources = np.unique(self.source_hash[of_class])
            rank = np.argsort(random.bits(random.key(seed, "fraction"), sources), kind="stable")
            kept = sources[rank[: max(1, int(np.floor(fraction * len(sources) + 0.5)))]]
            inside[of_class[np.isin(self.source_hash[of_class], kept)]] = True
        return inside

    def read(self, index: int) -> np.ndarray:
        """A whole sample, uint8 H x W x 3, compared with its checksum.

        Raises:
            DataError: it cannot be read; names the shard and the key.
        """
        content = self.read_content(index)
        try:
            image_HWC = decode_payload(content, self.extensions[self.extension_code[index]], "it")
        except DataError as error:  # a sample's key is looked up in the index only when it is wanted
            raise DataError(f"{self.describe(index)} {str(error).removeprefix('it: ')}") from None
        if image_HWC.shape != (self.height[index], self.width[index], 3):
            raise self.bad_sample(index, f"is {image_HWC.shape}, the index says otherwise")
        return image_HWC

    def read_content(self, index: int) -> bytes:
        """A sample's bytes as stored, compared with their checksum."""
        shard = self.shard_file(self.shard_code[index])
        content = shard.read(int(self.length[index]), int(self.offset[index]))
        if len(content) != self.length[index]:
            raise self.cut_off(index)
        if checksum(content) != self.crc32[index]:
            raise self.bad_sample(index, "differs from its checksum")
        return content

    def describe(self, index: int) -> str:
        """`SHARD: sample 'KEY'`, for messages."""
        return f"{self.store.name(self.shards[self.shard_code[index]])}: sample '{self.key(index)}'"

    def bad_sample(self, index: int, reason: str) -> DataError:
        """The error for a bad sample."""
        return DataError(f"{self.describe(index)} {reason}; copy the shard again, or remove it and pack again.")

    def cut_off(self, index: int) -> UnreachableError:
        """The error for a shard that has become shorter than it was when it was opened."""
        return UnreachableError(str(self.bad_sample(index, "is cut off")))

    def shard_file(self, code: int) -> ShardFile:
        """The open shard, fetched first where it is remote."""
        shard = self._open.get(code)
        if shard is not None:
            return shard
        with self._lock:
            shard = self._open.get(code)
            if shard is None:
                shard = self._opened(self.shards[code])
                self._check_anew_if_other(code, shard)
                while len(self._open) >= _MAX_OPEN_SHARDS:
                    self._open.popitem(last=False)
                self._open[int(code)] = shard
        return shard

    def _check_anew_if_other(self, code: int, shard: ShardFile) -> None:
        """Of a shard that another file stands for by now (packed again, say), samples are compared once more."""
        if self._identity.setdefault(int(code), shard.identity) != shard.identity:
            self._identity[int(code)] = shard.identity
            self.checked[self.shard_code == code] = False

    def _opened(self, name: str) -> ShardFile:
        """An open shard. Where those that were read before fill the cache and none was announced, they make room."""
        size = self.description.shards[name]
        try:
            return self.store.open_shard(name, size)
        except CacheFullError:
            if self._announced or not self._open:
                raise
            self._open.clear()
            return self.store.open_shard(name, size)

    def announce(self, now_N: np.ndarray, next_N: np.ndarray) -> None:
        """Says which shards are read now and which next, in order: these are fetched, others may leave the cache."""
        names = [self.shards[code] for code in np.concatenate([now_N, next_N])]
        self.store.prefetch((name, self.description.shards[name]) for name in names)
        with self._lock:
            self._announced = True
            for code in set(self._open) - set(now_N.tolist()):
                del self._open[code]

    def close(self) -> None:
        """Forgets the open shards; each closes with its last reader."""
        with self._lock:
            self._open.clear()

    def _check_index(self) -> None:
        """The index against the description and the shards' sizes, without opening a shard."""
        name = self.store.name(sidecar.INDEX_NAME)
        if len(self.offset) != self.num_samples:
            raise DataError(f"{name}: has {len(self.offset)} rows instead of {self.num_samples}; pack again.")
        sizes = self.description.shards
        missing = sorted(set(self.shards) - set(sizes))
        if missing:
            raise DataError(f"{name}: names the shard {missing[0]}, which dataset.json does not; pack again.")
        strange = sorted(set(self.extensions) - EXTENSIONS)
        if strange:
            index = int(np.flatnonzero(self.extension_code == self.extensions.index(strange[0]))[0])
            raise self.bad_sample(index, f"is of type '.{strange[0]}', which is never read")
        size_S = np.array([sizes[shard] for shard in self.shards], np.int64)
        for first in range(0, self.num_samples, sidecar.ROW_GROUP):  # in parts, to keep the temporaries small
            part = slice(first, first + sidecar.ROW_GROUP)
            wrong = self._misplaced(part, size_S)
            if wrong.any():
                index = first + int(np.flatnonzero(wrong)[0])
                raise self.bad_sample(index, "has a place in the index that does not fit its shard")
        if isinstance(self.store, LocalStore):
            self.store.check_sizes(sizes)

    def _misplaced(self, part: slice, size_S: np.ndarray) -> np.ndarray:
        """Which samples of a stretch of the index cannot be where it says."""
        offset, length, header = self.offset[part], self.length[part], self.header[part]
        height, width = self.height[part].astype(np.int64), self.width[part]
        wrong = (offset < 0) | (length <= 0) | (height <= 0) | (width <= 0) | (header < 0)
        wrong |= (header > 0) & (header + height * width * 3 != length)
        return wrong | (offset > size_S[self.shard_code[part]] - length)  # a sum could overflow
