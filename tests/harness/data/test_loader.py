"""The loader: the same global batches on any topology, exact resume, and a stated answer to bad samples."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import random
from harness.data.config import DataConfig, SourceConfig
from harness.data.loader import Batch, PatchLoader
from harness.data.reading import CropReader
from harness.data.shards import Dataset
from harness.errors import DataError, InputError, UnreachableError


def take(loader: PatchLoader, first: int, count: int) -> list[Batch]:
    batches = loader.batches(first)
    result = [Batch(b.hr_BHWC.clone(), b.position_B.clone()) for b in itertools.islice(batches, count)]
    batches.close()
    return result


def global_batches(data: DataConfig, seed: int, world_size: int, first: int = 0, count: int = 3) -> torch.Tensor:
    """The ranks' batches put together, count x 24 x H x W x 3."""
    ranks = [
        take(PatchLoader(data, data.sources, seed=seed, batch_size=24, rank=r, world_size=world_size), first, count)
        for r in range(world_size)
    ]
    for step in range(count):
        position = torch.cat([rank[step].position_B for rank in ranks])
        assert torch.equal(position, first + 24 * step + torch.arange(24))
    return torch.stack([torch.cat([rank[step].hr_BHWC for rank in ranks]) for step in range(count)])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    world_size=st.sampled_from([1, 2, 3, 4, 6, 8]),
    threads=st.integers(0, 3),
    first=st.integers(0, 10**7),
    window=st.integers(1, 300),
    crops=st.integers(1, 3),
    mixed=st.booleans(),
    fraction=st.sampled_from([1.0, 0.5]),
)
def test_global_batches_do_not_depend_on_ranks_or_threads(
    packed, data_config, seed, world_size, threads, first, window, crops, mixed, fraction
):
    sources = (
        (
            SourceConfig(path=str(packed), classes=("hill",), weight=2.0, fraction=fraction),
            SourceConfig(path=str(packed), classes=("lake", "wood"), weight=1.0),
        )
        if mixed
        else (SourceConfig(path=str(packed), fraction=fraction),)
    )
    values = {"sources": sources, "window": window, "crops_per_tile": crops}
    alone = global_batches(data_config(packed, read_threads=0, **values), seed, 1, first)
    together = global_batches(data_config(packed, read_threads=threads, **values), seed, world_size, first)
    assert torch.equal(alone, together)


def test_each_sample_is_read_once_per_epoch(packed, data_config):
    data = data_config(packed)
    loader = PatchLoader(data, data.sources, seed=3, batch_size=8)
    keys = loader.samples.keys(np.arange(2 * loader.num_samples))
    assert sorted(keys[: loader.num_samples]) == sorted(set(keys)) == sorted(keys[loader.num_samples :])
    assert keys[: loader.num_samples] != keys[loader.num_samples :]


def test_patches_are_crops_of_the_samples_that_keys_names(packed, data_config):
    data = data_config(packed)
    loader = PatchLoader(data, data.sources, seed=5, batch_size=16)
    dataset = Dataset.open(packed)
    by_key = {dataset.key(i): i for i in range(dataset.num_samples)}
    batch = take(loader, 160, 1)[0]
    stream = random.key(5, "crop")
    for patch, position, key in zip(batch.hr_BHWC, batch.position_B, loader.samples.keys(batch.position_B.numpy())):
        tile = dataset.read(by_key[key])
        here = np.array([int(position)])
        top = int(random.integers(stream, here, tile.shape[0] - 24 + 1, draw=0)[0])
        left = int(random.integers(stream, here, tile.shape[1] - 24 + 1, draw=1)[0])
        assert np.array_equal(patch.numpy(), tile[top : top + 24, left : left + 24])


def test_resumed_stream_continues_the_uninterrupted_one(packed, data_config):
    data = data_config(packed, read_threads=2)
    through = take(PatchLoader(data, data.sources, seed=1, batch_size=12), 0, 12)
    resumed = take(PatchLoader(data, data.sources, seed=1, batch_size=12), 7 * 12, 5)
    for a, b in zip(through[7:], resumed):
        assert torch.equal(a.hr_BHWC, b.hr_BHWC) and torch.equal(a.position_B, b.position_B)


def test_resuming_at_step_one_million_reads_only_what_it_gives(packed_npy, data_config, monkeypatch):
    """No earlier sample is read again to get there; the time is measured by the benchmark."""
    data = data_config(packed_npy, read_threads=0)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=16)
    asked = []
    locate = loader.samples.at
    monkeypatch.setattr(loader.samples, "at", lambda position: asked.append(len(position)) or locate(position))
    batches = loader.batches(1_000_000 * 16)
    assert next(batches).position_B.tolist() == list(range(16_000_000, 16_000_016))
    assert sum(asked) == 16
    batches.close()


def test_a_batch_that_is_kept_is_not_overwritten(packed_npy, data_config):
    data = data_config(packed_npy, read_threads=1)
    batches = PatchLoader(data, data.sources, seed=0, batch_size=4).batches(0)
    kept = [next(batches) for _ in range(40)]
    copies = take(PatchLoader(data, data.sources, seed=0, batch_size=4), 0, 40)
    assert all(torch.equal(a.hr_BHWC, b.hr_BHWC) for a, b in zip(kept, copies))
    batches.close()


def test_crops_per_tile_decodes_each_tile_once(packed, data_config, monkeypatch):
    data = data_config(packed, crops_per_tile=4)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    if loader.samples.datasets[0].header.any():
        pytest.skip("raw tiles are not decoded")
    decoded: list[int] = []
    read = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, index: decoded.append(index) or read(self, index))
    take(loader, 0, loader.num_samples * 4 // 8)
    assert len(decoded) <= loader.num_samples + 1
    assert len(set(decoded)) == len(decoded)


def test_a_tile_is_let_go_after_its_last_crop(packed):
    dataset, out_HX = Dataset.open(packed), np.empty((8, 24), np.uint8)
    reader = CropReader(dataset, visits=3)
    for visit in range(3):
        reader.read(0, 0, 0, out_HX)
        assert len(reader._kept) == int(visit < 2 and not dataset.header[0])
    assert reader._kept_bytes == 0


def test_ranks_that_do_not_divide_the_batch_are_refused(packed_npy, data_config):
    data = data_config(packed_npy)
    with pytest.raises(InputError, match=r"batch_size 10 cannot be divided among 4 ranks; give a multiple of 4"):
        PatchLoader(data, data.sources, seed=0, batch_size=10, rank=0, world_size=4)


@pytest.fixture
def broken(packed_npy: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of a dataset with one byte of one training sample flipped, and that sample's key."""
    folder = tmp_path / "broken"
    shutil.copytree(packed_npy, folder)
    dataset = Dataset.open(folder)
    index = int(dataset.select("train")[3])
    path = folder / dataset.shards[dataset.shard_code[index]]
    content = bytearray(path.read_bytes())
    content[int(dataset.offset[index]) + 1000] ^= 4
    path.write_bytes(bytes(content))
    return folder, dataset.key(index)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_sample_stops_training_with_its_shard_and_key(broken, data_config, threads):
    folder, key = broken
    data = data_config(folder, read_threads=threads)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    with pytest.raises(DataError, match=f"train-000000.tar: sample '{key}' differs from its checksum"):
        take(loader, 0, loader.num_samples // 8 + 1)


@pytest.mark.parametrize("trouble", ["gone", "other size", "shorter", "EIO", "no rights"])
def test_no_sample_is_replaced_on_account_of_its_shard(packed_npy, tmp_path, data_config, monkeypatch, trouble):
    """The disk would decide what is trained on; of another pack under the same name, all but what is open is new."""
    shutil.copytree(packed_npy, tmp_path / "set")
    data = data_config(tmp_path / "set", on_bad_sample="replace")
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    path = tmp_path / "set" / "train-000000.tar"

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    if trouble == "gone":
        path.unlink()
    elif trouble == "other size":
        path.write_bytes(path.read_bytes() + bytes(512))
    elif trouble == "shorter":
        loader.samples.datasets[0].shard_file(loader.samples.datasets[0].shards.index(path.name))
        os.truncate(path, 1000)
    elif trouble == "EIO":
        monkeypatch.setattr(os, "pread", fail)
    else:
        monkeypatch.setattr(os, "open", fail)
    with pytest.raises(UnreachableError, match=r"train-000000\.tar"):
        next(loader.batches(0))
    assert loader.replaced == 0


def test_a_bad_sample_is_replaced_by_the_same_substitute_everywhere(broken, data_config, caplog):
    folder, key = broken
    data = data_config(folder, on_bad_sample="replace")
    count = 24 * (PatchLoader(data, data.sources, seed=0, batch_size=24).num_samples // 24 + 1)
    with caplog.at_level(logging.WARNING):
        loader = PatchLoader(data, data.sources, seed=0, batch_size=24)
        alone = take(loader, 0, count // 24)
    assert loader.replaced == loader.samples.keys(np.arange(count)).count(key) > 0
    assert caplog.text.count(key) == 1 and "replaced by another sample" in caplog.text
    ranks = [PatchLoader(data, data.sources, seed=0, batch_size=24, rank=r, world_size=3) for r in range(3)]
    parts = [take(rank, 0, count // 24) for rank in ranks]
    for step, batch in enumerate(alone):
        assert torch.equal(batch.hr_BHWC, torch.cat([part[step].hr_BHWC for part in parts]))
    assert sum(rank.replaced for rank in ranks) == loader.replaced
    dataset = Dataset.open(folder)
    bad = next(i for i in range(dataset.num_samples) if dataset.key(i) == key)
    tiles = [dataset.read(i) for i in dataset.select("train") if i != bad]
    place = loader.samples.keys(np.arange(count)).index(key)
    patch = alone[place // 24].hr_BHWC[place % 24].numpy()
    windows = (np.lib.stride_tricks.sliding_window_view(tile, patch.shape)[:, :, 0] for tile in tiles)
    assert any((window == patch).all(axis=(2, 3, 4)).any() for window in windows)


def test_substitutes_are_drawn_anew_from_seed_and_position_until_one_is_sound(packed_npy, data_config, monkeypatch):
    data = data_config(packed_npy, on_bad_sample="replace")
    tried: list[tuple[int, int, int]] = []

    def fail(self: CropReader, index: int, top: int, left: int, out_HX: np.ndarray) -> None:
        tried.append((int(index), top, left))
        raise DataError("damaged")

    monkeypatch.setattr(CropReader, "read", fail)
    found = []
    for seed in (0, 1, 0):
        loader = PatchLoader(data, data.sources, seed=seed, batch_size=8)
        with pytest.raises(DataError, match="64 substitutes for one bad sample were bad too; the first was: damaged"):
            take(loader, 0, 1)
        (_, *place), *substitutes = tried
        assert all(rest == place for _, *rest in substitutes), "tiles of one size are cropped at the position's place"
        found.append([index for index, *_ in substitutes])
        tried.clear()
        assert len(set(found[-1])) > loader.num_samples // 2 and any(place)
    assert found[0] == found[2] != found[1]


def test_a_bad_sample_is_logged_once_and_counted_each_time(packed_npy, data_config, monkeypatch, caplog):
    data = data_config(packed_npy, on_bad_sample="replace")
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    read, bad = CropReader.read, int(loader.samples.selected[0][3])

    def fail(self: CropReader, index: int, *rest: object) -> None:
        if index == bad:
            raise DataError("damaged.")
        read(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(CropReader, "read", fail)
    take(loader, 0, 3 * loader.num_samples // 8 + 1)
    assert loader.replaced >= 3 and caplog.text.count("damaged. It is replaced by another sample.") == 1


def test_a_patch_may_be_as_large_as_its_tile(packed_npy, data_config):
    data = data_config(packed_npy, patch_px=40)
    patch = take(PatchLoader(data, data.sources, seed=0, batch_size=1), 0, 1)[0].hr_BHWC[0].numpy()
    dataset = Dataset.open(packed_npy)
    assert any(np.array_equal(dataset.read(index), patch) for index in dataset.select("train"))


def test_closing_stops_the_threads(packed_npy, data_config):
    import threading

    data = data_config(packed_npy, read_threads=2)
    loader = PatchLoader(data, data.sources, seed=0, batch_size=8)
    batches = loader.batches(0)
    next(batches)
    assert any(t.name.startswith("read-") for t in threading.enumerate())
    batches.close()
    assert not any(t.name.startswith("read-") for t in threading.enumerate())
