"""What is found out of the samples of a foreign WebDataset shard, left out with its reason, or refused."""

from __future__ import annotations

import io
import tarfile
import zlib

import numpy as np
import pytest
import webdataset
from PIL import Image

from harness.data.foreign_shard import split_name
from harness.data.index import index
from harness.data.inspect import inspect
from harness.data.shards import Dataset
from harness.errors import DataError


@pytest.mark.parametrize("name", ["/etc/cron.d/x.png", "../../x.png", "a/../../x.png", "a\\..\\x.png"])
def test_members_that_lead_outside_are_refused(tmp_path, name, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {"good.png": png_of(0), name: png_of(1)})
    with pytest.raises(DataError, match=r"a\.tar: member '.*' leads outside the shard"):
        index(tmp_path)
    assert not (tmp_path / "index.parquet").exists()


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match=r"member 'x\.png' is no regular file"):
        index(tmp_path)


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pth", "meta.pkl"])
def test_pickled_members_are_refused(tmp_path, extension, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {"s1.png": png_of(0), f"s1.{extension}": b"cos\nsystem\n(S'false'\ntR."})
    with pytest.raises(
        DataError, match=rf"a\.tar: sample 's1' has a pickled member '\.{extension}', which is never read"
    ):
        index(tmp_path)


def test_a_decompression_bomb_is_skipped_with_its_key(tmp_path, tar_of, png_of):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    tar_of(tmp_path / "a.tar", {"bomb.png": bomb, **{f"s{i}.png": png_of(i) for i in range(4)}})
    summary = index(tmp_path)
    assert [item.path for item in summary.skipped] == [f"{tmp_path}/a.tar: sample 'bomb'"]
    assert "decompression bomb" in summary.skipped[0].reason and summary.num_samples == 4


def test_an_array_that_is_not_as_long_as_its_header_says_is_skipped(tmp_path, make_image, tar_of, png_of):
    buffer = io.BytesIO()
    np.save(buffer, make_image(0, 20, 20))
    arrays = {"long.npy": buffer.getvalue() + bytes(48), "short.npy": buffer.getvalue()[:-1]}
    tar_of(tmp_path / "a.tar", {**arrays, **{f"s{i}.png": png_of(i) for i in (1, 2)}})
    summary = index(tmp_path)
    assert [(item.path, item.reason) for item in summary.skipped] == [
        (f"{tmp_path}/a.tar: sample '{key}'", "is not as long as its header says") for key in ("long", "short")
    ]
    assert len(Dataset.open(str(tmp_path)).offset) == 2


def test_an_array_without_pixels_is_skipped_and_the_rest_can_be_read(tmp_path, make_image, tar_of, png_of):
    buffer = io.BytesIO()
    np.save(buffer, make_image(0, 20, 20)[:0])
    tar_of(tmp_path / "a.tar", {"none.npy": buffer.getvalue(), "s.png": png_of(0)})
    summary = index(tmp_path)
    assert [(item.path, item.reason) for item in summary.skipped] == [
        (f"{tmp_path}/a.tar: sample 'none'", "has no pixels")
    ]
    assert Dataset.open(tmp_path).num_samples == 1


def test_samples_without_one_image_are_listed(tmp_path, tar_of, png_of):
    members = {f"s{i}.png": png_of(i) for i in range(4)}
    tar_of(tmp_path / "a.tar", {**members, "text.txt": b"x", "two.png": png_of(8), "two.jpg": b"x"})
    reasons = {item.path.split("'")[1]: item.reason for item in index(tmp_path).skipped}
    assert reasons == {"text": "has no image", "two": "has several images (jpg, png)"}


def test_grey_images_are_known_as_grey_and_arrays_by_what_is_said(tmp_path, tar_of):
    buffer, array = io.BytesIO(), io.BytesIO()
    Image.new("L", (20, 20), 9).save(buffer, "PNG")
    np.save(array, np.full((20, 20, 3), 9, np.uint8))
    members = {"a.png": buffer.getvalue(), "b.npy": array.getvalue(), "c.npy": array.getvalue()}
    tar_of(tmp_path / "a.tar", {**members, "c.json": b'{"grey": true}'})
    index(tmp_path)
    assert Dataset.open(tmp_path).grey.tolist() == [True, False, True]


def test_what_a_large_json_says_counts_and_one_that_is_too_large_is_listed(tmp_path, monkeypatch, tar_of, png_of):
    about = b'{"class": "hill", "outlines": [' + b"0, " * 500_000 + b"0]}"
    tar_of(tmp_path / "a.tar", {"x.png": png_of(0), "x.json": about, "y.png": png_of(1)})
    assert sorted(index(tmp_path).counts["train"]) == ["all", "hill"]
    monkeypatch.setattr("harness.data.foreign_shard._LARGEST_JSON", 1 << 20)
    assert [(item.path, item.reason) for item in index(tmp_path).skipped] == [
        (f"{tmp_path}/a.tar: sample 'x'", "its .json is larger than 1 MB")
    ]


def test_what_lies_in_no_folder_is_of_the_class_all_however_tar_names_it(tmp_path, tar_of, png_of):
    names = ["./a.png", "b.png", "./hill/c.png", "hill/d.png"]
    tar_of(tmp_path / "a.tar", {name: png_of(seed) for seed, name in enumerate(names)})
    index(tmp_path, val=0, test=0)
    dataset = Dataset.open(tmp_path)
    assert [dataset.classes[code] for code in dataset.class_code] == ["all", "all", "hill", "hill"]


def test_a_class_that_is_said_is_named_as_the_folder_of_that_name_would_be(tmp_path, tar_of, png_of):
    said = {"a.png": png_of(0), "a.json": b'{"class": "sea/cold water"}', "b.png": png_of(1), "b.cls": b"sea/warm"}
    tar_of(tmp_path / "a.tar", said)
    index(tmp_path)
    assert Dataset.open(tmp_path).classes == ["sea_cold_water", "sea_warm"]


def test_names_that_are_no_utf_8_are_indexed(tmp_path, tar_of, png_of):
    about = {"x.png": png_of(1), "x.json": rb'{"source": "\udcff"}'}
    tar_of(tmp_path / "a.tar", {"caf\udce9.png": png_of(0), **about})
    index(tmp_path, val=0, test=0)
    dataset = Dataset.open(tmp_path)
    assert dataset.keys(np.arange(2)) == [r"caf\udce9", "x"]
    assert dataset.sources(np.arange(2)) == [r"caf\udce9", r"\udcff"]
    assert inspect(str(tmp_path), verify=True).problems == []


def test_keys_are_parted_as_webdataset_parts_them():
    for name in ("a.png", "x/y.z/b.seg.png", "c.PNG", "d/e"):
        key, extension = split_name(name)
        expected = webdataset.tariterators.base_plus_ext(name)
        assert (key, extension) == ((expected[0], expected[1].lower()) if expected[0] else ("d/e", ""))
