"""The node's cache: what is in it, what leaves it, and what is said where there can be none."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

import fsspec
import pytest

from harness.data import cache, fetching
from harness.data.cache import NodeCache
from harness.data.loader import PatchLoader
from harness.data.reading import ShardFile
from harness.data.shards import Dataset
from harness.data.store import open_store
from harness.errors import DataError, InputError, UnreachableError


def test_a_file_system_without_locks_is_named_with_the_mend(tmp_path, monkeypatch, url):
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    with pytest.raises(
        UnreachableError, match=rf"{tmp_path}: the cache cannot be used \(No locks .*; set SR_CACHE_DIR"
    ):
        NodeCache(tmp_path, 1000).fetch(url, 10, "v")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_local_datasets_need_no_cache(packed_npy, tmp_path, data_config, monkeypatch, prefix):
    (tmp_path / "file").write_text("where no folder can be made")
    monkeypatch.setenv("SR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    data = data_config(f"{prefix}{packed_npy}")
    assert PatchLoader(data, data.sources, seed=0, batch_size=4).num_samples


@pytest.fixture
def three(url: str) -> list[str]:
    """URLs of files of ten bytes."""
    for name in "bc":
        fsspec.filesystem("memory").pipe(f"/shards/{name}.tar", b"0123456789")
    return [url.replace("a.tar", f"{name}.tar") for name in "abc"]


def test_what_was_used_least_recently_goes_first(tmp_path, three):
    node = NodeCache(tmp_path, 25)
    first, second, third = three
    for age, url in enumerate((first, second)):
        os.utime(node.fetch(url, 10, "v"), (age + 1, age + 1))
    node.fetch(first, 10, "v")
    node.fetch(third, 10, "v")
    assert [node.path_of(url, "v").exists() for url in three] == [True, False, True]


def test_a_use_of_a_cached_file_does_not_make_another_one_of_it(tmp_path, url):
    node = NodeCache(tmp_path, 1000)
    first = ShardFile(node.fetch(url, 10, "v"), 10)
    os.utime(first.path, (1, first.identity[2] / 1e9))
    used = ShardFile(node.fetch(url, 10, "v"), 10)
    assert used.identity == ShardFile(first.path, 10).identity and first.path.stat().st_atime > 1


def test_a_file_of_another_size_is_fetched_anew(tmp_path, url):
    node = NodeCache(tmp_path, 1000)
    node.path_of(url, "v").write_bytes(b"012")
    assert node.fetch(url, 10, "v").read_bytes() == b"0123456789"


def test_what_is_being_fetched_is_not_evicted(tmp_path, three, monkeypatch):
    opened = fetching.open_url

    def while_another_fetches(url: str) -> Any:
        monkeypatch.setattr(fetching, "open_url", opened)
        with pytest.raises(UnreachableError, match="the shards in use fill the cache"):
            NodeCache(tmp_path, 15).fetch(three[1], 10, "v")
        return opened(url)

    monkeypatch.setattr(fetching, "open_url", while_another_fetches)
    assert NodeCache(tmp_path, 15).fetch(three[0], 10, "v").read_bytes() == b"0123456789"


@pytest.mark.parametrize("first_is_bad", [False, True])
def test_samples_that_cannot_be_reached_are_never_replaced(packed_npy, data_config, monkeypatch, first_is_bad):
    data = data_config(packed_npy, on_bad_sample="replace")
    loader = PatchLoader(data, data.sources, seed=0, batch_size=4)
    errors: list[DataError] = [DataError("damaged")] if first_is_bad else []

    def read(*_: Any) -> None:
        raise errors.pop() if errors else UnreachableError("no network")

    monkeypatch.setattr("harness.data.reading.CropReader.read", read)
    with pytest.raises(UnreachableError, match="no network"):
        next(loader.batches(0))
    assert loader.replaced == int(first_is_bad)


def test_nobody_counts_the_files_while_a_fetched_one_gets_its_name(tmp_path, monkeypatch, url):
    """Neither name might be seen, and the cache outgrow its bound."""
    real, given = os.replace, []

    def replace(*names: Any) -> None:
        with (tmp_path / ".evict").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        given.append(real(*names))

    monkeypatch.setattr(os, "replace", replace)
    NodeCache(tmp_path, 1000).fetch(url, 10, "v")
    assert len(given) == 1


def test_the_index_of_a_dataset_in_use_is_not_evicted(packed_npy, tmp_path, three):
    """Keys are read from it as long as the dataset is open."""
    memory = fsspec.filesystem("memory")
    memory.put(str(packed_npy), "/used", recursive=True)
    try:
        node = NodeCache(tmp_path, (packed_npy / "index.parquet").stat().st_size + 15)
        dataset = Dataset.open("memory://used", node)
        os.utime(dataset.index_path, (1, 1))
        for url in three:
            node.fetch(url, 10, "v")
        assert dataset.key(0) == Dataset.open(packed_npy).key(0)
    finally:
        memory.rm("/used", recursive=True)


@pytest.mark.parametrize(("said", "gigabytes"), [(None, 20), ("", 20), ("0.5", 0.5), ("300", 300)])
def test_where_no_bound_is_given_the_environments_is_taken(tmp_path, monkeypatch, data_config, said, gigabytes):
    """Evaluation and inspection have no recipe; and one bound holds for all that share the folder."""
    monkeypatch.setenv("SR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SR_CACHE_GB", raising=False)
    if said is not None:
        monkeypatch.setenv("SR_CACHE_GB", said)
    run, bound_run = data_config("memory://set"), data_config("memory://set", cache_gb=7)
    assert open_store("memory://set", None).cache.limit_bytes == gigabytes * 1e9
    assert NodeCache.of(run, run.sources).limit_bytes == gigabytes * 1e9
    assert NodeCache.of(bound_run, bound_run.sources).limit_bytes == 7e9


@pytest.mark.parametrize("said", ["0", "-5", "much", "nan", "1e300", "20GB"])
def test_an_environment_that_says_no_size_is_refused(tmp_path, monkeypatch, said):
    monkeypatch.setenv("SR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SR_CACHE_GB", said)
    with pytest.raises(InputError, match=f"SR_CACHE_GB '{said}' is no size of a cache; give gigabytes, such as 20"):
        NodeCache.default()
    assert NodeCache.default(7).limit_bytes == 7e9
