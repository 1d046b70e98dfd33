"""Which files a pack or a degradation finds, in folders as people have them."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.folders import degrade_folder
from harness.data.pack import pack
from harness.data.packing.layout import Options, plan_shards
from harness.data.packing.survey import SourceImage, class_name_of, files_below
from harness.data.shards import Dataset
from harness.data.sidecar import MOST_CLASSES, Sample, table_of
from harness.errors import DataError, InputError, UnreachableError


@pytest.fixture
def folder(tmp_path: Path, make_image) -> Path:
    """Three class folders with an image each."""
    for seed, name in enumerate("abc"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(make_image(seed, 40, 40)).save(tmp_path / "in" / name / f"{name}.png")
    return tmp_path / "in"


def test_folders_that_link_to_each_other_are_walked_once_on_each_way(folder):
    for name in "abc":
        for other in set("abc") - {name}:
            (folder / name / f"to_{other}").symlink_to(f"../{other}")
    ways = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    below_a = ["a/a.png", "a/to_b/b.png", "a/to_b/to_c/c.png", "a/to_c/c.png", "a/to_c/to_b/b.png"]
    assert [way for way in ways if way.startswith("a/")] == below_a
    assert len(ways) == 15


def test_a_folder_that_cannot_be_listed_is_refused_and_not_left_out(folder, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == folder / "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"in/b: cannot be listed \(Permission denied\); mend its rights"):
        pack([folder], tmp_path / "out", tile_px=32, workers=1)
    with pytest.raises(InputError, match=r"in/b: cannot be listed"):
        degrade_folder(folder, tmp_path / "lr", scale=2)
    assert not (tmp_path / "out").exists() and not (tmp_path / "lr").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_image_that_a_failing_disk_does_not_give_is_not_left_out(folder, tmp_path, monkeypatch, number):
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "b.png":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(UnreachableError, match=r"b/b\.png: cannot be read \(.*\); try again once the disk"):
        pack([folder], tmp_path / "out", tile_px=32, workers=1)
    assert not (tmp_path / "out").exists()


def test_an_image_that_changes_while_it_is_packed_is_refused_and_packed_anew(folder, tmp_path, make_image, monkeypatch):
    def after_a_change(*arguments: Any) -> Any:
        Image.fromarray(make_image(9, 40, 40)).save(folder / "b" / "b.png")
        return plan_shards(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("harness.data.pack.plan_shards", after_a_change)
        with pytest.raises(DataError, match=r"b/b\.png: was changed while the images were packed; pack them again"):
            pack([folder], tmp_path / "out", tile_px=0, workers=1)
    pack([folder], tmp_path / "out", tile_px=0, workers=1)
    dataset = Dataset.open(tmp_path / "out")
    (changed,) = dataset.select("train", ["b"])
    assert np.array_equal(dataset.read(changed), make_image(9, 40, 40))


def test_a_pipe_among_the_images_is_listed_and_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "a" / "pipe.png")
    summary = pack([folder], tmp_path / "out", tile_px=32, workers=1)
    assert [(Path(item.path).name, item.reason) for item in summary.skipped] == [("pipe.png", "is no regular file")]


def test_a_class_keeps_as_much_of_its_folders_name_as_a_tar_has_room_for():
    assert class_name_of("Haus & Garten, 2/3") == "Haus_Garten_2_3" and class_name_of("e\u0301") == "é"
    assert class_name_of("n" * 41) == "n" * 40 and class_name_of("n" + "é" * 20) == "n" + "é" * 19


def test_images_whose_names_are_no_utf_8_are_packed(folder, tmp_path):
    os.rename(folder / "a" / "a.png", os.fsencode(folder / "a") + b"/caf\xe9.png")
    os.rename(folder / "b", os.fsencode(folder) + b"/\xff")
    summary = pack([folder], tmp_path / "out", tile_px=40, workers=1)
    dataset = Dataset.open(summary.path)
    assert sorted(dataset.sources(np.arange(3))) == [r"in/\udcff/b.png", r"in/a/caf\udce9.png", "in/c/c.png"]
    assert dataset.classes == ["_", "a", "c"]


def test_images_of_one_name_from_two_sources_count_as_two(tmp_path, make_image):
    sources = [tmp_path / "summer" / "HR", tmp_path / "winter" / "HR"]
    for seed, source in enumerate(sources):
        source.mkdir(parents=True)
        Image.fromarray(make_image(seed, 40, 80)).save(source / "0001.png")
    summary = pack(sources, tmp_path / "out", tile_px=40, workers=1)
    assert (summary.num_images, summary.num_samples) == (2, 4)
    assert summary.counts == {"train": {"HR": {"images": 2, "samples": 4}}}
    assert len(set(Dataset.open(tmp_path / "out").keys(np.arange(4)))) == 4


def test_more_classes_than_an_index_can_tell_apart_are_refused_before_anything_is_packed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.sidecar.MOST_CLASSES", 2)
    with pytest.raises(DataError, match=r"3 classes are more than the 2 that .* \(the first: 'a'\); put the images"):
        pack([folder], tmp_path / "out", tile_px=32, workers=1)
    assert not (tmp_path / "out").exists()


def test_the_most_classes_that_are_allowed_fit_the_index():
    sample = Sample("k", "", "train", "s", 0, "a.tar", "npy", 0, 1, 0, 1, 1, 0, False)
    table = table_of([dataclasses.replace(sample, class_name=str(number)) for number in range(MOST_CLASSES)])
    assert table.num_rows == len(table["class"].unique()) == MOST_CLASSES


def test_no_shard_is_planned_larger_than_asked_for_unless_one_image_is():
    edges = [100, 400, 700, 300] * 5
    found = [SourceImage("", "sea", "", f"{n:032x}", edge, edge, grey=False) for n, edge in enumerate(edges)]
    shards = [
        [image for group in groups for image in group.images]
        for _, groups in plan_shards(found, Options(tile_px=0, shard_mb=1))
    ]
    assert [image for shard in shards for image in shard] == found
    assert all(len(shard) == 1 or sum(i.height * i.width * 3 for i in shard) <= 1 << 20 for shard in shards)
