"""Fetching where the network or the disk is in trouble: waited for, or told with what to do."""

from __future__ import annotations

import errno
import io
import os
from typing import Any

import fsspec
import pytest

from harness.data import fetching, remote
from harness.data.cache import NodeCache
from harness.data.shards import Dataset
from harness.errors import DataError, UnreachableError


class Network:
    """Stands between the cache and fsspec: raises the given errors first, each once."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0

    def __call__(self, url: str) -> Any:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return fsspec.open(url, "rb").open()


class BreaksOff(io.BytesIO):
    """Gives some bytes, and then an error instead of the rest."""

    def read(self, *_: Any) -> bytes:
        if self.tell():
            raise ConnectionResetError("reset by peer")
        return super().read()


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without waiting for them."""
    made: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", made.append)
    return made


def test_a_short_trouble_of_the_network_is_waited_for(tmp_path, monkeypatch, url, pauses_s):
    network = Network(ConnectionResetError("reset by peer"), FileNotFoundError(url), TimeoutError())
    monkeypatch.setattr(fetching, "open_url", network)
    assert NodeCache(tmp_path, 1000).fetch(url, 10, "v").read_bytes() == b"0123456789"
    assert (network.asked, pauses_s) == (4, [1.0, 5.0, 25.0])


def test_what_a_broken_connection_left_is_overwritten(tmp_path, monkeypatch, url, pauses_s):
    sources = [BreaksOff(b"another text, and a longer one"), io.BytesIO(b"0123456789")]
    monkeypatch.setattr(fetching, "open_url", lambda _: sources.pop(0))
    assert NodeCache(tmp_path, 1000).fetch(url, None, "v").read_bytes() == b"0123456789"


def test_a_lasting_trouble_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, url, pauses_s):
    monkeypatch.setattr(fetching, "open_url", Network(*[ConnectionResetError("reset by peer")] * 4))
    with pytest.raises(UnreachableError, match=r"a\.tar: cannot be fetched \(ConnectionResetError: reset by peer\)"):
        NodeCache(tmp_path, 1000).fetch(url, 10, "v")
    assert [path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("status", [404, 403, 503, 429])
def test_a_servers_plain_no_is_not_waited_for_and_a_busy_one_is(tmp_path, monkeypatch, url, pauses_s, status):
    missing = FileNotFoundError(url)  # fsspec's word for each of them
    missing.__cause__ = type("ClientResponseError", (Exception,), {"status": status})(f"{status}, said the server")
    monkeypatch.setattr(fetching, "open_url", Network(missing))
    if status in (404, 403):
        with pytest.raises(
            UnreachableError, match=rf"cannot be fetched \(ClientResponseError: {status}, said the server"
        ):
            NodeCache(tmp_path, 1000).fetch(url, 10, "v")
    else:
        assert NodeCache(tmp_path, 1000).fetch(url, 10, "v").exists()
    assert pauses_s == ([] if status in (404, 403) else [1.0])


def test_the_description_is_asked_for_again_as_shards_are(packed_npy, tmp_path, monkeypatch, pauses_s, caplog):
    memory = fsspec.filesystem("memory")
    memory.put(str(packed_npy), "/busy", recursive=True)
    monkeypatch.setattr(remote, "open_url", Network(ConnectionResetError("reset by peer"), TimeoutError()))
    try:
        assert Dataset.open("memory://busy", NodeCache(tmp_path, 10**9)).num_samples
        assert pauses_s == [1.0, 5.0]
        assert "dataset.json: ConnectionResetError: reset by peer; it is asked for again in 1 s" in caplog.text
        with pytest.raises(DataError, match=r"memory://bussy/dataset\.json: cannot be read \(FileNotFoundError"):
            Dataset.open("memory://bussy", NodeCache(tmp_path, 10**9))
        assert pauses_s == [1.0, 5.0], "a wrong name is told at once"
    finally:
        memory.rm("/busy", recursive=True)


def test_a_fetched_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, url):
    """It has its size from the start: after a power failure, zeros in it would be taken for the shard."""
    fsync, replace, events = os.fsync, os.replace, []
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *names: events.append("replace") or replace(*names))
    NodeCache(tmp_path, 1000).fetch(url, 10, "v")
    assert events == ["fsync", "replace"]


def test_a_full_disk_is_named_and_not_waited_for(tmp_path, monkeypatch, url, pauses_s):
    monkeypatch.setattr(fetching, "open_url", Network(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UnreachableError, match=rf"{tmp_path}: the cache's disk is full \(No space left on device\)"):
        NodeCache(tmp_path, 1000).fetch(url, 10, "v")
    assert pauses_s == []


def test_a_longer_file_is_the_datas_fault_and_not_waited_for(tmp_path, url, pauses_s):
    with pytest.raises(DataError, match="has 10 bytes instead of 9; upload or pack it again") as caught:
        NodeCache(tmp_path, 1000).fetch(url, 9, "v")
    assert not isinstance(caught.value, UnreachableError) and pauses_s == []


def test_a_download_that_ended_early_without_an_error_is_made_again(tmp_path, monkeypatch, url, pauses_s, caplog):
    """As over HTTP from a server that does not say how long the file is."""
    sources = [io.BytesIO(b"0123"), io.BytesIO(b""), io.BytesIO(b"0123456789")]
    monkeypatch.setattr(fetching, "open_url", lambda _: sources.pop(0))
    assert NodeCache(tmp_path, 1000).fetch(url, 10, "v").read_bytes() == b"0123456789"
    assert pauses_s == [1.0, 5.0] and "has 4 bytes instead of 10; it is asked for again in 1 s" in caplog.text


def test_a_file_that_ends_early_each_time_is_not_reached_and_so_never_replaced(tmp_path, url, pauses_s):
    with pytest.raises(UnreachableError, match=r"a\.tar: has 10 bytes instead of 11 each time; upload it again, or"):
        NodeCache(tmp_path, 1000).fetch(url, 11, "v")
    assert pauses_s == [1.0, 5.0, 25.0]
    assert [path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")] == [".lock"]


def test_an_index_that_ended_early_is_fetched_again(packed_npy, tmp_path, monkeypatch, pauses_s, caplog):
    """Its size is told nowhere, its checksum is."""
    memory = fsspec.filesystem("memory")
    memory.put(str(packed_npy), "/cut", recursive=True)
    cut = [(packed_npy / "index.parquet").read_bytes()[:1000], b""]
    whole = fetching.open_url
    monkeypatch.setattr(fetching, "open_url", lambda url: io.BytesIO(cut.pop(0)) if cut else whole(url))
    try:
        dataset = Dataset.open("memory://cut", NodeCache(tmp_path, 10**9))
        assert dataset.key(0) == Dataset.open(packed_npy).key(0)
        assert pauses_s == [1.0, 5.0]
        assert "index.parquet: EOFError: differs from its checksum; it is asked for again in 1 s" in caplog.text
    finally:
        memory.rm("/cut", recursive=True)


def test_an_index_that_was_fetched_before_its_upload_ended_is_fetched_anew(packed_npy, tmp_path, pauses_s):
    memory = fsspec.filesystem("memory")
    memory.put(str(packed_npy), "/late", recursive=True)
    try:
        memory.pipe("/late/index.parquet", b"the index of an earlier dataset")
        with pytest.raises(DataError, match=r"memory://late/index\.parquet: does not match dataset\.json"):
            Dataset.open("memory://late", NodeCache(tmp_path, 10**9))
        assert pauses_s == [1.0, 5.0, 25.0]
        memory.put(str(packed_npy / "index.parquet"), "/late/index.parquet")
        assert Dataset.open("memory://late", NodeCache(tmp_path, 10**9)).num_samples
    finally:
        memory.rm("/late", recursive=True)
