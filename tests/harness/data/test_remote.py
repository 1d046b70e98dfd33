"""Remote datasets: fetched once per node, bounded, never half, over a real HTTP server and `memory://`."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import fetching
from harness.data.cache import NodeCache
from harness.data.inspect import inspect
from harness.data.loader import PatchLoader
from harness.data.pack import pack
from harness.data.remote import RemoteStore
from harness.data.shards import Dataset
from harness.errors import DataError, UnreachableError


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with Range; counts the bytes of each file that it sent, and can break off in the middle."""

    sent: Counter[str]
    break_after: dict[str, int]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(last, int(asked[2] or last))
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        part = part[: self.break_after.get(path.name, len(part))]
        self.wfile.write(part)
        self.sent[path.name] += len(part)
        self.close_connection = path.name in self.break_after

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory: pytest.TempPathFactory, make_image) -> Path:
    """A dataset of several shards of about 1 MB."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "in").mkdir()
    for number in range(14):
        Image.fromarray(make_image(number, 400, 500)).save(folder / "in" / f"{number}.png")
    pack([folder / "in"], folder / "set", tile_px=100, workers=1, shard_mb=1)
    return folder / "set"


@pytest.fixture
def server(shard_folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path, type[RangeHandler]]]:
    """(URL, served folder, the handler's class) of an HTTP server on loopback."""
    served = tmp_path / "served"
    shutil.copytree(shard_folder, served)
    handler = type("Handler", (RangeHandler,), {"sent": Counter(), "break_after": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(served))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", served, handler
        httpd.shutdown()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.data.fetching._PAUSES_S", ())
    return tmp_path / "cache"


def some_batches(path: str | Path, data_config, count: int = 20, **values: object) -> torch.Tensor:
    data = data_config(path, window=24, **values)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    batches = loader.batches(0)
    result = torch.stack([next(batches).hr_BHWC.clone() for _ in range(count)])
    batches.close()
    loader.close()
    return result


@pytest.mark.parametrize("threads", [0, 2])
def test_http_gives_the_batches_of_the_local_copy(server, shard_folder, data_config, threads):
    url, _, _ = server
    expected = some_batches(shard_folder, data_config)
    assert torch.equal(some_batches(url, data_config, read_threads=threads), expected)


def test_memory_urls_are_read_too(shard_folder, data_config):
    memory = fsspec.filesystem("memory")
    memory.put(str(shard_folder), "/some/set", recursive=True)
    try:
        assert torch.equal(some_batches("memory://some/set", data_config), some_batches(shard_folder, data_config))
        assert inspect("memory://some/set/", verify=True).problems == []
    finally:
        memory.rm("/some", recursive=True)


def test_each_shard_is_fetched_once(server, data_config):
    url, served, handler = server
    for _ in range(2):
        some_batches(url, data_config, count=60)
    shards = {path.name: path.stat().st_size for path in served.glob("train*.tar")}
    assert {name: handler.sent[name] for name in shards} == shards
    assert handler.sent["index.parquet"] == (served / "index.parquet").stat().st_size


def test_no_byte_of_a_large_shard_is_sent_twice(server, tmp_path):
    url, served, handler = server
    (served / "large.tar").write_bytes(bytes(2 * fetching._CHUNK_BYTES))
    with (tmp_path / "large.tar").open("wb") as target:
        fetching.fetch_into(f"{url}/large.tar", target, 2 * fetching._CHUNK_BYTES)
    assert handler.sent["large.tar"] == 2 * fetching._CHUNK_BYTES


def test_processes_of_a_node_fetch_a_shard_once(server, cache_folder):
    url, served, handler = server
    script = (
        "import sys\nfrom harness.data.shards import Dataset\n"
        "d = Dataset.open(sys.argv[1])\n[d.read(int(i)) for i in d.select('train')]\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, url], env=os.environ.copy()) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    for path in served.glob("train*.tar"):
        assert handler.sent[path.name] == path.stat().st_size


def test_the_cache_keeps_to_its_bound(server, data_config, cache_folder):
    url, served, _ = server
    largest = max(path.stat().st_size for path in served.glob("*.tar"))
    bound = int(6.5 * largest)
    assert sum(p.stat().st_size for p in served.glob("*.tar")) > 1.5 * bound
    highest = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            names = [p for p in cache_folder.glob("*") if not p.name.endswith(".lock")]
            total = 0
            for path in names:
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    continue
            highest = max(highest, total)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        batches = some_batches(url, data_config, count=80, cache_gb=bound / 1e9)
    finally:
        done.set()
        watcher.join()
    assert torch.equal(batches, some_batches(served, data_config, count=80))
    assert largest < highest <= bound + 20_000  # the small sidecar has no stated size


def test_a_cache_too_small_for_a_shard_says_so(server, data_config):
    url, _, _ = server
    with pytest.raises(DataError, match=r"exceed the cache of 100000; raise data.cache_gb"):
        some_batches(url, data_config, cache_gb=1e-4)


def test_open_shards_are_not_evicted(server, cache_folder, tmp_path, read_crop):
    url, served, _ = server
    sizes = sorted(path.stat().st_size for path in served.glob("train*.tar"))
    dataset, other = (Dataset.open(url, NodeCache(cache_folder, sizes[-1] + 200_000)) for _ in range(2))
    first = int(dataset.select("train")[0])
    expected = other.read(first)
    last = int(dataset.select("train")[-1])
    with pytest.raises(DataError, match="the shards in use fill the cache"):
        dataset.read(last)
    other.close()
    dataset.read(last)
    assert np.array_equal(read_crop(dataset, last, 0, 0, 10, 10), dataset.read(last)[:10, :10])
    dataset.close()
    assert np.array_equal(dataset.read(first), expected)


def test_a_dataset_larger_than_the_cache_is_read_through(server, cache_folder):
    url, served, _ = server
    sizes = [path.stat().st_size for path in served.glob("*.tar")]
    bound = 3 * max(sizes)
    assert sum(sizes) > 2 * bound
    assert inspect(url, verify=True, cache=NodeCache(cache_folder, bound)).problems == []


def test_shards_that_were_announced_do_not_make_room(server, cache_folder):
    """Of a window that does not fit, each would be fetched again and again."""
    url, served, _ = server
    dataset = Dataset.open(url, NodeCache(cache_folder, max(p.stat().st_size for p in served.glob("*.tar")) + 200_000))
    first, last = dataset.select("train")[[0, -1]]
    dataset.announce(dataset.shard_code[[first, last]], np.zeros(0, np.int64))
    with pytest.raises(DataError, match="the shards in use fill the cache"):
        [dataset.read(int(index)) for index in (first, last, first)]


def test_verify_ends_where_a_shard_cannot_be_reached(server):
    """It is no fault of its samples, each of which would wait for the network as long again."""
    url, served, _ = server
    next(served.glob("train*.tar")).unlink()
    with pytest.raises(UnreachableError, match="cannot be fetched"):
        inspect(url, verify=True)


@pytest.mark.parametrize("after", [0, 1000, 300_000])
def test_a_half_fetched_shard_is_never_used(server, cache_folder, after):
    url, _, handler = server
    dataset = Dataset.open(url)
    index = int(dataset.select("train")[0])
    shard = dataset.shards[dataset.shard_code[index]]
    handler.break_after[shard] = after
    with pytest.raises(DataError, match=re.escape(f"{url}/{shard}")):
        dataset.read(index)
    assert not list(cache_folder.glob(f"*{shard}"))
    handler.break_after.clear()
    assert dataset.read(index).shape == (100, 100, 3)


def test_a_fetch_that_was_killed_is_done_again(server, cache_folder):
    url, served, _ = server
    dataset = Dataset.open(url)
    index = int(dataset.select("train")[0])
    shard = dataset.shards[dataset.shard_code[index]]
    path = dataset.store.cache.path_of(f"{url}/{shard}", dataset.fingerprint)
    path.with_name(path.name + ".part").write_bytes(b"half")
    assert np.array_equal(dataset.read(index), Dataset.open(served).read(index))


def test_a_remote_shard_of_another_size_or_absent_is_named(server):
    url, served, _ = server
    dataset = Dataset.open(url)
    index = int(dataset.select("train")[0])
    shard = served / dataset.shards[dataset.shard_code[index]]
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match=rf"{shard.name}: has \d+ bytes instead of \d+"):
        dataset.read(index)
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: cannot be fetched"):
        dataset.read(index)
    with pytest.raises(DataError, match=r"nowhere/dataset.json: cannot be read"):
        Dataset.open(f"{url}/nowhere")


def test_a_repacked_dataset_under_the_same_url_is_fetched_anew(server, tmp_path, make_image):
    url, served, _ = server
    before = Dataset.open(url)
    before.read(0)
    (tmp_path / "new").mkdir()
    for number in range(4):
        Image.fromarray(make_image(100 + number, 400, 500)).save(tmp_path / "new" / f"{number}.png")
    shutil.rmtree(served)
    pack([tmp_path / "new"], served, tile_px=100, workers=1, shard_mb=1)
    after, local = Dataset.open(url), Dataset.open(served)
    assert after.fingerprint == local.fingerprint != before.fingerprint
    for index in range(after.num_samples):
        assert np.array_equal(after.read(index), local.read(index))


def test_shards_are_fetched_ahead_of_the_window(server, data_config):
    url, served, handler = server
    data = data_config(url, window=32)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=4)
    batches = loader.batches(0)
    next(batches)
    dataset = loader.samples.datasets[0]
    all_keys = dataset.keys(np.arange(dataset.num_samples))
    order = []
    for key in loader.samples.keys(np.arange(64)):
        order.append(all_keys.index(key))
    wanted = {dataset.shards[dataset.shard_code[index]] for index in order}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not all(handler.sent[name] for name in wanted):
        time.sleep(0.01)
    assert all(handler.sent[name] == (served / name).stat().st_size for name in wanted)
    batches.close()


def test_a_shard_that_left_the_cache_is_fetched_ahead_again():
    class Cache:
        fetched = 0

        def fetch(self, url: str, size: int | None, version: str) -> None:
            self.fetched += 1

    cache = Cache()
    store = RemoteStore("memory://set", cache)
    deadline = time.monotonic() + 10
    while cache.fetched < 2 and time.monotonic() < deadline:
        store.prefetch([("a.tar", 10)])
        time.sleep(0.001)
    assert cache.fetched >= 2


def test_a_shard_that_is_evicted_while_it_is_opened_is_fetched_again(tmp_path, monkeypatch):
    """An open file without a name would take room that nobody counts."""

    class Cache:
        fetched = 0

        def fetch(self, url: str, size: int | None, version: str) -> Path:
            self.fetched += 1
            (tmp_path / "a.tar").write_bytes(bytes(10))
            return tmp_path / "a.tar"

    cache = Cache()
    monkeypatch.setattr("fcntl.flock", lambda fd, how: (tmp_path / "a.tar").unlink() if cache.fetched == 1 else None)
    assert RemoteStore("memory://set", cache).open_shard("a.tar", 10).path.exists()
    assert cache.fetched == 2


def test_shards_that_are_read_next_are_told_from_those_that_are_read_now(shard_folder, data_config, monkeypatch):
    """Only the latter must stay in the cache."""
    told = []
    monkeypatch.setattr(Dataset, "announce", lambda self, now, then: told.append((now.tolist(), then.tolist())))
    data = data_config(shard_folder, window=40)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=4)
    loader._announce(0)
    shards = loader.samples.datasets[0].shard_code[loader.samples.at(np.arange(80))[1]].tolist()
    [(now, then)] = told
    assert set(now) == set(shards[:40]) and set(then) == set(shards[40:]) - set(now) and then
