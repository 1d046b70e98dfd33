"""The samples of a mixture of datasets: which are selected, and which is read where."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from harness.data.config import SourceConfig
from harness.data.pack import pack
from harness.data.samples import Samples
from harness.data.shards import Dataset
from harness.errors import DataError


def test_a_mixture_honours_weights_and_class_filters(packed_npy, data_config):
    sources = tuple(
        SourceConfig(path=str(packed_npy), classes=(name,), weight=weight)
        for name, weight in (("hill", 5.0), ("lake", 2.0), ("wood", 1.0))
    )
    data = data_config(packed_npy, sources=sources)
    keys = Samples(data, data.sources, seed=0).keys(np.arange(4096))
    share = {name: sum(key.startswith(name) for key in keys) for name in ("hill", "lake", "wood")}
    assert share == {"hill": 2560, "lake": 1024, "wood": 512}


def test_sources_of_a_mixture_have_orders_of_their_own(packed_npy, data_config):
    sources = (SourceConfig(path=str(packed_npy), weight=1.0),) * 2
    data = data_config(packed_npy, sources=sources, window=16)
    samples = Samples(data, data.sources, seed=0)
    source, sample = samples.at(np.arange(4096))
    orders = [sample[source == number][: samples.num_samples // 2].tolist() for number in (0, 1)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_another_selection_has_another_fingerprint(packed_npy, data_config):
    selections: list[dict] = [{}, {"classes": ("hill",)}, {"fraction": 0.5}, {"split": "val"}, {"weight": 2.0}]
    configs = [data_config(packed_npy, **selection) for selection in selections]
    prints = [Samples(data, data.sources, seed=0).fingerprint for data in configs]
    assert len(set(prints)) == len(selections)


def test_sources_without_weights_are_pooled_and_read_once_per_epoch(packed_npy, data_config):
    sources = tuple(SourceConfig(path=str(packed_npy), classes=(name,)) for name in ("wood", "hill"))
    data = data_config(packed_npy, sources=sources)
    samples = Samples(data, data.sources, seed=0)
    dataset = Dataset.open(packed_npy)
    expected = sorted(dataset.key(i) for i in dataset.select("train", ["hill", "wood"]))
    assert sorted(samples.keys(np.arange(samples.num_samples))) == expected


def test_the_order_depends_on_the_content_and_not_on_the_folder(packed_npy, data_config, tmp_path):
    shutil.copytree(packed_npy, tmp_path / "moved")
    here, there = data_config(packed_npy), data_config(tmp_path / "moved")
    a = Samples(here, here.sources, seed=0)
    b = Samples(there, there.sources, seed=0)
    assert a.fingerprint == b.fingerprint and a.keys(np.arange(50)) == b.keys(np.arange(50))


def test_samples_smaller_than_the_patch_are_refused_with_count_and_key(packed_npy, data_config):
    data = data_config(packed_npy, patch_px=41)
    with pytest.raises(DataError, match=r"samples are smaller than the patch of 41 px \(the first: '.*', 40 x 40 px\)"):
        Samples(data, data.sources, seed=0)


def test_samples_narrower_than_the_patch_are_refused_too(tmp_path, make_image, data_config):
    (tmp_path / "in").mkdir()
    for number in range(2):
        Image.fromarray(make_image(number, 40, 20)).save(tmp_path / "in" / f"{number}.png")
    pack([tmp_path / "in"], tmp_path / "set", tile_px=0, val=0, test=0, workers=1)
    data = data_config(tmp_path / "set", patch_px=24)
    with pytest.raises(DataError, match=r"2 samples are smaller than the patch of 24 px .*, 20 x 40 px"):
        Samples(data, data.sources, seed=0)


def test_sizes_of_a_mixture_are_those_of_the_samples(image_folder, tmp_path, data_config):
    pack([image_folder], tmp_path / "set", tile_px=0, workers=1)
    sources = tuple(SourceConfig(path=str(tmp_path / "set"), classes=(name,), weight=1.0) for name in ("wood", "hill"))
    samples = Samples(data_config(tmp_path / "set", sources=sources), sources, seed=0)
    source_B, sample_B = samples.at(np.arange(32))
    read = [samples.datasets[0].read(index).shape[:2] for index in sample_B]
    assert list(zip(*samples.sizes(source_B, sample_B))) == read


def test_a_dataset_that_several_sources_name_is_opened_once(packed_npy, data_config, monkeypatch):
    opened, opening = [], Dataset.open
    monkeypatch.setattr(Dataset, "open", lambda path, cache=None: opened.append(path) or opening(path, cache))
    sources = tuple(SourceConfig(path=str(packed_npy), classes=(name,)) for name in ("wood", "hill"))
    Samples(data_config(packed_npy, sources=sources), sources, seed=0)
    assert opened == [str(packed_npy)]


class LaterSource(SourceConfig):
    """As a version to come may have it."""

    added: int = 0


def test_a_key_that_a_later_version_adds_leaves_the_order_as_it_was(packed_npy, data_config):
    """The fingerprint seeds the order and is compared on resuming, so it has to be the same in any version."""
    data = data_config(packed_npy, classes=("hill",))
    now = Samples(data, data.sources, seed=0)
    asked = {"split": "train", "classes": ["hill"], "fraction": 1.0, "fraction_seed": 0, "weight": None}
    text = json.dumps([[Dataset.open(str(packed_npy), None).fingerprint, asked]])
    assert now.fingerprint == hashlib.sha256(text.encode()).hexdigest()

    later = [LaterSource(**data.sources[0].model_dump(), added=added) for added in (0, 1)]
    prints = [Samples(data, (source,), seed=0).fingerprint for source in later]
    assert prints[0] == now.fingerprint != prints[1]
